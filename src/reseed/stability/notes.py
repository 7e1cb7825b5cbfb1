"""What a reader must know before believing a headline number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reseed.stability.intervals import SAME_INIT

_HARDLY_MOVED = 0.8
"""Cosine of the rows that a soft-frozen decoder is held at, arXiv 2602.14111."""
_MISSED = 0.1
"""Share of the promised L0 by which a run may be off."""


def notes(
    group: Mapping[str, Any],
    trend: Mapping[int, float],
    epochs: float,
    promised_l0: float | None = None,
    *,
    pulled: bool = False,
) -> list[str]:
    """Plain sentences about what weakens the numbers of a group.

    Args:
        group: its summary.
        trend: tokens seen to shared share.
        epochs: how often each training token was seen.
        promised_l0: latents that should fire in a row; None if nothing says so.
        pulled: whether runs were trained towards each other (`mutual`).
    """
    counts = group["counts"]
    out = _missed(group["reconstruction"]["l0"], promised_l0)
    if counts["runs"] < 2:
        return [*out, "one run only: nothing can be said about what comes back. Add seeds."]
    if counts["runs"] == 2:
        out.append("two runs give one pair: there is no interval. Add seeds.")
    out += _shared_seeds(group)
    if pulled:
        out.append(
            "these runs were pulled towards each other while they were trained (mutual), so what "
            "they share was made by that. Judge it by a seed that took no part (mutual.held_out)."
        )
    seen = sorted(trend.items())
    if len(seen) >= 3 and seen[-1][1] - seen[-2][1] > 0.1 * max(seen[-1][1], 1e-9):
        (before, low), (last, high) = seen[-2:]
        out.append(
            f"too few tokens for a verdict. The shared share still rose from {low:.1%} at "
            f"{before:,} tokens to {high:.1%} at {last:,}; longer training raises it further. "
            "Read it as a point on that curve, not as a property of the SAE."
        )
    if epochs > 1.5:
        out.append(
            f"every training token was seen {epochs:.1f} times; different text would serve better."
        )
    out += _controls(group)
    moved = group["distance_from_init"]["mean"]
    if moved is not None and moved > _HARDLY_MOVED:
        out.append(
            f"live decoder rows have hardly left where they started (mean cosine {moved:.2f}): "
            "what is shared, or not, is mostly that. Train longer, or at a higher learning rate."
        )
    dead = sum(counts["dead"]) / (counts["latents"] * counts["runs"])
    if dead > 0.1:
        out.append(
            f"{dead:.0%} of the latents did not fire on held-out tokens; read the shares on live "
            "latents, since dead ones keep where they started."
        )
    certificates = group["certificates"]
    if certificates["optimal"] < certificates["assignments"]:
        out.append(
            f"{certificates['assignments'] - certificates['optimal']} of "
            f"{certificates['assignments']} assignments are not proven optimal; the largest gap is "
            f"{certificates['largest_gap']:.3g}."
        )
    return out


def _missed(l0: Mapping[str, float], promised: float | None) -> list[str]:
    """An L0 that is not what was asked for, by more than a tenth, in some run."""
    if promised is None:
        return []
    if max(abs(l0[end] - promised) for end in ("lo", "hi")) <= _MISSED * promised:
        return []
    return [
        f"held-out L0 is {l0['lo']:.3g} to {l0['hi']:.3g} where {promised:g} was asked for; "
        "comparisons at equal L0 do not hold. Train longer, or start nearer to the penalty needed."
    ]


def _controls(group: Mapping[str, Any]) -> list[str]:
    """Controls that share as much as the runs of the question do."""
    real = group["headline"]["shared"]["all"]
    low = real["value"] if real["interval_95"] is None else real["interval_95"][0]
    out: list[str] = []
    for kind, control in group.get("controls", {}).items():
        found = control["shared"] and control["shared"]["all"]["value"]
        if found is not None and found > 0 and found >= low:
            out.append(
                f"the control {kind.replace('_', ' ')} shares {found:.1%}, not clearly less than "
                f"the runs themselves ({real['value']:.1%}): their share does not rule out "
                f"{control['rules_out']}."
            )
    return out


def _shared_seeds(group: Mapping[str, Any]) -> list[str]:
    """What the seeds that runs share mean for the numbers."""
    they, counts = group["independent"]["they"], group["counts"]
    if they == SAME_INIT:
        return [
            "all runs start from the same weights, so what they share can be what they started "
            "with: read every share beside the untrained pair, and add init seeds."
        ]
    left_out = counts["pairs"] - group["independent"]["pairs"]
    if not left_out:
        return []
    out = [
        f"{left_out} of {counts['pairs']} pairs are left out of all shares, since their runs share "
        "a seed; they are shown under where disagreement comes from."
    ]
    if group["headline"]["shared"]["all"]["interval_95"] is None:
        out.append(
            "crossed seeds with fewer than three of one kind (or runs missing) give no interval; "
            "take three init and three data seeds."
        )
    return out
