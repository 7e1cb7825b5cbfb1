"""p-annealing (arXiv 2408.00113): ReLU with an Lp penalty whose p falls in steps.

    z = relu((x - b_dec) W_encᵀ + b_enc),  x̂ = z W_dec + b_dec,  u = z / ℓ
    loss = FVU + λ a Σ u^p / B,  ℓ² = Σ (x - mean over the batch)² / B

p goes from 1 to `p_end` in equal stretches after `anneal_from`. Where it goes from p to q, the
penalty is kept as large as it was: a ← a mean(Σ u^p) / mean(Σ u^q) over the last 10 batches. In the
units of ℓ one λ means the same at every site; λ ℓ² is the paper's λ for u. x [B, D], z [B, F].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from reseed.sae import Tensor, parts, torch
from reseed.sae.architecture import Architecture, At, Batch, Objective, Parameters, Start
from reseed.sae.model import SAE
from reseed.sae.settings import PenalisedSpec


class PAnnealSpec(PenalisedSpec):
    """ReLU with an Lp penalty whose p falls from 1 towards 0 (arXiv 2408.00113)."""

    architecture: Literal["panneal"] = "panneal"
    p_end: Annotated[float, Field(gt=0, le=1)] = 0.2
    """p at the end of training; it starts at 1."""
    anneal_from: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of the steps after which p begins to fall."""
    changes: Annotated[int, Field(ge=1)] = 10
    """Equal stretches of steps, each with a p of its own."""

    @model_validator(mode="after")
    def _falls(self) -> PAnnealSpec:
        if self.changes == 1 and self.p_end < 1:
            raise ValueError(
                "changes = 1 leaves no step between p = 1 and p_end; take changes of 2 or more"
            )
        self.refuse_idle("p_end below 1", self.p_end < 1, "anneal_from", "changes")
        return self


_RECENT = 10


def initial(spec: PAnnealSpec, start: Start) -> Parameters:
    """Parameters before training, with the norms of recent batches and the factor a."""
    return parts.autoencoder(start) | _buffers()


def _buffers() -> Parameters:
    return {"recent": torch.ones(_RECENT, 2), "adapted": torch.tensor(1.0)}


def stretch(step: int, steps: int, spec: PAnnealSpec) -> int:
    """Which value of p a step has, from 0."""
    begin = spec.anneal_from * steps
    return max(0, min(spec.changes - 1, int((step - begin) * spec.changes / (steps - begin))))


def power(stretch: int, spec: PAnnealSpec) -> float:
    """P in a stretch: from 1 to `p_end` in equal steps."""
    last = max(1, spec.changes - 1)
    return 1.0 - (1.0 - spec.p_end) * min(stretch, last) / last


def lp(u: Tensor, p: float) -> Tensor:
    """Σ u^p / B of codes `[B, F]`; silent ones have no gradient."""
    fires = u > 0
    return (torch.where(fires, u, 1.0).pow(p) * fires).sum() / len(u)


def objective(p: Parameters, batch: Batch, spec: PAnnealSpec, at: At) -> Objective:
    """Reconstruction and penalty of a batch, and what the next change of p needs."""
    x = batch.x
    z = torch.relu(parts.pre_activations(p, x))
    x_hat, scale, fvu = parts.reconstructed(p, z, x)
    u = z / (scale / len(x)).sqrt()
    now = stretch(at.step, at.steps, spec)
    adapted, recent = p["adapted"], p["recent"].clone()
    if at.step and now > stretch(at.step - 1, at.steps, spec):
        norms = recent[: min(at.step, _RECENT)].mean(0)
        adapted = adapted * norms[0] / norms[1].clamp_min(1e-12)
    penalty = lp(u, power(now, spec))
    recent[at.step % _RECENT] = torch.stack(
        [penalty.detach(), lp(u.detach(), power(now + 1, spec))]
    )
    beside = at.penalty * spec.penalty * adapted * penalty
    buffers = {"recent": recent, "adapted": adapted}
    return Objective(fvu + beside, fvu.detach(), z.detach(), buffers, x_hat, beside)


def freeze(p: Parameters, spec: PAnnealSpec, about: Mapping[str, Any]) -> SAE:
    """The SAE that these parameters are; training and inference rule are the same."""
    return parts.frozen(p, {"kind": "relu"}, about)


def thaw(sae: SAE, spec: PAnnealSpec, start: Start) -> Parameters:
    """To go on from a ReLU SAE, with p at 1 again."""
    return parts.thawed(sae, spec, start) | _buffers()


_BUFFERS = frozenset({"recent", "adapted"})
PANNEAL = Architecture(
    PAnnealSpec,
    initial,
    objective,
    freeze,
    buffers=_BUFFERS,
    thaw=thaw,
    thaws=frozenset({"relu"}),
)
