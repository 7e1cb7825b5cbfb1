"""The model card of a study: its headline numbers, each beside its null, interval and counts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from reseed.report.html import beside, interval, mean_and_range, percent, span
from reseed.spec.statistics import Number
from reseed.spec.summary import StudyGroup, Summary

_NOT_PLAIN = re.compile(r"([\\`*_{}\[\]<>|#])")


def card(summary: Summary, saes: Mapping[str, str], layout: str, repo: str) -> str:
    """README.md of a repository with a study.

    Args:
        summary: of the study.
        saes: run to its folder in the repository.
        layout: format of the SAEs.
        repo: owner and name.
    """
    subject = summary.subject
    model = subject.get("model")
    on_hub = isinstance(model, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", model)
    front = ["---", "library_name: reseed", "tags:"]
    front += [f"- {tag}" for tag in ("sparse-autoencoder", "interpretability", "reseed", layout)]
    front += [f"base_model: {model}"] if on_hub else []
    names = ", ".join(plain(name) for name in summary.activations.sites)
    first = next(iter(saes.values()), "")
    parts = [
        *front,
        "---",
        "",
        f"# {plain(summary.study)}: sparse autoencoders of several seeds",
        "",
        f"Subject: {plain(str(model or subject.get('kind')))}, read at {names}. Each run saw "
        f"{summary.training.tokens:,} tokens; numbers below are on text or rows that no run was "
        "trained on.",
        "",
        "## What comes back",
        "",
        *_table(list(filter(None, map(_shares, summary.groups)))),
        "",
        "*shared*: the same counterpart in another run by encoder and decoder rows, both cosines "
        "at least tau (arXiv 2501.16615), with a 95% interval over runs. *Chance*: random "
        "dictionaries of the same covariance, range over draws. *Untrained*: a pair before its "
        "first step. *At FDR 5%*: a match that stands out from chance, at a false discovery rate "
        "of 5%.",
        "",
        "## What was trained",
        "",
        *_table([_trained(group) for group in summary.groups]),
        "",
        "## Files",
        "",
        f"SAEs in the layout of {layout}, one folder a run; `latents.parquet` has a row for each "
        "latent of each run (how often it came back, with intervals); `report.html` works offline.",
        "",
        *_table(_runs(summary.groups, saes)),
        "",
        "```python",
        "import reseed",
        "",
        f'sae = reseed.load("hf:{repo}/{first}")',
        "```",
        "",
        f"Made by reseed {plain(summary.reseed)}. Numbers in full: `summary.json`.",
        "",
    ]
    return "\n".join(parts)


def plain(text: str) -> str:
    """Text in one line that Markdown shows as it is."""
    return _NOT_PLAIN.sub(r"\\\1", " ".join(text.split()))


def _shares(group: StudyGroup) -> dict[str, str] | None:
    if group.headline is None:
        return None
    shared, fdr = group.headline.shared["all"], group.headline.match_at_fdr["all"]
    return {
        "SAE": plain(group.label),
        f"shared at tau {group.headline.tau:g}": beside(shared.value, shared.interval_95),
        "chance": _chance(shared),
        "untrained": percent(shared.null_untrained),
        "at FDR 5%": beside(fdr.value, fdr.interval_95),
        "chance of that": _chance(fdr),
        "runs": f"{group.counts.runs:,}",
        "pairs": f"{group.counts.pairs:,}",
        "latents of a run": f"{group.counts.latents:,}",
    }


def _chance(share: Number) -> str:
    null = share.null_covariance
    if null is None:
        return percent(None)
    return f"{percent(null.mean)} ({interval((null.lo, null.hi))})"


def _trained(group: StudyGroup) -> dict[str, str]:
    fit = group.reconstruction
    return {
        "SAE": plain(group.label),
        "FVU, held out": mean_and_range(fit.fvu),
        "robust FVU": mean_and_range(fit.fvu_robust),
        "L0": mean_and_range(fit.l0),
        "dead latents": span(group.counts.dead),
        "live latents": span(group.counts.live),
        "held-out tokens": f"{fit.held_out_tokens:,}",
    }


def _runs(groups: Sequence[StudyGroup], saes: Mapping[str, str]) -> list[dict[str, str]]:
    return [
        {"SAE": plain(group.label), "folder": f"`{saes[run]}`"}
        for group in groups
        for run in group.runs
        if run in saes
    ]


def _table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    if not rows:
        return ["One run of each kind: nothing to compare."]
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return lines + ["| " + " | ".join(row.get(name, "") for name in names) + " |" for row in rows]
