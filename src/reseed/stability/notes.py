"""What a reader must know before believing a number, in sentences."""

from __future__ import annotations

from collections.abc import Mapping

from reseed.spec.statistics import FeatureCounts, GroupSummary, Range
from reseed.spec.summary import ControlSummary
from reseed.stability.group import SAME_INIT

_HARDLY_MOVED = 0.8
"""Cosine of the rows that a soft-frozen decoder is held at, arXiv 2602.14111."""
_MISSED = 0.1
"""Share of the promised L0 by which a run may be off."""
_CLOSED = 0.9
"""Triangle closure below which single matches are called unreliable."""


def notes(
    group: GroupSummary,
    controls: Mapping[str, ControlSummary],
    trend: Mapping[int, float],
    epochs: float,
    promised_l0: float | None = None,
    *,
    pulled: bool = False,
) -> list[str]:
    """Plain sentences about what weakens the numbers of a group.

    Args:
        group: its summary.
        controls: kind to what the control runs gave.
        trend: tokens seen to shared share.
        epochs: how often each training token was seen.
        promised_l0: latents that should fire in a row; None if nothing says so.
        pulled: whether runs were trained towards each other (`mutual`).
    """
    counts = group.counts
    out = _missed(group.reconstruction.l0, promised_l0)
    if counts.runs < 2:
        return [*out, "one run only: nothing can be said about what comes back. Add seeds."]
    if counts.runs == 2:
        out.append("two runs give one pair: there is no interval. Add seeds.")
    out += _shared_seeds(group)
    if pulled:
        out.append(
            "these runs were pulled towards each other while they were trained (mutual), so what "
            "they share was made by that. Judge it by a seed that took no part (mutual.held_out)."
        )
    points = sorted(trend.items())
    if len(points) >= 3 and points[-1][1] - points[-2][1] > 0.1 * max(points[-1][1], 1e-9):
        (before, low), (last, high) = points[-2:]
        out.append(
            f"too few tokens for a verdict. The shared share still rose from {low:.1%} at "
            f"{before:,} tokens to {high:.1%} at {last:,}; longer training raises it further. "
            "Read it as a point on that curve, not as a property of the SAE."
        )
    if epochs > 1.5:
        out.append(
            f"every training token was seen {epochs:.1f} times; different text would serve better."
        )
    out += _controls(group, controls)
    moved = group.distance_from_init.mean
    if moved is not None and moved > _HARDLY_MOVED:
        out.append(
            f"live decoder rows have hardly left where they started (mean cosine {moved:.2f}): "
            "what is shared, or not, is mostly that. Train longer, or at a higher learning rate."
        )
    if counts.dead_share > 0.1:
        out.append(
            f"{counts.dead_share:.0%} of the latents did not fire on held-out tokens; read the "
            "shares on live latents, since dead ones keep where they started."
        )
    proofs = group.certificates
    if proofs is not None and proofs.optimal < proofs.assignments:
        out.append(
            f"{proofs.assignments - proofs.optimal} of {proofs.assignments} assignments are not "
            f"proven optimal; the largest gap is {proofs.largest_gap:.3g}."
        )
    return out


def _missed(l0: Range | None, promised: float | None) -> list[str]:
    """An L0 that is not what was asked for, by more than a tenth, in some run."""
    if promised is None or l0 is None or l0.lo is None or l0.hi is None:
        return []
    if max(abs(end - promised) for end in (l0.lo, l0.hi)) <= _MISSED * promised:
        return []
    return [
        f"held-out L0 is {l0.lo:.3g} to {l0.hi:.3g} where {promised:g} was asked for; "
        "comparisons at equal L0 do not hold. Train longer, or start nearer to the penalty needed."
    ]


def _controls(group: GroupSummary, controls: Mapping[str, ControlSummary]) -> list[str]:
    """Controls that share as much as the runs of the question do."""
    assert group.headline is not None
    real = group.headline.shared["all"]
    low = real.value if real.interval_95 is None else real.interval_95[0]
    out: list[str] = []
    for kind, control in controls.items():
        share = None if control.shared is None else control.shared["all"].value
        if share is not None and share > 0 and low is not None and share >= low:
            out.append(
                f"the control {kind.replace('_', ' ')} shares {share:.1%}, not clearly less than "
                f"the runs themselves ({real.value:.1%}): their share does not rule out "
                f"{control.rules_out}."
            )
    return out


def _shared_seeds(group: GroupSummary) -> list[str]:
    """What the seeds that runs share mean for the numbers."""
    independent, counts = group.independent, group.counts
    assert independent is not None
    assert group.headline is not None
    if independent.they == SAME_INIT:
        return [
            "all runs start from the same weights, so what they share can be what they started "
            "with: read every share beside the untrained pair, and add init seeds."
        ]
    left_out = counts.pairs - independent.pairs
    if not left_out:
        return []
    out = [
        f"{left_out} of {counts.pairs} pairs are left out of all shares, since their runs share "
        "a seed; they are shown under where disagreement comes from."
    ]
    if group.headline.shared["all"].interval_95 is None:
        out.append(
            "crossed seeds with fewer than three of one kind (or runs missing) give no interval; "
            "take three init and three data seeds."
        )
    return out


def feature_warnings(features: FeatureCounts, closure: float | None, runs: int) -> list[str]:
    """Why estimates of the number of features should not be believed; empty if nothing says so.

    Args:
        features: the estimates.
        closure: triangle closure of the group's matches.
        runs: of the group; more than counted where some share a seed.
    """
    out: list[str] = []
    if closure is not None and closure < _CLOSED:
        out.append(
            f"single matches are unreliable: only {closure:.0%} of the chains over three runs "
            f"close. Each missed match makes one feature look like two that were found once, so "
            "the estimates can be far too high."
        )
    if features.runs < 5:
        out.append(
            f"{features.runs} runs: where features differ much in how easily they are found, Chao2 "
            "sees a half to three quarters of them with three runs."
        )
    once = features.once / features.observed if features.observed else 0.0
    if once > 0.5:
        out.append(
            f"{once:.0%} of the features were found in one run only; the "
            "estimate then rests on those found twice, and on tau."
        )
    if runs > features.runs:
        out.append(
            f"{features.runs} of the {runs} runs count: of those no two share a seed, and only "
            "such are independent occasions."
        )
    return out
