"""Whether latents that come back can be interpreted better, by a score that asks no LLM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import reseed
from benchmarks.paper.claims import Claim, Row, Verdict, groups_of
from reseed.interpretation.results import read_scored

_NEARLY = 0.1
"""Of an area under the curve: orphans that lie less below the rest are nearly as interpretable."""


def _with_ends(row: Mapping[str, Any], name: str, low: str, high: str) -> str:
    if row[name] is None:
        return "-"
    ends = "" if row[low] is None else f" ({row[low]:.3f} to {row[high]:.3f})"
    return f"{row[name]:.3f}{ends}"


def orphans_nearly_as_interpretable(study: reseed.Study) -> Claim:
    """Orphans score a little below what comes back, with a step at the second run."""
    [(group, *_)] = groups_of(study)
    [scores] = read_scored(study, group).comparison["scorers"]
    rest = scores["differences"][0]
    low, high = rest["matched_lo"], rest["matched_hi"]
    verdict: Verdict = "cannot be told"
    if low is not None and high < 0:
        verdict = "the same way" if low > -_NEARLY else "cannot be told"
    elif low is not None and low > 0:
        verdict = "the other way"
    names = {"unadjusted": "as they are", "matched": "at equal firing rate"}
    chance = f"chance {scores['chance']:.2f}, " + ", ".join(
        f"{name} {value:.3f}" for name, value in scores["controls"].items() if value is not None
    )
    return Claim(
        title="Orphans are nearly as interpretable as what comes back",
        study=study.folder.name,
        verdict=verdict,
        rows=[
            *(
                Row(
                    what=f"found in {row['found']} of {row['of']} runs, {row['scored']} scored",
                    ours=_with_ends(row, "mean", "lo", "hi"),
                    null=chance,
                    paper={1: ".648", 2: ".723"}.get(row["found"], "about .73"),
                )
                for row in scores["counts"]
            ),
            *(
                Row(
                    what=f"orphans less the rest, {words}",
                    ours=_with_ends(rest, name, f"{name}_lo", f"{name}_hi"),
                    paper="-.08" if name == "unadjusted" else "",
                )
                for name, words in names.items()
            ),
        ],
        how="Example embedding (AUROC): are windows in which a latent fires near each other for a "
        "small sentence model? The paper scored explanations of a 70B model by balanced accuracy, "
        "so only directions compare: the same way if orphans lie below, by less than .1, at equal "
        "firing rate. It cannot see what a latent of grammar or of one token in any context means. "
        "Intervals are over latents.",
    )
