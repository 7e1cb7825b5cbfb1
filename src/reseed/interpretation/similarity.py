"""Do the explanations of matched latents say the same? Held against pairs that are no match.

Needs no torch. The control is matched in firing frequency: explanations of rare latents are alike
in style, and those of frequent ones too, so any two latents of one frequency look somewhat alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.errors import SpecError
from reseed.interpretation.models import Embedder
from reseed.interpretation.orphans import GroupComparison, compare_groups
from reseed.interpretation.records import Explanation, Interval
from reseed.interpretation.results import explanations_of
from reseed.seeds import generator
from reseed.stability.intervals import bootstrap_mean

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts to unit rows `[n, d]`."""

_NEAR = 20
"""The control of a latent is drawn from so many that fire most nearly as often."""

_UNIT = 1e-2

_TIE = 1e-9
"""Cosines that differ by less are equal; equal texts differ by rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplanationSimilarity:
    """Cosines of explanations within families, beside those of controls; means over families."""

    pairs: pl.DataFrame
    """family, run_a, latent_a, run_b, latent_b, cosine, control (mean cosine of its controls)"""
    families: int
    matched: float
    matched_interval: Interval | None
    control: float
    control_interval: Interval | None
    difference: float
    difference_interval: Interval | None
    """95 %, by bootstrap over families; None with fewer than two"""
    auroc: float
    """probability that a matched pair is more similar than a control of its own; chance .5"""
    left_out: int
    """pairs without any control"""
    says: str


class _Known(NamedTuple):
    """An explained latent."""

    run: str
    latent: int
    text: str
    family: int | None
    firing_rate: float


def explanation_similarity(
    explanations: Sequence[Explanation],
    latents: pl.DataFrame,
    embed: Embed,
    *,
    controls: int = 5,
    seed: int = 0,
    draws: int = 2000,
) -> ExplanationSimilarity:
    """Similarity of the explanations of the latents of a family, against frequency-matched pairs.

    A matched pair is two latents of one family in two runs. Its controls keep the first latent and
    take, for the second, others of that second run that fire about as often and are in another
    family or in none.

    Args:
        explanations: one a latent; texts that say the same are embedded once.
        latents: run, latent, family (null for an orphan), firing_rate.
        embed: texts to unit rows.
        controls: of each pair.
        seed: of the choice of controls and of the bootstrap.
        draws: of the bootstrap.

    Raises:
        SpecError: if two explanations are of one latent, no family has two explained latents, no
            pair has a control, or the rows of `embed` are not of length 1.
    """
    known = _known(explanations, latents)
    families: dict[int, list[int]] = {}
    by_run: dict[str, list[int]] = {}
    for place, latent in enumerate(known):
        by_run.setdefault(latent.run, []).append(place)
        if latent.family is not None:
            families.setdefault(latent.family, []).append(place)
    each = (pair for members in families.values() for pair in combinations(members, 2))
    pairs = [(a, b) for a, b in each if known[a].run != known[b].run]
    if not pairs:
        raise SpecError(
            f"none of the families has explanations of two latents ({len(known)} latents are "
            "explained); explain several members of a family, `sample_latents` takes one of each"
        )
    vectors = _embedded([latent.text for latent in known], embed)
    rng = generator("similarity-controls", seed)
    rows: list[dict[str, object]] = []
    for a, b in pairs:
        others = _controls(known, by_run[known[b].run], a, b, controls, rng)
        if not len(others):
            continue
        cosine, held = float(vectors[a] @ vectors[b]), vectors[others] @ vectors[a]
        tie = np.abs(cosine - held) < _TIE
        rows.append(
            {
                "family": known[a].family,
                **{f"{name}_a": getattr(known[a], name) for name in ("run", "latent")},
                **{f"{name}_b": getattr(known[b], name) for name in ("run", "latent")},
                "cosine": cosine,
                "control": float(held.mean()),
                "above": float(np.where(tie, 0.5, cosine > held).mean()),
            }
        )
    if not rows:
        raise SpecError(
            "no matched pair has a control: all explained latents of each run are of one family; "
            "explain more latents"
        )
    return _result(pl.DataFrame(rows), len(pairs) - len(rows), seed, draws)


def _known(explanations: Sequence[Explanation], latents: pl.DataFrame) -> list[_Known]:
    table = pl.DataFrame(
        [(words.of.run, words.of.latent, words.text) for words in explanations],
        schema={"run": pl.String, "latent": pl.Int64, "text": pl.String},
        orient="row",
    )
    twice = table.filter(table.select("run", "latent").is_duplicated())
    if len(twice):
        raise SpecError(
            f"latent {twice['latent'][0]} of {twice['run'][0]} has several explanations; give one"
        )
    columns = ["run", "latent", "family", "firing_rate"]
    missing = [name for name in columns if name not in latents.columns]
    if missing:
        raise SpecError(f"the table of latents lacks {', '.join(missing)}")
    joined = table.join(latents.select(columns), on=["run", "latent"], how="inner")
    return [_Known(*row) for row in joined.sort("run", "latent").select(_Known._fields).iter_rows()]


def _embedded(texts: Sequence[str], embed: Embed) -> NDArray[np.float64]:
    distinct = list(dict.fromkeys(texts))
    rows = np.asarray(embed(distinct), dtype=np.float64)
    lengths = np.linalg.norm(rows, axis=-1) if rows.ndim == 2 else np.zeros(0)
    if rows.ndim != 2 or len(rows) != len(distinct) or not np.all(np.abs(lengths - 1) < _UNIT):
        raise SpecError(
            f"{len(distinct)} texts were to be embedded as rows of length 1; what came has shape "
            f"{rows.shape}" + (f" and lengths up to {lengths.max():.3g}" if lengths.size else "")
        )
    place = {text: number for number, text in enumerate(distinct)}
    return rows[[place[text] for text in texts]]


def _controls(
    known: Sequence[_Known],
    there: Sequence[int],
    a: int,
    b: int,
    controls: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Latents of the second run, in other families, that fire about as often as b."""

    def rate(place: int) -> float:
        return float(np.log(max(known[place].firing_rate, 1e-12)))

    able = [p for p in there if known[p].family is None or known[p].family != known[a].family]
    able.sort(key=lambda p: (abs(rate(p) - rate(b)), p))
    near = np.array(able[: max(_NEAR, controls)], dtype=np.int64)
    return near if len(near) <= controls else np.sort(rng.choice(near, controls, replace=False))


