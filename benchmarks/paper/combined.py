"""One dictionary out of four runs, made twice from different runs; and runs with larger batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import reseed
from benchmarks.paper.claims import Claim, Row, Verdict, direction, groups_of, percent, told
from reseed.events import Events
from reseed.formats import own
from reseed.sae.model import from_arrays
from reseed.subjects.inputs import Inputs
from reseed.training.ensembles import Ensemble

PLAIN = "consensus"
"""The study whose runs have no option at all, and seeds that others have not."""

_BLOCKS = 16
"""Held-out blocks at a time."""


def made_of_four(study: reseed.Study) -> Claim:
    """Whether what is made of four runs comes back when it is made of four others."""
    both = _beside(study), study
    parts = [[_sae(one, run.id) for run in one.runs] for one in both]
    alone = [reseed.compare(a, b, null_draws=1) for a in parts[0] for b in parts[1]]
    shares = [float(one.pairs[0].numbers["shared"]["value"]) for one in alone]
    alone_fvu = [g.said["reconstruction"]["fvu"]["mean"] for one in both for g in groups_of(one)]
    rows = [
        Row(
            what=f"a run: FVU {np.mean(alone_fvu):.3f}",
            ours=f"{percent(float(np.mean(shares)))} ({percent(min(shares))} to "
            f"{percent(max(shares))} over {len(shares)} pairs)",
            null=_chance(alone[0]),
        )
    ]
    values: list[float] = []
    for least in (2, 3):
        made = [reseed.consensus(one, found_in=least, progress=False) for one in both]
        compared = reseed.compare(*(one.path for one in made))
        values.append(float(compared.pairs[0].numbers["shared"]["value"]))
        sizes = [one.members["latent"].n_unique() for one in made]
        rows.append(
            Row(
                what=f"consensus of what {least} of 4 found: {sizes[0]:,} and {sizes[1]:,} latents"
                f", {_made(made, 'consensus')}, one SAE so wide {_made(made, 'same width')}",
                ours=percent(values[-1]),
                null=_chance(compared),
            )
        )
    bags = [Ensemble(saes=tuple(some), kind="bagged") for some in parts]
    wide = [(_joined(bag, "W_enc"), _joined(bag, "W_dec")) for bag in bags]
    compared = reseed.compare(*wide)
    bagged = [_bagged(one, bag) for one, bag in zip(both, bags, strict=True)]
    rows.append(
        Row(
            what=f"bag of 4: {len(wide[0][0]):,} latents, FVU {np.mean(bagged):.3f}",
            ours=percent(float(compared.pairs[0].numbers["shared"]["value"])),
            null=_chance(compared),
        )
    )
    verdict: Verdict = "the same way" if min(values) > max(shares) else "cannot be told"
    return Claim(
        title="What several runs agree on comes back more than what one has",
        study=study.folder.name,
        verdict="the other way" if max(values) < min(shares) else verdict,
        rows=rows,
        how="Four runs are made into one dictionary, and four others into another; the two are one "
        "pair, so they have no interval. The same way: what two or three of four found comes back "
        "more than in each of the pairs of runs. A bag averages reconstructions, so it has the "
        "latents of all its runs.",
        why="The paper makes none; arXiv 2606.12138 pools features, 2505.16077 bags.",
    )


def larger_batch(study: reseed.Study) -> Claim:
    """Whether a larger batch makes more come back at equal tokens."""
    groups = groups_of(study)
    [plain] = groups_of(_beside(study))
    best = max(groups, key=lambda group: group.shared["value"])
    return Claim(
        title="A larger batch makes more features come back",
        study=study.folder.name,
        verdict=direction((plain.shared, best.shared), 1),
        rows=[
            *(
                Row(
                    what=group.row.what.replace(": ", f", batch {group.group.batch:,}: ", 1),
                    ours=f"{told(group.shared)}; at FDR 5 % "
                    + told(group.said["headline"]["match_at_fdr"]["all"]),
                    null=group.row.null,
                    share=group.shared,
                )
                for group in (plain, *groups)
            ),
        ],
        how="Equal tokens, so fewer steps. The best of the rates against the plain one.",
    )


def _beside(study: reseed.Study) -> reseed.Study:
    """The plain study in the same folder."""
    return reseed.Study.load(study.folder.with_name(f"{PLAIN}.toml"))


def _sae(study: reseed.Study, run: str) -> Any:
    return from_arrays(own.read_piece(study.store, f"runs/{run}", "."))


def _joined(bag: Ensemble, name: str) -> Any:
    return torch.cat([getattr(sae, name) for sae in bag.saes]).numpy()


def _chance(compared: reseed.Comparison) -> str:
    return f"random rows {percent(compared.pairs[0].numbers['shared']['null']['mean'])}"


def _made(made: list[Any], which: str) -> str:
    """FVU of two consensus dictionaries, or of what was trained beside them."""
    values = [one.evaluation.filter(sae=which)["fvu"] for one in made]
    found = [float(value[0]) for value in values if len(value)]
    return f"FVU {np.mean(found):.3f}" if found else "FVU -"


def _bagged(study: reseed.Study, bag: Ensemble) -> float:
    """FVU of the mean reconstruction of held-out rows."""
    inputs = Inputs(study, Events())
    [site], blocks = study.spec.activations.sites, list(inputs.split[1])
    parts = [
        inputs.source.read(blocks[at : at + _BLOCKS])[site].double()
        for at in range(0, len(blocks), _BLOCKS)
    ]
    left = sum(float((x - bag.reconstruct(x.float())).square().sum()) for x in parts)
    rows = torch.cat(parts)
    return left / float((rows - rows.mean(0)).square().sum())
