"""What makes features come back, and what it costs: one row for each option."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

import reseed
from benchmarks.paper.claims import Claim, Row, direction, groups_of, percent, told
from reseed.formats import own
from reseed.matching.match import Views, compare
from reseed.matching.measures import is_shared

APART = 4
"""Init seed of the run that takes no part, of the first `[[sae]]`."""


def stabilisers(study: reseed.Study) -> Claim:
    """Every option beside the first `[[sae]]`, which has none."""
    groups, tau = groups_of(study), study.spec.matching.tau
    runs = {run.id: run.spec for run in study.runs}
    plain = groups[0]
    other = _views(study, next(r for r in plain.group.runs if runs[r].init_seed == APART))
    rows: list[Row] = []
    for group in groups:
        mine = [run for run in group.group.runs if runs[run].init_seed != APART]
        apart = [_shared(_views(study, run), other, tau) for run in mine]
        row, at_fdr = group.row, group.said["headline"]["match_at_fdr"]["all"]
        also = f"at FDR 5 % {told(at_fdr)}, with a run apart {percent(float(np.mean(apart)))}"
        rows.append(replace(row, ours=f"{row.ours}; {also}"))
    best = max(groups, key=lambda group: group.shared["value"])
    return Claim(
        title="Some options make more features come back than TopK alone",
        study=study.folder.name,
        verdict=direction((plain.shared, best.shared), 1),
        rows=rows,
        how=f"Most is shared by {best.group.label}, the best of {len(groups)}, picked by these "
        "numbers. Agreement of runs that were pulled together says nothing; agreement with a run "
        "of the plain SAE, which took no part, does.",
    )


def _views(study: reseed.Study, run: str) -> Views:
    sae: Any = own.read_piece(study.store, f"runs/{run}", ".")
    return Views(sae.W_enc, sae.W_dec)


def _shared(a: Views, b: Views, tau: float) -> float:
    table = compare(a, b).table
    return float(is_shared(table.filter(side="a"), tau).to_numpy().mean())
