"""What a number of seeds can tell, before anything runs.

With N seeds a latent has N - 1 trials. Intervals are 95 % Wilson; power is of the exact one-sided
binomial test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from reseed.sae.architectures import SAESpec
from reseed.sae.settings import PenalisedSpec
from reseed.spec.study import StudySpec
from reseed.stability.factors.levels import levels_of
from reseed.stability.notes import HIGH_GAMMA
from reseed.stability.proportions import wilson
from reseed.store import Store
from reseed.subjects.language.ids import unknown_in_words
from reseed.subjects.shards import TOKENS

HIGH, HALF = 0.9, 0.5
"""The two reproducibilities that are to be told apart."""

MOST = 200
"""Most trials that `trials_needed` tries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospect:
    """What a design can say about one latent."""

    trials: int
    """independent runs beside its own"""
    bound_if_all: float
    """lower end for a latent found in all of them"""
    interval_if_half: tuple[float, float]
    """for a latent found in about half of them"""
    power: float
    """of telling reproducibility .9 from .5 at alpha .05"""
    strict_power: float
    """the same at alpha .001"""


def power(trials: int, p: float = HIGH, null: float = HALF, alpha: float = 0.05) -> float:
    """Power of the exact one-sided binomial test of `null` against a larger p.

    Returns:
        0 where even a latent found in all trials could not reject.
    """
    counts = np.arange(trials + 1)
    rejects = counts[stats.binom.sf(counts - 1, trials, null) <= alpha]
    return float(stats.binom.sf(rejects[0] - 1, trials, p)) if len(rejects) else 0.0


def trials_needed(
    wanted: float = 0.9, p: float = HIGH, null: float = HALF, alpha: float = 0.05
) -> int | None:
    """Fewest trials with at least the power wanted; None above `MOST`.

    The power of an exact test goes up and down with the number of trials: 11 have .91, 12 have .89.
    """
    reached = (n for n in range(1, MOST + 1) if power(n, p, null, alpha) >= wanted)
    return next(reached, None)


def prospect(trials: int) -> Prospect:
    """What so many independent runs beside its own say about a latent."""
    low, high = wilson(np.array([1.0, round(trials / 2) / trials]), trials)
    return Prospect(
        trials=trials,
        bound_if_all=float(low[0]),
        interval_if_half=(float(low[1]), float(high[1])),
        power=power(trials),
        strict_power=power(trials, alpha=0.001),
    )


def trials_of(init_seeds: int, data_seeds: int) -> int:
    """Independent runs that a latent of one run meets, see `reseed.stability.intervals`."""
    if init_seeds > 1 and data_seeds > 1:
        return (init_seeds - 1) * (data_seeds - 1)
    return init_seeds * data_seeds - 1


def independent_of(init_seeds: int, data_seeds: int) -> int:
    """Runs beside its own that share no seed with it nor with each other.

    Of 2 init and 8 data seeds that is one: all seven runs with another data seed and another init
    seed have the same other init seed.
    """
    if init_seeds > 1 and data_seeds > 1:
        return min(init_seeds, data_seeds) - 1
    return init_seeds * data_seeds - 1


def sentences(init_seeds: int, data_seeds: int) -> list[str]:
    """What the design will be able to tell, for people."""
    runs = init_seeds * data_seeds
    if runs < 2:
        return ["one run an SAE: nothing can be said about what comes back. Add seeds."]
    outlook = prospect(independent_of(init_seeds, data_seeds))
    low, high = outlook.interval_if_half
    needed = [trials_needed(alpha=alpha) for alpha in (0.05, 0.001)]
    out = [
        f"of one latent: {outlook.trials} independent other run{'s' if outlook.trials > 1 else ''}."
        f" If found in all, it comes back with probability {outlook.bound_if_all:.2f} or "
        f"more; if in about half, {low:.2f} to {high:.2f} (95 % Wilson).",
        f"telling a latent that comes back 9 times in 10 from one that comes back half the time: "
        f"power {outlook.power:.0%} at alpha .05, {outlook.strict_power:.0%} at .001. For 90 % it "
        f"takes {(needed[0] or MOST) + 1} and {(needed[1] or MOST) + 1} seeds"
        + (" of each kind." if init_seeds > 1 and data_seeds > 1 else "."),
    ]
    if runs == 2:
        out.append("two runs give one pair: shares will have no interval. Take three or more.")
    elif init_seeds > 1 and 1 < data_seeds < 3 or 1 < init_seeds < 3 and data_seeds > 1:
        out.append(
            "crossed seeds with fewer than three of one kind: shares will have no interval, since "
            "whole seeds are left out to find it. Take three of each."
        )
    else:
        out.append(f"shares over all latents: an interval from {runs} runs.")
    if init_seeds == 1:
        out.append(
            "one init seed: all runs start from the same weights, so what they share can be what "
            "they started with. Add init seeds."
        )
    return out


