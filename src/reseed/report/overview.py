"""The first tables of a study's page: what comes back, what was trained."""

from __future__ import annotations

from collections.abc import Sequence

from reseed.matching.measures import MATCH_AT_FDR, SHARED
from reseed.report.html import (
    Html,
    Inside,
    beside,
    count,
    interval,
    mean_and_range,
    percent,
    span,
    table,
    tag,
    text,
)
from reseed.report.parts import figure, glossary, link, note
from reseed.spec.statistics import Headline, Number
from reseed.spec.summary import ControlSummary, StudyGroup, Summary

Groups = Sequence[StudyGroup]


def overview(summary: Summary) -> Html | None:
    """What comes back, what was trained, and what the words mean."""
    groups = summary.groups
    if not groups:
        return None
    several = sum(group.headline is not None for group in groups) > 1
    forest = figure("forest") if several else None
    tokens = span([group.reconstruction.held_out_tokens for group in groups])
    held_out = f"{tokens} held-out {summary.rows_are}"
    words = glossary(held_out, controls=any(group.controls for group in groups))
    inside = (shares_table(groups), training_table(groups), _proofs(groups))
    return tag("section", tag("h2", "Headline"), forest, *inside, words)


def shares_table(groups: Groups) -> Html | None:
    """What comes back, on all latents and on live ones if some are dead, beside chance."""
    rows: list[dict[str, Inside]] = []
    for number, group in enumerate(groups):
        name: Inside = link(group.label, number)
        if group.headline is None:
            few = "one run: nothing to compare"
            rows.append({"SAE": name, "share": None, "what counts": few})
            continue
        tau = f"shared at tau {group.headline.tau:g}"
        ceiling: str | None = percent(group.headline.ceiling_same_run)
        chosen = _strata(group.headline)
        for stratum in chosen:
            for measure, what in ((SHARED.id, tau), (MATCH_AT_FDR, "match at FDR 5%")):
                if (share := group.headline.of(measure).get(stratum)) is not None:
                    latents = stratum if len(chosen) > 1 else "all or live"
                    rows.append(_share_row(name, what, latents, share, ceiling))
                    name = ceiling = None
        for kind, control in group.controls.items():
            if control.shared is None:
                few = "fewer than two runs"
                rows.append({"SAE": None, "share": None, "what counts": few} | _control(kind))
            else:
                latents = _control(kind)["latents"]
                rows.append(_share_row(None, tau, latents, control.shared["all"]))
    same = all(row.get("chance-corrected") in (None, row.get("plain")) for row in rows)
    shown = [
        {k: v for k, v in row.items() if k != "plain" and not (same and k == "chance-corrected")}
        for row in rows
    ]
    return table(shown, caption="What comes back", words=("latents", "what counts"))


def _strata(headline: Headline) -> tuple[str, ...]:
    """Live latents have rows of their own only where that changes a share."""
    for strata in (headline.of(SHARED.id), headline.of(MATCH_AT_FDR)):
        both, live = strata.get("all"), strata.get("live")
        if both and live and percent(both.value) != percent(live.value):
            return "all", "live"
    return ("all",)


def _share_row(
    name: Inside, what: str, latents: str, share: Number, ceiling: str | None = None
) -> dict[str, Inside]:
    null = share.null_covariance
    draws = (null.lo, null.hi) if null and null.lo != null.hi else None
    return {
        "SAE": name,
        "share": tag("strong", percent(share.value)),
        "95% interval": interval(share.interval_95),
        "what counts": what,
        "latents": latents,
        "chance (range of draws)": beside(null and null.mean, draws),
        "untrained pair": percent(share.null_untrained),
        "run with itself": ceiling,
        "chance-corrected": percent(share.chance_corrected),
        "plain": percent(share.value),
    }


def training_table(groups: Groups) -> Html | None:
    """What was trained: counts, reconstruction, tokens."""
    rows: list[dict[str, Inside]] = []
    for number, group in enumerate(groups):
        rows.append(_training_row(link(group.label, number), group, group.tokens))
        for kind, control in group.controls.items():
            if control.counts is not None:
                name = _control(kind)["latents"]
                rows.append(_training_row(name, control, group.tokens))
    return table(rows, caption="What was trained; counts are of one run")


def _control(kind: str) -> dict[str, str]:
    return {"latents": f"control: {kind.replace('_', ' ')}"}


def _training_row(
    name: Inside, group: StudyGroup | ControlSummary, tokens: int
) -> dict[str, Inside]:
    counts, fit = group.counts, group.reconstruction
    assert counts is not None
    assert fit is not None
    return {
        "SAE": name,
        "runs": count(counts.runs),
        "tokens seen": count(tokens),
        "latents": count(counts.latents),
        "live": span(counts.live),
        "dead": span(counts.dead),
        "dense": span(counts.dense),
        "FVU, held out": mean_and_range(fit.fvu),
        "robust FVU": fit.fvu_robust and f"{fit.fvu_robust.mean:.3g}",
        "L0": mean_and_range(fit.l0),
        "gamma": fit.gamma and f"{fit.gamma.mean:.3g}",
        "cosine to its start": mean_and_range(group.distance_from_init),
    }


def _proofs(groups: Groups) -> Html | None:
    """How many assignments are proven; what is not is in the notes."""
    proofs = [group.certificates for group in groups if group.certificates is not None]
    if not proofs:
        return None
    optimal, all_ = (sum(getattr(p, key) for p in proofs) for key in ("optimal", "assignments"))
    gap = f"{max(proof.largest_gap for proof in proofs):.2g}"
    return note(text("proofs", optimal=count(optimal), assignments=count(all_), gap=gap))
