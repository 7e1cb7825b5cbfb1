"""The report of a study as one HTML file that works offline. Reads the store, computes nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from reseed.matching.measures import MATCH_AT_FDR, SHARED
from reseed.report.factors import factors_section
from reseed.report.facts import read_cells, read_failures, read_group, read_study
from reseed.report.figures import factors_data, group_data
from reseed.report.group import group_parts
from reseed.report.html import (
    Html,
    Inside,
    beside,
    count,
    document,
    interval,
    join,
    listed,
    mean_and_range,
    percent,
    span,
    table,
    tag,
    text,
)
from reseed.report.parts import (
    answer,
    at_most,
    details,
    figure,
    glossary,
    header,
    link,
    note,
    notes,
)
from reseed.spec.statistics import Headline, Number
from reseed.spec.summary import ControlSummary, StudyGroup, Summary, Training
from reseed.store import Store
from reseed.study import SPEC_FILE

Groups = Sequence[StudyGroup]


def write_report(store: Store, name: str) -> None:
    """Write the page of a study; equal stores give equal bytes.

    Args:
        store: of the study, which has come as far as `summary.json`.
        name: of the file to write.
    """
    summary = read_study(store)
    groups = [read_group(store, group) for group in summary.groups]
    spec = store.path(SPEC_FILE)
    body = tag(
        "main",
        header("Which latents come back?", summary.study, *verdict(summary)),
        notes(_weaknesses(summary, read_failures(store, summary))),
        _headline(summary),
        factors_section(summary),
        details("SAE", [g.label for g in groups], [group_parts(group) for group in groups]),
        tag("footer", _provenance(summary, spec.read_text("utf-8") if spec.exists() else None)),
    )
    data = [group_data(group) for group in groups]
    if data:  # what concerns all groups travels with the first
        data[0] |= factors_data(summary, read_cells(store, summary))
    store.write(name, document(f"{summary.study} · reseed", body, data).encode())


# -- the answers ---------------------------------------------------------------------------------


def verdict(summary: Summary) -> list[Html]:
    """What the study found: each question with the number that answers it."""
    groups = [g for g in summary.groups if g.headline is not None]
    if not groups:
        return [answer(None, text("one-run-each" if summary.groups else "no-run"))]
    differs = _what_differs(summary.training, groups)
    tau = _headline_of(groups[0]).tau
    blanks = {"range": _range(groups, SHARED.id), "differs": differs, "tau": f"{tau:g}"}
    shared = text("study-shared", **blanks, chance=_chance(groups))
    out = [answer(text("study-question"), shared)]
    if any(_number(group, MATCH_AT_FDR) for group in groups):
        matched = text("fdr", range=_range(groups, MATCH_AT_FDR))
        out.append(answer(text("study-fdr-question"), matched))
    if any(group.notes for group in groups):
        out.append(tag("p", tag("a", "Read the notes first.", href="#notes"), class_="verdict"))
    return out


def _what_differs(training: Training, groups: Groups) -> str:
    init, data = len(training.init_seeds) > 1, len(training.data_seeds) > 1
    if init and data:
        apart = all(g.independent and g.independent.they == "share neither seed" for g in groups)
        return "its init seed and the order of its data" if apart else "its seeds"
    return "the order of its data" if data else "its init seed"


def _headline_of(group: StudyGroup) -> Headline:
    assert group.headline is not None
    return group.headline


def _number(group: StudyGroup, measure: str) -> Number | None:
    """A headline number on all latents; None where it has no value."""
    number = _headline_of(group).of(measure).get("all")
    return number if number and number.value is not None else None


def _range(groups: Groups, measure: str) -> Html:
    """The share of one SAE with its interval, or the range over several."""
    numbers = [(n, g.label) for g in groups if (n := _number(g, measure)) is not None]
    ordered = sorted(numbers, key=lambda pair: pair[0].value or 0.0)
    ends = [tag("strong", percent(number.value)) for number, _ in ordered]
    intervals = [
        f"95% interval {interval(number.interval_95)}" if number.interval_95 else None
        for number, _ in ordered
    ]
    if len(numbers) == 1:
        shown = intervals[0] or "too few runs for an interval"
        return join(ends[0], f" ({shown}) of the latents")
    if ends[0] == ends[-1]:
        each = "both" if len(numbers) == 2 else f"each of {len(numbers)}"
        return join(ends[0], f" of the latents in {each} SAEs")
    about = ["; ".join(filter(None, (ordered[n][1], intervals[n]))) for n in (0, -1)]
    return join(
        "Between ", ends[0], f" ({about[0]}) and ", ends[-1], f" ({about[1]}) of the latents"
    )


def _chance(groups: Groups) -> Html:
    numbers = [_headline_of(group).shared["all"] for group in groups]
    ranges = [number.null_covariance for number in numbers]
    nulls = [null.mean for null in ranges if null and null.mean is not None]
    untrained = [n.null_untrained for n in numbers if n.null_untrained is not None]
    chance = join("Chance alone gives ", at_most(nulls)) if nulls else "Chance was not measured"
    started = join(", two untrained SAEs give ", at_most(untrained)) if untrained else None
    return join(chance, started)


def _weaknesses(summary: Summary, failures: Mapping[str, str]) -> list[Inside]:
    """Notes of the groups, each said once, and the runs that are not there."""
    labels: dict[str, list[str]] = {}
    for group in summary.groups:
        for weakness in group.notes:
            labels.setdefault(weakness, []).append(group.label)
    several = len(summary.groups) > 1
    out: list[Inside] = []
    for weakness, named in labels.items():
        of = ", ".join(named)
        if len(named) == len(summary.groups):
            of = "Both SAEs" if len(named) == 2 else f"All {len(named)} SAEs"
        out.append(f"{of}: {weakness}" if several else weakness[:1].upper() + weakness[1:])
    for run, reason in failures.items():
        out.append(text("failed", run=tag("code", run), reason=f", {reason}"))
    for run in summary.runs.missing:
        out.append(text("missing", run=tag("code", run)))
    return out


# -- the headline tables -------------------------------------------------------------------------


def _headline(summary: Summary) -> Html | None:
    groups = summary.groups
    if not groups:
        return None
    several = sum(group.headline is not None for group in groups) > 1
    forest = figure("forest") if several else None
    tokens = span([group.reconstruction.held_out_tokens for group in groups])
    words = glossary(tokens, controls=any(group.controls for group in groups))
    inside = (shares_table(groups), training_table(groups, summary.training), words)
    return tag("section", tag("h2", "Headline"), forest, *inside)


def shares_table(groups: Groups) -> Html | None:
    """What comes back, on all and on live latents, beside chance and ceiling."""
    rows: list[dict[str, Inside]] = []
    for number, group in enumerate(groups):
        name: Inside = link(group.label, number)
        headline = group.headline
        if headline is None:
            rows.append({"SAE": name, "latents": "", "what counts": "one run: nothing to compare"})
            continue
        tau = f"shared at tau {headline.tau:g}"
        ceiling: str | None = percent(headline.ceiling_same_run)
        for stratum in ("all", "live"):
            for measure, what in ((SHARED.id, tau), (MATCH_AT_FDR, "match at FDR 5%")):
                if (share := headline.of(measure).get(stratum)) is not None:
                    rows.append(_share_row(name, stratum, what, share, ceiling))
                    name = ceiling = None
        for kind, control in group.controls.items():
            if control.shared is None:
                few = "fewer than two runs"
                rows.append({"SAE": None, "latents": _control(kind), "what counts": few})
            else:
                rows.append(_share_row(None, _control(kind), tau, control.shared["all"]))
    return table(rows, caption="What comes back", words=("latents", "what counts"))


def _share_row(
    name: Inside, latents: str, what: str, share: Number, ceiling: str | None = None
) -> dict[str, Inside]:
    null = share.null_covariance
    draws = (null.lo, null.hi) if null and null.lo != null.hi else None
    return {
        "SAE": name,
        "latents": latents,
        "what counts": what,
        "share": tag("strong", percent(share.value)),
        "95% interval": interval(share.interval_95),
        "chance (range of draws)": beside(null and null.mean, draws),
        "untrained pair": percent(share.null_untrained),
        "run with itself": ceiling,
        "chance-corrected": percent(share.chance_corrected),
    }


def training_table(groups: Groups, training: Training) -> Html | None:
    """What was trained: counts, reconstruction, tokens, certificates."""
    rows: list[dict[str, Inside]] = []
    for number, group in enumerate(groups):
        rows.append(_training_row(link(group.label, number), group, group.tokens, training))
        for kind, control in group.controls.items():
            if control.counts is not None:
                rows.append(_training_row(_control(kind), control, group.tokens, training))
    return table(rows, caption="What was trained; counts are of one run")


def _control(kind: str) -> str:
    return f"control: {kind.replace('_', ' ')}"


def _training_row(
    name: Inside, group: StudyGroup | ControlSummary, tokens: int, training: Training
) -> dict[str, Inside]:
    counts, fit = group.counts, group.reconstruction
    assert counts is not None
    assert fit is not None
    proof = group.certificates if isinstance(group, StudyGroup) else None
    return {
        "SAE": name,
        "runs": count(counts.runs),
        "tokens seen": count(tokens),
        "epochs": f"{training.epochs:.3g}",
        "latents": count(counts.latents),
        "live": span(counts.live),
        "dead": span(counts.dead),
        "dense": span(counts.dense),
        "FVU, held out": mean_and_range(fit.fvu),
        "robust FVU": mean_and_range(fit.fvu_robust),
        "L0": mean_and_range(fit.l0),
        "cosine to its start": mean_and_range(group.distance_from_init),
        "assignments proven optimal": proof and f"{proof.optimal:,} of {proof.assignments:,}",
        "largest gap": proof and f"{proof.largest_gap:.2g}",
    }


# -- the end of the page -------------------------------------------------------------------------


def _provenance(summary: Summary, spec: str | None) -> Html:
    """Version, subject, sites, tokens, and the study's TOML."""
    activations, change = summary.activations, summary.activations.change_from_float32
    facts: dict[str, Inside] = {
        "reseed": summary.reseed,
        "study": summary.study,
        "subject": tag("code", json.dumps(summary.subject, ensure_ascii=False)),
        "sites": ", ".join(f"{name} ({d:,} dimensions)" for name, d in activations.sites.items()),
        "tokens to train on": f"{activations.training_tokens:,}",
        "tokens held out": f"{activations.held_out_tokens:,}",
    }
    if change is not None:
        facts[f"change by {change['dtype']} (relative RMSE)"] = "; ".join(
            f"{site}: {error['relative_rmse']:.2%}, smallest cosine {error['smallest_cosine']:.4f}"
            for site, error in change["sites"].items()
        )
    toml = (
        tag("details", tag("summary", "The study's TOML"), tag("pre", spec, tabindex=0))
        if spec
        else note("The study was not made from a file.")
    )
    return tag("section", tag("h2", "Where this comes from"), listed(facts, "facts"), toml)
