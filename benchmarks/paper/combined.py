"""One dictionary out of four runs, made twice from different runs; and runs with larger batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

import reseed
from benchmarks.paper.claims import Claim, Row, Verdict, direction, groups_of, percent, told
from reseed.events import Events
from reseed.subjects.inputs import Inputs
from reseed.training.ensembles import Ensemble

PLAIN = "consensus"
"""The study whose runs have no option at all, and seeds that others have not."""

_BLOCKS = 16
"""Held-out blocks at a time."""


def made_of_four(study: reseed.Study) -> Claim:
    """Whether what is made of four runs comes back when it is made of four others."""
    both = _beside(study), study
    parts = [[run.sae() for run in one.runs] for one in both]
    alone = [reseed.compare(a, b, null_draws=1) for a in parts[0] for b in parts[1]]
    shares = [_shared(one) for one in alone]
    fvu = [group.said["reconstruction"]["fvu"]["mean"] for one in both for group in groups_of(one)]
    made = [_consensus(both, least) for least in (2, 3)]
    of_consensus = [share for share, _ in made]
    verdict: Verdict = "the same way" if min(of_consensus) > max(shares) else "cannot be told"
    ends = f"{percent(min(shares))} to {percent(max(shares))} over {len(shares)} pairs"
    return Claim(
        title="What several runs agree on comes back more than what one has",
        study=study.folder.name,
        verdict="the other way" if max(of_consensus) < min(shares) else verdict,
        rows=[
            Row(
                what=f"a run: FVU {np.mean(fvu):.3f}",
                ours=f"{percent(float(np.mean(shares)))} ({ends})",
                null=_chance(alone[0]),
            ),
            *(row for _, row in made),
            _bag(both, parts),
        ],
        how="Four runs are made into one dictionary, and four others into another; the two are one "
        "pair, so they have no interval. The same way: what two or three of four found comes back "
        "more than in each of the pairs of runs. A bag averages reconstructions, so it has the "
        "latents of all its runs.",
        why="The paper makes none; arXiv 2606.12138 pools features, 2505.16077 bags.",
    )


def _consensus(both: Sequence[reseed.Study], least: int) -> tuple[float, Row]:
    """Of what so many of four found: the share in the other, and its row."""
    made = [reseed.consensus(one, found_in=least, progress=False) for one in both]
    compared = reseed.compare(*(one.path for one in made))
    sizes = " and ".join(f"{one.members['latent'].n_unique():,}" for one in made)
    what = (
        f"consensus of what {least} of 4 found: {sizes} latents, {_fvu(made, 'consensus')}, "
        f"one SAE so wide {_fvu(made, 'same width')}"
    )
    share = _shared(compared)
    return share, Row(what=what, ours=percent(share), null=_chance(compared))


def _bag(both: Sequence[reseed.Study], parts: Sequence[Sequence[reseed.SAE]]) -> Row:
    """Of all latents of four runs, held against those of four others."""
    bags = [Ensemble(saes=tuple(some), kind="bagged") for some in parts]
    encoders = [torch.cat([sae.W_enc for sae in bag.saes]).numpy() for bag in bags]
    compared = reseed.compare(
        *((rows, bag.dictionary.numpy()) for rows, bag in zip(encoders, bags, strict=True))
    )
    fvu = np.mean([_bagged(one, bag) for one, bag in zip(both, bags, strict=True)])
    what = f"bag of 4: {len(encoders[0]):,} latents, FVU {fvu:.3f}"
    return Row(what=what, ours=percent(_shared(compared)), null=_chance(compared))


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


def _shared(compared: reseed.Comparison) -> float:
    return float(compared.pairs[0].numbers["shared"]["value"])


def _chance(compared: reseed.Comparison) -> str:
    return f"random rows {percent(compared.pairs[0].numbers['shared']['null']['mean'])}"


def _fvu(made: Sequence[Any], which: str) -> str:
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
