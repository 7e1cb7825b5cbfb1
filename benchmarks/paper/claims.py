"""What arXiv 2501.16615 claims, beside the same numbers of finished studies with their nulls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import diptest
import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

import reseed
from reseed.runs import Group
from reseed.spec.training import RunSpec

Floats = NDArray[np.float64]
Number = Mapping[str, Any]
Verdict = Literal["the same way", "the other way", "cannot be told"]

ENDS_APART = "Equal tokens. The same way: every step goes there, intervals of both ends part."


TOO_FEW = 0.01
"""Share of latents that come back below which nothing can be said about how they do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A number of ours under a claim."""

    what: str
    ours: str = ""
    null: str = ""
    paper: str = ""
    share: Number | None = None
    """what the picture shows"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A claim, its rows, and whether ours go the same way."""

    title: str
    study: str
    verdict: Verdict
    rows: list[Row]
    how: str
    """what decides"""
    why: str = ""
    """why ours may differ"""


def percent(value: float | None) -> str:
    """A share in per cent."""
    return "-" if value is None else f"{100 * value:.1f} %"


def told(number: Number) -> str:
    """A share with its 95 % interval over runs."""
    ends = number["interval_95"]
    interval = f" ({100 * ends[0]:.1f} to {100 * ends[1]:.1f})" if ends else ""
    return percent(number["value"]) + interval


def row_of(what: str, number: Number, paper: str = "") -> Row:
    """A headline number beside its nulls."""
    drawn, before = number["null_covariance"], number["null_untrained"]
    null = f"random rows {percent(drawn and drawn['mean'])}, untrained {percent(before)}"
    return Row(what=what, ours=told(number), null=null, paper=paper, share=number)


def direction(numbers: Iterable[Number], way: int) -> Verdict:
    """Whether numbers rise (1) or fall (-1) at every step, and the intervals of both ends part."""
    rows = list(numbers)[::way]
    values, ends = [row["value"] for row in rows], [row["interval_95"] for row in rows]
    if ends[0] is None or ends[-1] is None:
        return "cannot be told"
    if ends[0][1] < ends[-1][0] and np.all(np.diff(values) > 0):
        return "the same way"
    return "the other way" if ends[-1][1] < ends[0][0] else "cannot be told"


class Told(NamedTuple):
    """A group of a study, how its runs were made, and what `summary.json` says of it."""

    group: Group
    made: RunSpec
    said: Any

    @property
    def shared(self) -> Number:
        """The headline."""
        return self.said["headline"]["shared"]["all"]

    @property
    def row(self) -> Row:
        """The share beside reconstruction and dead latents, which it must be read with."""
        counts = self.said["counts"]
        dead = sum(counts["dead"]) / counts["latents"] / counts["runs"]
        fvu = self.said["reconstruction"]["fvu"]["mean"]
        return row_of(f"{self.group.label}: FVU {fvu:.3f}, dead {percent(dead)}", self.shared)


def groups_of(study: reseed.Study) -> list[Told]:
    """The groups of a study."""
    said = {group["group"]: group for group in study.summary["groups"]}
    made = {run.id: run.spec for run in study.runs}
    return [Told(group, made[group.runs[0]], said[group.name]) for group in study.groups()]


# -- nine seeds --------------------------------------------------------------------------------


def part_is_shared(study: reseed.Study) -> Claim:
    """Only part of the latents comes back."""
    [(*_, group)] = groups_of(study)
    shares = group["headline"]
    share = shares["shared"]["all"]["value"]
    same_way: Verdict = "the same way" if share < 0.9 else "the other way"
    return Claim(
        title="Only part of the latents is shared",
        study=study.folder.name,
        verdict=same_way if share > TOO_FEW else "cannot be told",
        rows=[
            row_of("shared, all latents", shares["shared"]["all"], "41.6 %"),
            row_of("shared, live latents", shares["shared"]["live"]),
            row_of("match at a false discovery rate of 5 %", shares["match_at_fdr"]["all"]),
            row_of("both assignments agree", shares["equal"]["all"], "79.3 %"),
        ],
        how=f"The same way: between {percent(TOO_FEW)} and 90 %.",
        why="Narrower than the paper's 32,768 latents, which raises the share; trained on fewer "
        "tokens a latent, which lowers it.",
    )


def two_modes(study: reseed.Study) -> Claim:
    """Matched cosines have two modes, and are low where both assignments disagree."""
    cosines, same = _matched(study)
    dip, p, *_ = cast("tuple[float, float]", diptest.diptest(np.ascontiguousarray(cosines)))
    medians = [np.median(cosines[some]) for some in (same, ~same)]
    counts = np.histogram(cosines, (-1, 0.5, 0.9, 1))[0] / len(cosines)
    return Claim(
        title="Matched cosines have two modes",
        study=study.folder.name,
        verdict="the same way" if p < 0.01 else "the other way",
        rows=[
            Row(
                what="dip test of matched decoder cosines against one mode",
                ours=f"dip {dip:.4f}, p {p:.2g}",
                paper="two bumps, by eye",
            ),
            Row(what="below .5, to .9, above", ours=", ".join(percent(x) for x in counts)),
            Row(
                what="median where both assignments agree, and where not",
                ours=f"{medians[0]:.2f}, {medians[1]:.2f}",
                paper="low where not",
            ),
        ],
        how="The dip is that of all matched latents of all pairs; latents of one run are not "
        "independent, so its p is a guide. The verdict is the dip's alone.",
        why="Small dictionaries trained long have a hill near 1 and a flat tail that reaches "
        "chance, not two bumps: where most latents come back, the rest are spread out.",
    )


