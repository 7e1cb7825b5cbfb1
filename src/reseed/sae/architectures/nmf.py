"""Non-negative matrix factorisation by scikit-learn, as an SAE.

    b_dec = the least value of each dimension over the fitted rows,  x - b_dec ≈ z H,  z, H >= 0
    W_dec = rows of H of length 1,  W_enc = their pseudo-inverse,  z = relu((x - b_dec) W_encᵀ)

Activations have either sign, so they are shifted first. NMF itself finds the z of a row by an
iteration; an SAE has to find them at once, and takes the least-squares ones cut at 0. They
reconstruct worse than those of the iteration. The init seed decides where the iteration starts.
Source: Lee and Seung (1999).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from reseed.sae import fitted
from reseed.sae.architecture import At, Batch, Batches, Objective, Parameters, Start
from reseed.sae.fitted import Fitted
from reseed.sae.model import SAE


class NMFSpec(Fitted):
    """Non-negative factors of rows less each dimension's smallest value (Lee and Seung, 1999)."""

    architecture: Literal["nmf"] = "nmf"
    fit_rows: Annotated[int, Field(ge=2)] = 16_384
    """See `PCASpec`; fewer, since this iteration is the slowest."""
    rounds: Annotated[int, Field(ge=1)] = 200
    """Iterations at the most."""


UNIT_ROWS: frozenset[str] = frozenset()

BUFFERS = fitted.BUFFERS


def initial(spec: NMFSpec, start: Start) -> Parameters:
    """A random start, which fitting replaces before the first step.

    Raises:
        SpecError: if there are fewer dimensions than components.
    """
    fitted.check_width(spec.latents, start)
    return fitted.initial(start)


def fit(p: Parameters, spec: NMFSpec, init_seed: int, batches: Batches) -> Parameters:
    """Factors of the first rows of the training, started from the init seed."""
    rows = fitted.rows_of(batches, spec.fit_rows)
    fitted.check_rows(rows, spec.latents, "nmf", "components")
    least = rows.min(axis=0)
    found, converged = fitted.factors(rows - least, spec.latents, spec.rounds, init_seed)
    length = np.linalg.norm(found, axis=1, keepdims=True)
    W_dec = found / np.where(length > 0, length, 1.0)
    W_enc = np.linalg.pinv(W_dec.astype(np.float64)).T
    return fitted.parameters(W_enc, W_dec, least, converged=converged)


def objective(p: Parameters, batch: Batch, spec: NMFSpec, at: At) -> Objective:
    """How well it reconstructs a batch; there is nothing to train."""
    return fitted.evaluate(freeze(p, spec, {}), batch)


def freeze(p: Parameters, spec: NMFSpec, about: Mapping[str, Any]) -> SAE:
    """The SAE that these parameters are."""
    return fitted.freeze(p, {"kind": "relu"}, about)
