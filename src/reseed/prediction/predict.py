"""The prediction of reproducibility: learned from studies, judged on held-out runs, applied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import polars as pl
from scipy.special import expit

from reseed.errors import SpecError
from reseed.events import Events, Task
from reseed.prediction.features import (
    COUNTED,
    FREQUENCY,
    Labelled,
    LiveLatents,
    arrays,
    features_of,
    fit_both,
    labelled,
    rows_of,
    well_counted,
)
from reseed.prediction.logistic import Floats, Model
from reseed.prediction.skill import held_out, pair_scores, reliability, seeds_of, skill
from reseed.screen import Screen
from reseed.stability.intervals import seed_ends
from reseed.study import Study

_LEAST_RUNS = 3

_ENOUGH = 30
"""Latents of each run whose firing rate is known, without which skill is not judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A model of reproducibility and what it is worth."""

    latents: pl.DataFrame
    """group, run, latent; probability that an independent run of the recipe finds it; frequency and
    full, the same by the two models; with `apply` also lo and hi, 95 % of the probability by
    leaving out one training run (of crossed seeds, one seed) at a time. Null for latents that never
    fired."""
    skill: pl.DataFrame
    """on held-out runs, of the latents whose firing rate is known: metric, frequency, full, gain,
    lo, hi, runs, pairs; see `skill.skill`"""
    each: pl.DataFrame
    """the same for frequency and one other feature: feature, gain, lo, hi (log-loss), auroc"""
    reliability: pl.DataFrame
    """on held-out runs, of the model that `probability` is from: predicted, observed, lo, hi,
    trials"""
    features: Sequence[str]
    """what the full model read"""
    runs: int
    """that were learned from"""
    beyond_frequency: bool | None
    """whether the interval of the gain in log-loss lies above 0; None with too few runs, or where
    too few latents fire often enough for their rate to be known"""
    says: str
    """the finding in one or two sentences"""
    transfer: pl.DataFrame | None = None
    """`skill` where the model was applied, if runs there were matched"""


def predict(
    train: Study | Sequence[Study],
    apply: Study | pl.DataFrame | None = None,
    *,
    group: str | None = None,
    progress: bool = False,
) -> Prediction:
    """Predict from single runs how reproducible each latent is; judged on held-out runs.

    Everything that one run shows is held against the firing rate alone: the gain on held-out runs
    has an interval, and `says` tells plainly when there is none. Described in docs/predict.md.

    Args:
        train: one or more studies with three or more runs in some group; groups are pooled.
        apply: a study, or a table of latents (`Study.latents`, or read from `reseed.export`), to
            predict; left out, the latents of `train` are predicted by models that did not see them.
        group: label or name; learn from this group only.
        progress: whether to show it.

    Raises:
        SpecError: if there are too few runs, or the tables have no columns in common to learn from.
        StoreError: if a study has not come this far, or is damaged.
    """
    studies = [train] if isinstance(train, Study) else list(train)
    learned = [
        labelled(study, runs, f"{study.folder.name}: {runs.label}")
        for study in studies
        for runs in study.groups_named(group)
    ]
    events = Events(console=Screen(stderr=True) if progress else None)
    if not isinstance(apply, Study):
        return predict_groups(learned, apply, events=events)
    there = [labelled(apply, runs, runs.label) for runs in apply.groups_named(None)]
    table = pl.concat(
        [of.latents.select(pl.lit(of.name).alias("group"), pl.all()) for of in there],
        how="diagonal_relaxed",
    )
    return predict_groups(learned, table, there, events)


def predict_groups(
    train: Sequence[Labelled],
    apply: pl.DataFrame | None = None,
    judges: Sequence[Labelled] = (),
    events: Events | None = None,
) -> Prediction:
    """Learn reproducibility from what single runs show, and judge it on held-out runs.

    Predicted are the latents of the table `apply`, whose groups with shared pairs are `judges`; or
    those of `train`, each by models that saw neither its run nor its feature.
    """
    _check(train)
    if apply is not None and ("alive" not in apply.columns or not apply["alive"].any()):
        raise SpecError(
            f"the table to apply it to has {len(apply):,} latents and none that its column `alive` "
            "says to fire; only of what fires can be predicted whether other runs find it. Give a "
            "table that `reseed export` wrote, with live latents"
        )
    features = features_of(train, apply)
    with (events or Events()).task("predict", len(features) + 2, "models") as task:
        return _predicted(train, apply, judges, features, task)


def _predicted(
    train: Sequence[Labelled],
    apply: pl.DataFrame | None,
    judges: Sequence[Labelled],
    features: Sequence[str],
    task: Task,
) -> Prediction:
    groups = [arrays(group, features) for group in train]
    unseen = held_out(groups)
    task.advance(1, "all features")
    judged = [well_counted(group) for group in groups]
    all_judged = sum(len(group.rows) for group in judged) == sum(len(g.rows) for g in groups)
    scores = _skill(judged, unseen if all_judged else held_out(judged))
    enough = all(_bears(group) for group in judged)
    better = _beyond(scores) if enough else None
    chosen = int(bool(better))
    runs = sum(len(group.runs) for group in groups)
    transfer, each = None, _each(judged, features, task)
    if apply is None:
        latents = _table(train, groups, unseen, chosen)
    else:
        latents = _applied(groups, apply, features, chosen)
        there = [arrays(group, features) for group in judges if group.latents["run"].n_unique() > 1]
        if there:
            models = _fitted(groups)
            both = [np.stack([m.probability(g.rows) for m in models], axis=1) for g in there]
            transfer = _skill(there, both)
    return Prediction(
        latents=latents,
        skill=scores,
        each=each,
        reliability=reliability(groups, [both[:, chosen] for both in unseen]),
        features=features,
        runs=runs,
        beyond_frequency=better,
        says=_sentence(scores, better, features) if enough else _too_rare(groups, judged),
        transfer=transfer,
    )


def _check(train: Sequence[Labelled]) -> None:
    most = max((group.latents["run"].n_unique() for group in train), default=0)
    if most < _LEAST_RUNS:
        raise SpecError(
            f"the largest group has {most} runs; to learn from some and judge on another "
            f"takes {_LEAST_RUNS}, and an interval worth having more. Add seeds to the study, or "
            "train on another one and apply it here."
        )
    for group in train:
        if not group.latents["alive"].any():
            raise SpecError(f"{group.name}: no latent fires on held-out tokens; nothing to learn")


def _bears(group: LiveLatents) -> bool:
    """Whether each run of a group has latents enough whose rate is known."""
    return bool((np.bincount(group.run, minlength=len(group.runs)) >= _ENOUGH).all())


def _too_rare(groups: Sequence[LiveLatents], judged: Sequence[LiveLatents]) -> str:
    live, known = (sum(len(group.rows) for group in of) for of in (groups, judged))
    median = float(np.median(np.concatenate([group.firings for group in groups])))
    return (
        f"Withheld: {known:,} of {live:,} live latents fired {COUNTED} times or more on held-out "
        f"tokens (median {median:.0f}), and the rate of the others is too poorly known to ask what "
        "there is beyond it. Hold out more tokens. The probabilities given are those by frequency "
        "alone."
    )


def _skill(groups: Sequence[LiveLatents], predicted: Sequence[Floats]) -> pl.DataFrame:
    return skill(pair_scores(groups, predicted), seeds_of(groups))


def _beyond(scores: pl.DataFrame) -> bool | None:
    low = scores.row(by_predicate=pl.col("metric") == "log_loss", named=True)["lo"]
    return None if low is None else bool(low > 0)


def _each(groups: Sequence[LiveLatents], features: Sequence[str], task: Task) -> pl.DataFrame:
    """What each feature adds to frequency when it is the only one."""
    frames: list[pl.DataFrame] = []
    for i, name in enumerate(features[1:], start=1):
        two = [replace(group, rows=group.rows[:, [0, i]]) for group in groups]
        scores = _skill(two, held_out(two))
        area = scores.filter(metric="auroc").select(pl.col("full").alias("auroc"))
        gain = scores.filter(metric="log_loss").select("gain", "lo", "hi")
        frames.append(pl.concat([gain, area], how="horizontal").insert_column(0, pl.lit(name)))
        task.advance(1, name)
    return pl.concat(frames).rename({"literal": "feature"})


def _sentence(scores: pl.DataFrame, better: bool | None, features: Sequence[str]) -> str:
    loss, area = (
        scores.row(by_predicate=pl.col("metric") == metric, named=True)
        for metric in ("log_loss", "auroc")
    )
    if loss["gain"] is None:
        return "Nothing can be said: no run could be held out and predicted."
    others = ", ".join(name for name in features if name != FREQUENCY)
    numbers = f"log-loss {loss['frequency']:.4f} by frequency alone, {loss['full']:.4f} by all"
    if area["gain"] is not None:
        numbers += f"; AUROC {area['frequency']:.3f} and {area['full']:.3f}"
    if loss["lo"] is None or better is None:
        return f"Too few runs for an interval: no skill beyond frequency is shown ({numbers})."
    interval = f"{loss['gain']:+.4f} ({loss['lo']:+.4f} to {loss['hi']:+.4f})"
    if better:
        return f"Skill beyond frequency, from {others}: gain {interval} in log-loss; {numbers}."
    return (
        f"No skill beyond frequency is shown: the gain from {others} is {interval} in log-loss; "
        f"{numbers}. The probabilities given are those by frequency alone."
    )


def _table(
    train: Sequence[Labelled], groups: Sequence[LiveLatents], both: Sequence[Floats], chosen: int
) -> pl.DataFrame:
    frames: list[pl.DataFrame] = []
    for labels, group, values in zip(train, groups, both, strict=True):
        known = group.key.with_columns(
            pl.Series("probability", values[:, chosen]),
            pl.Series("frequency", values[:, 0]),
            pl.Series("full", values[:, 1]),
        )
        every = labels.latents.select(pl.lit(labels.name).alias("group"), "run", "latent")
        frames.append(every.join(known, on=["group", "run", "latent"], how="left"))
    return pl.concat(frames).with_columns(pl.selectors.float().fill_nan(None))


def _fitted(groups: Sequence[LiveLatents]) -> tuple[Model, Model]:
    """Both models from all runs."""
    models = fit_both(groups)
    if models is None:
        raise SpecError("no run has another run to be found in; nothing can be learned")
    return models


def _applied(
    groups: Sequence[LiveLatents], table: pl.DataFrame, features: Sequence[str], chosen: int
) -> pl.DataFrame:
    """The table's latents with their probabilities, and intervals by leaving out training runs."""
    live = table.with_row_index("at").filter("alive")
    rows = rows_of(live, features, "the table to apply it to")
    both = _fitted(groups)
    logit = both[chosen].logit(rows)
    names = list(seeds_of(groups))
    every = [(at, run) for at, group in enumerate(groups) for run in range(len(group.runs))]

    @cache
    def without(left: frozenset[str]) -> Floats | None:
        runs = [run for name, run in zip(names, every, strict=True) if name in left]
        models = fit_both(groups, runs)
        return None if models is None else models[chosen].logit(rows)

    _, low, high = seed_ends(logit, lambda left: without(frozenset(left)), seeds_of(groups))
    known = live.select("at").with_columns(
        pl.Series("probability", expit(logit)),
        pl.Series("lo", expit(low)),
        pl.Series("hi", expit(high)),
        pl.Series("frequency", both[0].probability(rows)),
        pl.Series("full", both[1].probability(rows)),
    )
    names = [name for name in ("group", "run", "latent") if name in table.columns]
    joined = table.select(names).with_row_index("at").join(known, on="at", how="left")
    return joined.sort("at").drop("at")
