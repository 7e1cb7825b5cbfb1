"""k-means by scikit-learn, as an SAE: each row is its nearest centroid.

    W_enc = W_dec = c_i - mean,  b_dec = mean,  b_enc = -‖c_i - mean‖² / 2

The largest pre-activation is that of the nearest centroid, since ‖x - c‖² = ‖x - mean‖² - 2 p. It
alone gets the code 1 (`one_hot`), and x̂ = c_i. Centroids are taken from the mean so that directions
of decoder rows tell them apart. The init seed decides the k-means++ start.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from reseed.sae import fitted
from reseed.sae.architecture import At, Batch, Batches, Objective, Parameters, Start
from reseed.sae.fitted import Fitted
from reseed.sae.model import SAE


class KMeansSpec(Fitted):
    """Each row is its nearest centroid (k-means++ start and Lloyd's iteration)."""

    architecture: Literal["kmeans"] = "kmeans"
    rounds: Annotated[int, Field(ge=1)] = 100
    """Iterations at the most."""


UNIT_ROWS: frozenset[str] = frozenset()

BUFFERS = fitted.BUFFERS


def initial(spec: KMeansSpec, start: Start) -> Parameters:
    """A random start, which fitting replaces before the first step."""
    return fitted.initial(start)


def fit(p: Parameters, spec: KMeansSpec, init_seed: int, batches: Batches) -> Parameters:
    """Centroids of the first rows of the training, started from the init seed."""
    rows = fitted.rows_of(batches, spec.fit_rows)
    found = fitted.centroids(rows, spec.latents, spec.rounds, key=init_seed)
    mean = rows.mean(axis=0, dtype="float64")
    away = found.centroids - mean
    b_enc = -0.5 * (away**2).sum(axis=1)
    return fitted.parameters(away, away, mean, b_enc=b_enc, converged=found.converged)


def objective(p: Parameters, batch: Batch, spec: KMeansSpec, at: At) -> Objective:
    """How well it reconstructs a batch; there is nothing to train."""
    return fitted.evaluate(freeze(p, spec, {}), batch)


def freeze(p: Parameters, spec: KMeansSpec, about: Mapping[str, Any]) -> SAE:
    """The SAE that these parameters are."""
    return fitted.freeze(p, {"kind": "one_hot"}, about)
