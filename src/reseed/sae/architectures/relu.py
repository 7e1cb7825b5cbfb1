"""ReLU with an L1 penalty on the codes (arXiv 2309.08600).

    z = relu((x - b_dec) W_encᵀ + b_enc),  x̂ = z W_dec + b_dec
    loss = FVU + λ Σ_bf |z_bf| w_f / (B ℓ),  ℓ² = Σ (x - mean over the batch)² / B

Decoder rows have length 1 and w_f = 1; or, with `decoder = "weighted"`, they are free and w_f is
their length (Anthropic, April 2024 update). Such an SAE is saved with rows of length 1 and codes
multiplied by their length, which computes the same.

FVU and the scaled L1 norm do not change with the unit that activations are measured in, so that
one λ means the same at every site. x [B, D], z [B, F].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from reseed.sae import parts, torch
from reseed.sae.architecture import Architecture, At, Batch, Objective, Parameters
from reseed.sae.model import SAE
from reseed.sae.parts import initial
from reseed.sae.settings import PenalisedSpec


class ReLUSpec(PenalisedSpec):
    """ReLU with an L1 penalty (arXiv 2309.08600; or as Anthropic's update of April 2024)."""

    architecture: Literal["relu"] = "relu"
    decoder: Literal["unit", "weighted"] = "unit"
    """`unit`: decoder rows have length 1; `weighted`: they are free, and the penalty on each code
    is weighted by the length of its row (April 2024)."""

    @property
    def unit_rows(self) -> bool:
        return self.decoder == "unit"

    @property
    def variant(self) -> dict[str, Any]:
        return {} if self.unit_rows else {"decoder_": self.decoder}


def objective(p: Parameters, batch: Batch, spec: ReLUSpec, at: At) -> Objective:
    """Reconstruction and penalty of a batch."""
    x = batch.x
    z = torch.relu(parts.pre_activations(p, x))
    x_hat, scale, fvu = parts.reconstructed(p, z, x)
    length = (scale / len(x)).sqrt()
    sizes = z if spec.unit_rows else z * torch.linalg.vector_norm(p["W_dec"], dim=1)
    sparsity = at.penalty * spec.penalty * sizes.sum() / (len(x) * length)
    return Objective(fvu + sparsity, fvu.detach(), z.detach(), {}, x_hat, sparsity)


def freeze(p: Parameters, spec: ReLUSpec, about: Mapping[str, Any]) -> SAE:
    """The SAE that these parameters are; training and inference rule are the same."""
    unit = p if spec.unit_rows else parts.rows_to_unit(p)
    return parts.frozen(unit, {"kind": "relu"}, about)


RELU = Architecture(
    ReLUSpec, initial, objective, freeze, thaw=parts.thawed, thaws=frozenset({"relu"})
)
