"""Claims that compare several groups of one study."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import reseed
from benchmarks.paper.claims import (
    ENDS_APART,
    TOO_FEW,
    Claim,
    Row,
    direction,
    groups_of,
    percent,
    told,
)


def over(study: reseed.Study, title: str, key: Callable[[Any], Any], paper: str, way: int) -> Claim:
    """A claim that overlap rises (1) or falls (-1) with what `key` gives of an `[[sae]]`."""
    groups = sorted(groups_of(study), key=lambda told: key(told.made.sae))
    return Claim(
        title=title,
        study=study.folder.name,
        verdict=direction((told.shared for told in groups), way),
        rows=[Row(what="the paper", paper=paper), *(told.row for told in groups)],
        how=ENDS_APART,
    )


def layers(study: reseed.Study) -> Claim:
    """The paper: 0 at the first layer, most in the upper middle; tested is the first alone."""
    groups = groups_of(study)
    width = max(told.made.sae.latents for told in groups)
    mlp = [g for g in groups if g.made.site.endswith(".mlp") and g.made.sae.latents == width]
    best = max((told.shared for told in mlp), key=lambda share: share["value"])
    paper = "0, 14, 16, 24, 45, 42, 42, 39, 42, 46, 41, 25 %"
    return Claim(
        title="Overlap is least at the first layer",
        study=study.folder.name,
        verdict=direction((mlp[0].shared, best), 1),
        rows=[
            Row(what="the paper, 32K, layers 0 to 11", paper=paper),
            *(told.row for told in groups),
        ],
        how="The first layer against the best one, at the MLP's output with the wider dictionary; "
        "where the best one lies is not tested.",
        why="Other numbers of layers: 12 in the paper, 30 here. Three runs of so few latents leave "
        "wide intervals, so a fall in the last layers would not be seen.",
    )


def part_in_another(study: reseed.Study) -> Claim:
    """Only part of the latents comes back in another model, more than by chance."""
    groups = groups_of(study)
    intervals = [told.shared["interval_95"] or (0.0, 1.0) for told in groups]
    part = all(low > TOO_FEW and high < 0.9 for low, high in intervals)
    return Claim(
        title="Another model: only part of the latents is shared there as well",
        study=study.folder.name,
        verdict="the same way" if part else "cannot be told",
        rows=[
            Row(what="the paper, MLP", paper="GPT-2, SmolLM-135M, Llama-3.1-8B beside Pythia-160M"),
            *(told.row for told in groups),
        ],
        how=f"Every interval between {percent(TOO_FEW)} and 90 %.",
    )


def order_of_data(study: reseed.Study) -> Claim:
    """What another order of the same data does, beside another start."""
    [(*_, group)] = groups_of(study)
    classes = group["components"]["classes"]
    neither, one_start = (
        classes[f"share {what}"]["shared"] for what in ("neither seed", "the init seed")
    )
    return Claim(
        title="Another order of the data from the same start keeps more than another start",
        study=study.folder.name,
        verdict=direction((neither, one_start), 1),
        rows=[
            Row(
                what=f"{one['pairs']} pairs that {name}",
                ours=told(one["shared"]),
                share=one["shared"],
                null=f"untrained {told(one['untrained'])}",
            )
            for name, one in classes.items()
        ],
        how="Pairs of one start against pairs that share neither seed.",
    )