def _matched(study: reseed.Study) -> tuple[Floats, NDArray[np.bool_]]:
    """Decoder cosines of all matched latents, and whether the encoder assignment agrees."""
    tables = [match.table().filter(pl.col("side") == "a") for match in study.matches]
    table = pl.concat(tables).drop_nulls("decoder_match")
    same = table.select(pl.col("decoder_match").eq_missing(pl.col("encoder_match"))).to_series()
    return table["decoder_cos"].to_numpy(), same.to_numpy()


def found_in_n(study: reseed.Study) -> Claim:
    """N of M is U-shaped and far from independent sharing."""
    [(*_, group)] = groups_of(study)
    counted = np.array(group["families"]["n_of_m"]["by_star"]["mean"])
    share, others = counted / counted.sum(), np.arange(len(counted))
    mean = float((share * others).sum() / others[-1])
    chance: Floats = np.asarray(stats.binom.pmf(others, others[-1], mean))
    law = group["only_in_one"]["all"]
    errors = [law[key] for key in ("error", "error_beta_binomial")]
    ends_up = share[0] > share[1:-1].min() < share[-1]
    verdict: Verdict = "the same way" if ends_up else "the other way"
    return Claim(
        title="How often a feature is found is U-shaped",
        study=study.folder.name,
        verdict=verdict if 1 - share[0] > TOO_FEW else "cannot be told",
        rows=[
            Row(
                what=f"found in exactly 1 to {len(share)} runs",
                ours=", ".join(percent(value) for value in share),
                null="independent: " + ", ".join(percent(value) for value in chance),
                paper="34.8, 7.8, 6.4, 6.0, 5.9, 6.3, 6.8, 8.6, 17.3 %",
            ),
            Row(
                what="in one run only: error at two more runs by power law, beta-binomial",
                ours=", ".join("-" if error is None else f"{error:.4f}" for error in errors),
                paper="the offset power law fits, offset 27 %",
            ),
        ],
        how="U-shaped: both ends above the least in between. Mean over runs, seen from each.",
        why="Nearer to the right end than the paper's, as the share is higher.",
    )


def with_tokens(study: reseed.Study) -> Claim:
    """Overlap rises with tokens and has not saturated."""
    [(group, *_)] = groups_of(study)
    trend = study.store.table(f"stability/{group.name}", "trend.parquet").sort("tokens")
    trend = trend.filter(pl.col("measure") == "shared", pl.col("tokens") > 0)
    numbers: list[Number] = [
        row | {"interval_95": None if row["lo"] is None else (row["lo"], row["hi"])}
        for row in trend.iter_rows(named=True)
    ]
    rows = [Row(what=f"{x['tokens'] / 1e6:.2f} M tokens", ours=told(x), share=x) for x in numbers]
    return Claim(
        title="Overlap rises with tokens and has not saturated",
        study=study.folder.name,
        verdict=direction(numbers, 1),
        rows=[Row(what="0.8, 8, 80 B tokens", paper="7.3, 41.6, 61.2 %"), *rows],
        how="Snapshots of the same runs: the learning rate has not fallen yet at the earlier ones.",
        why="Tokens are repeated here; in the paper they are new.",
    )


def rare_and_alone(study: reseed.Study) -> Claim:
    """Rare latents come back less; orphans fire less; encoder and decoder of shared ones agree."""
    [(*_, group)] = groups_of(study)
    fifths = [group["headline"]["shared"][f"rate{number}"] for number in range(1, 6)]
    table = study.latents.filter("alive")
    kinds = table.filter(n_matched=len(group["runs"]) - 1), table.filter(n_matched=0)
    columns = {"median firing rate": "firing_rate", "median cosine of both rows": "enc_dec_cos"}
    medians = [
        Row(
            what=f"{what}: found in all runs, in no other",
            ours=", ".join(f"{kind[column].median():.4f}" for kind in kinds if len(kind)),
        )
        for what, column in columns.items()
    ]
    return Claim(
        title="Rare latents come back less; shared ones have encoder and decoder alike",
        study=study.folder.name,
        verdict=direction(fifths, 1),
        rows=[row_of(f"shared, fifth {n} by firing rate", x) for n, x in enumerate(fifths, 1)]
        + medians,
        how="The verdict is that of rate. The paper sees no law of it, arXiv 2505.20254 does.",
        why="With so few latents a frequent one may stand for several things, which another run "
        "divides otherwise, and latents too rare to be learnt are missing.",
    )
