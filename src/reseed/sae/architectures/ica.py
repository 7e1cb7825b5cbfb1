"""Independent component analysis by scikit-learn's FastICA, as an SAE.

    sources s = U (x - mean),  x̂ = M s + mean;  latents 2 i and 2 i + 1: W_dec = ± M_i / ‖M_i‖,
    W_enc = ± U_i ‖M_i‖,  b_dec = mean,  z = relu((x - mean) W_encᵀ)

so that a reconstruction is that of ICA with latents / 2 components. With k the strongest k pass
(TopK). The init seed decides where the iteration starts. Source: Hyvärinen (1999).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from reseed.sae import fitted
from reseed.sae.architecture import At, Batch, Batches, Objective, Parameters, Start
from reseed.sae.fitted import Signed
from reseed.sae.model import SAE


class ICASpec(Signed):
    """latents / 2 independent components by FastICA (Hyvärinen, 1999), each with both signs."""

    architecture: Literal["ica"] = "ica"
    rounds: Annotated[int, Field(ge=1)] = 200
    """Iterations at the most."""


UNIT_ROWS: frozenset[str] = frozenset()

BUFFERS = fitted.BUFFERS


def initial(spec: ICASpec, start: Start) -> Parameters:
    """A random start, which fitting replaces before the first step.

    Raises:
        SpecError: if there are fewer dimensions than components.
    """
    fitted.check_width(spec.latents // 2, start)
    return fitted.initial(start)


def fit(p: Parameters, spec: ICASpec, init_seed: int, batches: Batches) -> Parameters:
    """Components of the first rows of the training, started from the init seed."""
    rows = fitted.rows_of(batches, spec.fit_rows)
    fitted.check_rows(rows, spec.latents // 2, "ica", "components")
    found = fitted.independent(rows, spec.latents // 2, spec.rounds, init_seed)
    W_enc, W_dec = fitted.signed(found.unmixing, found.mixing.T)
    return fitted.parameters(W_enc, W_dec, found.mean, converged=found.converged)


def objective(p: Parameters, batch: Batch, spec: ICASpec, at: At) -> Objective:
    """How well it reconstructs a batch; there is nothing to train."""
    return fitted.evaluate(freeze(p, spec, {}), batch)


def freeze(p: Parameters, spec: ICASpec, about: Mapping[str, Any]) -> SAE:
    """The SAE that these parameters are."""
    return fitted.freeze(p, fitted.rule(spec.k), about)