def _result(pairs: pl.DataFrame, left_out: int, seed: int, draws: int) -> ExplanationSimilarity:
    """Every family counts once, however many pairs it has."""
    by_family = (
        pairs.group_by("family").agg(pl.col("cosine", "control", "above").mean()).sort("family")
    )
    values = by_family.select("cosine", "control").to_numpy()
    values = np.column_stack([values, values[:, 0] - values[:, 1]])
    matched, control, difference = map(float, values.mean(axis=0))
    intervals: list[Interval | None] = [None, None, None]
    if len(values) > 1:
        low, high = bootstrap_mean(values, draws, generator("similarity-bootstrap", seed))
        intervals = [(float(a), float(b)) for a, b in zip(low, high, strict=True)]
    auroc = float(by_family["above"].mean())  # pyright: ignore[reportArgumentType]
    ends = intervals[2]
    shown = "" if ends is None else f" [{ends[0]:.3f}, {ends[1]:.3f}]"
    return ExplanationSimilarity(
        pairs=pairs.drop("above"),
        families=len(values),
        matched=matched,
        matched_interval=intervals[0],
        control=control,
        control_interval=intervals[1],
        difference=difference,
        difference_interval=ends,
        auroc=auroc,
        left_out=left_out,
        says=(
            f"explanations of matched latents: cosine {matched:.3f}, of pairs that are no match "
            f"and fire as often {control:.3f}; difference {difference:.3f}{shown} over "
            f"{len(values)} families. A matched pair is the more similar {auroc:.0%} of the time "
            "(chance 50 %)."
        ),
    )


def comparison(
    latents: pl.DataFrame,
    explanations: pl.DataFrame,
    table: pl.DataFrame,
    embedder: Embedder | None,
) -> dict[str, Any]:
    """What the scores of a group say, as it is written down.

    Args:
        latents: of the group, see docs/latent_table.md.
        explanations: columns of `reseed.interpretation.results.EXPLANATIONS`.
        table: columns of `reseed.interpretation.results.SCORES`.
        embedder: to compare explanations within families; None to leave that out.

    Returns:
        `scorers`: one for each with `scorer`, `chance`, `kinds`, `counts`, `differences` (see
        `GroupComparison`), `controls` (name to mean value), `failed_questions` and `says`;
        `unscored`: a sentence about each scorer that gave no latent a score (the stage adds one
        about each whose questions nearly all got the same reply);
        `similarity`: None, or the fields of `ExplanationSimilarity` but for its pairs.
    """
    real = table.filter(pl.col("control").is_null())
    done = real.filter(pl.col("value").is_not_null())["scorer"].unique().to_list()
    scored = real.filter(pl.col("scorer").is_in(done))
    nothing = real.filter(~pl.col("scorer").is_in(done)).group_by("scorer", maintain_order=True)
    compared = compare_groups(scored, latents) if len(scored) else []
    out: dict[str, Any] = {
        "scorers": [_compared(scorer, table) for scorer in compared],
        "unscored": [_without_score(str(name), rows) for (name,), rows in nothing],
        "similarity": None,
    }
    if embedder is None:
        return out
    known = set(latents["run"])
    words = [words for of, words in explanations_of(explanations).items() if of.run in known]
    try:
        near = explanation_similarity(words, latents, embedder.embed)
    except SpecError as error:  # no family with two explained latents
        return out | {"similarity": {"says": f"not measured: {error}"}}
    keep = {k: v for k, v in asdict(replace(near, pairs=pl.DataFrame())).items() if k != "pairs"}
    return out | {"similarity": keep}


def _without_score(scorer: str, rows: pl.DataFrame) -> str:
    reasons = rows["failure"].value_counts(sort=True)
    return f"{scorer}: none of {len(rows)} latents got a score; mostly: {reasons['failure'][0]}"


def _compared(scorer: GroupComparison, table: pl.DataFrame) -> dict[str, Any]:
    rows = table.filter(scorer=scorer.scorer)
    controls = {
        control: float(values.mean())  # pyright: ignore[reportArgumentType]
        for control in ("shuffled", "random")
        if len(values := rows.filter(control=control)["value"].drop_nulls())
    }
    chance = rows["chance"].drop_nulls()
    return {
        "scorer": scorer.scorer,
        "chance": float(chance[0]) if len(chance) else None,
        "kinds": scorer.kinds.to_dicts(),
        "counts": scorer.counts.to_dicts(),
        "differences": scorer.differences.to_dicts(),
        "controls": controls,
        "failed_questions": int(rows.filter(pl.col("control").is_null())["failed"].sum()),
        "says": scorer.says,
    }