def of_factors(
    shapes: Sequence[tuple[int, object]], sites: int, snapshots: int, seeds: int, what: str = "k"
) -> list[str]:
    """What the groups of a design will be able to tell of width, k and tokens, for people."""
    if len(set(shapes)) * sites < 2 or seeds < 2:
        return []
    widths, ks = ({shape[at] for shape in shapes} for at in (0, 1))
    names = (("width", widths), (what, ks))
    confounded = len(widths) > 1 and len(ks) > 1 and not _connected(set(shapes))
    parts = [] if confounded else [name for name, levels in names if len(levels) > 1]
    parts += ["tokens"] if snapshots > 1 else []
    parts += ["site"] if sites > 1 else []
    out = "between groups: the part of " + ", ".join(parts) if parts else "between groups: nothing"
    out += " in agreement" + (", with intervals over seeds." if seeds > 2 else ", no intervals.")
    if confounded:
        out += f" Width and {what} change together, so neither can be told: add an SAE that "
        out += "changes one."
    single = [name for name, levels in names if len(levels) == 1]
    single += [] if snapshots > 1 else ["tokens (no snapshots)"]
    if single:
        out += f" One level only of {', '.join(single)}."
    return [out]


def _connected(shapes: set[tuple[int, object]]) -> bool:
    """Whether every width and every k is reached by changing one of them at a time."""
    reached = {next(iter(shapes))}
    while more := {
        shape
        for shape in shapes - reached
        if any(shape[0] == width or shape[1] == k for width, k in reached)
    }:
        reached |= more
    return reached == shapes


def tells(spec: StudySpec, sites: int) -> list[str]:
    """What a study will be able to tell of its latents and its groups, for people."""
    seeds = spec.seeds
    levels = _levels(spec.sae)
    what = "k" if all("k" in level for level in levels) else "architecture"
    shapes = [(level["latents"], level[what]) for level in levels]
    snapshots = len(spec.training.snapshot_steps) - 1
    groups = of_factors(shapes, sites, snapshots, len(seeds.init) * len(seeds.data), what)
    return sentences(len(seeds.init), len(seeds.data)) + groups


def _levels(saes: Sequence[SAESpec]) -> list[dict[str, Any]]:
    """What the SAEs of a site are compared by."""
    about = {str(at): {"site": "", **sae.model_dump(mode="json")} for at, sae in enumerate(saes)}
    return list(levels_of(about).values())


def gammas(gamma: Mapping[str, float], rows: int) -> list[str]:
    """How far the rows of each site lie from the origin, for people; nothing of no rows."""
    sites = ", ".join(f"{site} {value:.2g}" for site, value in gamma.items())
    return [
        "gamma = |mean| / |std| of a site, which predicts dead latents where a rule subtracts "
        f"nothing (arXiv 2605.31518): {sites}; on {rows:,} rows."
    ] * bool(gamma)


def off_centre(saes: Sequence[SAESpec], gamma: Mapping[str, float]) -> list[str]:
    """What to say of rules that take nothing out of rows that lie far from the origin."""
    return [
        f"{site}: gamma is {value:.2g}, and {sae.label} takes nothing out of the rows: many "
        "latents will be dead from the start. Set center = true in its [[sae]]."
        for site, value in gamma.items()
        for sae in saes
        if value >= HIGH_GAMMA and not (sae.subtracts or sae.center) and sae.takes(site)
    ]


def lost_text(store: Store) -> list[str]:
    """What to say where many tokens of the text are unknown to the tokenizer."""
    lost = unknown_in_words(store.document(TOKENS, "about.json")) if store.has(TOKENS) else None
    return [lost] if lost else []


_FEW_STEPS = 500
"""Below which decoder rows hardly leave their start."""

_UNSETTLED = 80
"""Steps below which L0 does not come to `target_l0` (docs/training.md)."""

_FEW_TOKENS = 1000
"""For a latent."""


def warnings(spec: StudySpec, training_rows: int) -> list[str]:
    """What the report would say against the numbers, as far as it is known before."""
    training, seeds, out = spec.training, spec.seeds, list[str]()
    penalised = [sae.label for sae in spec.sae if isinstance(sae, PenalisedSpec)]
    if training.steps < _FEW_STEPS:
        unsettled = training.steps < _UNSETTLED and penalised
        also = f", and the penalty of {', '.join(penalised)} does not settle" if unsettled else ""
        out.append(
            f"{training.steps:,} steps are few: decoder rows hardly leave where they start{also}. "
            f"Take training.tokens = {_FEW_STEPS * training.batch:_} or more, or a smaller "
            "training.batch."
        )
    widest = max(sae.latents for sae in spec.sae)
    if training.tokens < _FEW_TOKENS * widest:
        out.append(
            f"{training.tokens / widest:,.0f} training tokens a latent are few: the share will be "
            "a point on a rising curve, not a property of the SAE. "
            f"Take training.tokens = {_FEW_TOKENS * widest:_} or more, or fewer latents."
        )
    if training.tokens > 2 * training_rows:
        out.append(
            f"every training token will be seen {training.tokens / training_rows:.1f} times; more "
            "text (activations.tokens) would serve better than more epochs."
        )
    if independent_of(len(seeds.init), len(seeds.data)) < 2:
        out.append(
            "no latent meets two independent runs, so nothing can be said of single latents. Take "
            "seeds.init = [0, 1, 2] or more."
        )
    return out
