"""Principal component analysis by scikit-learn, as an SAE.

    latents 2 i and 2 i + 1: W_enc = W_dec = ± v_i,  b_dec = mean,  z = relu(±(x - mean) · v_i)

so that a reconstruction is that of PCA with latents / 2 components: of the two signs one is 0. With
k the strongest k pass (TopK). It is a function of the rows: nothing is drawn, and init seeds differ
in nothing. Rows with both signs make matching blind to the sign that PCA leaves open.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from reseed.sae import fitted
from reseed.sae.architecture import At, Batch, Batches, Objective, Parameters, Start
from reseed.sae.fitted import Signed
from reseed.sae.model import SAE


class PCASpec(Signed):
    """The first latents / 2 principal components, each with both signs."""

    architecture: Literal["pca"] = "pca"


UNIT_ROWS: frozenset[str] = frozenset()

BUFFERS = fitted.BUFFERS


def initial(spec: PCASpec, start: Start) -> Parameters:
    """A random start, which fitting replaces before the first step.

    Raises:
        SpecError: if there are fewer dimensions than components.
    """
    fitted.check_width(spec.latents // 2, start)
    return fitted.initial(start)


def fit(p: Parameters, spec: PCASpec, init_seed: int, batches: Batches) -> Parameters:
    """Principal directions of the first rows of the training."""
    rows = fitted.rows_of(batches, spec.fit_rows)
    fitted.check_rows(rows, spec.latents // 2, "pca", "components")
    directions, mean = fitted.principal(rows, spec.latents // 2)
    W_enc, W_dec = fitted.signed(directions, directions)
    return fitted.parameters(W_enc, W_dec, mean)


def objective(p: Parameters, batch: Batch, spec: PCASpec, at: At) -> Objective:
    """How well it reconstructs a batch; there is nothing to train."""
    return fitted.evaluate(freeze(p, spec, {}), batch)


def freeze(p: Parameters, spec: PCASpec, about: Mapping[str, Any]) -> SAE:
    """The SAE that these parameters are."""
    return fitted.freeze(p, fitted.rule(spec.k), about)
