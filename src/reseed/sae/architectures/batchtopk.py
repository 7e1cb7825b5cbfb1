"""BatchTopK (arXiv 2412.06410): the k B largest pre-activations of a batch fire.

    z = the k B largest of relu((x - b_dec) W_encᵀ + b_enc),  x̂ = z W_dec + b_dec
    loss = FVU + α AuxK
    θ ← m θ + (1 - m) min {z : z > 0}

After training rows come one by one, so it is saved as JumpReLU: relu(p) where p > θ. The paper
takes θ as the mean over batches of the smallest code that fires; the running mean follows it
through training, as in the libraries.

Matryoshka BatchTopK (arXiv 2503.17547): each prefix of the latents reconstructs alone.

    x̂_m = z[:, :m] W_dec[:m] + b_dec
    loss = Σ_m Σ (x̂_m - x)² / Σ (x - mean)² + α AuxK,  m over the prefixes and the whole

x [B, D], z [B, F].
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from reseed.errors import SpecError
from reseed.sae import Tensor, codes, parts, torch
from reseed.sae.architecture import Architecture, At, Batch, Objective, Parameters, Start
from reseed.sae.in_blocks import InBlocksSpec
from reseed.sae.model import SAE
from reseed.sae.parts import squared_variation
from reseed.sae.settings import ArchitectureSpec, Share


def _plain(k: float) -> float:
    """A whole number as such, so that 2.0 and 2 are one run."""
    return int(k) if k == int(k) else k


class BatchSpec(ArchitectureSpec):
    """What all architectures with the batch rule have in common."""

    k: Annotated[int | float, Field(gt=0), AfterValidator(_plain)] = 32
    """Latents that fire in a row, on average over a batch; 1.5 is three in two rows."""
    auxk_alpha: Annotated[float, Field(ge=0)] = 1 / 32
    """Weight of the auxiliary loss that lets dead latents explain the error."""
    threshold_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Of the running mean of the smallest code that fires, which is the threshold at inference."""

    @property
    def promised_l0(self) -> float | None:
        return self.k


class BatchTopKSpec(InBlocksSpec, BatchSpec):
    """The k B largest pre-activations of a batch fire; saved as JumpReLU (arXiv 2412.06410)."""

    architecture: Literal["batchtopk"] = "batchtopk"


class MatryoshkaSpec(BatchSpec):
    """BatchTopK in which nested prefixes of the latents reconstruct alone (arXiv 2503.17547)."""

    without: ClassVar[frozenset[str]] = frozenset({"end_to_end"})

    architecture: Literal["matryoshka"] = "matryoshka"
    prefixes: tuple[Share, ...] = (1 / 32, 3 / 32, 7 / 32, 15 / 32)
    """Ends of the nested prefixes as shares of the latents, the whole left out; as in the paper."""

    @model_validator(mode="after")
    def _nested(self) -> MatryoshkaSpec:
        if any(a >= b for a, b in pairwise((0, *self.widths))):
            raise ValueError(
                f"prefixes = {list(self.prefixes)} of {self.latents} latents end at "
                f"{list(self.widths)}; each must have a latent more than the one before it: name "
                "them in rising order, or take more latents"
            )
        return self

    @property
    def widths(self) -> tuple[int, ...]:
        """Latents in each prefix, the whole last."""
        return (*(int(share * self.latents) for share in self.prefixes), self.latents)


def initial(spec: BatchSpec, start: Start) -> Parameters:
    """Parameters before training."""
    return parts.autoencoder(start) | {"threshold": torch.tensor(parts.NOT_YET)}


def objective(p: Parameters, batch: Batch, spec: BatchTopKSpec, at: At) -> Objective:
    """Reconstruction by the batch rule, and the threshold's next value."""
    x = batch.x
    pre = parts.pre_activations(p, x)
    z = codes.batch_top(pre, spec.k)
    x_hat, scale, fvu = parts.reconstructed(p, z, x)
    loss = fvu + parts.weighted_auxk(p, pre, x - x_hat, scale, spec.auxk_alpha, at.dead)
    return Objective(loss, fvu.detach(), z.detach(), _threshold(p, z, spec), x_hat, loss - fvu)


def nested_objective(p: Parameters, batch: Batch, spec: MatryoshkaSpec, at: At) -> Objective:
    """Reconstruction by every prefix; `fvu` is that of the whole."""
    x = batch.x
    pre = parts.pre_activations(p, x)
    z = codes.batch_top(pre, spec.k)
    scale = squared_variation(x)
    loss = torch.zeros((), dtype=x.dtype, device=x.device)
    error, fvu = x - p["b_dec"], loss
    for first, end in pairwise((0, *spec.widths)):
        error = error - z[:, first:end] @ p["W_dec"][first:end]
        fvu = error.square().sum() / scale
        loss = loss + fvu
    loss = loss + parts.weighted_auxk(p, pre, error, scale, spec.auxk_alpha, at.dead)
    return Objective(loss, fvu.detach(), z.detach(), _threshold(p, z, spec))


def _threshold(p: Parameters, z: Tensor, spec: BatchSpec) -> dict[str, Tensor]:
    momentum = spec.threshold_momentum
    return {"threshold": parts.running_threshold(p["threshold"], z.detach(), momentum)}


def freeze(p: Parameters, spec: BatchSpec, about: Mapping[str, Any]) -> SAE:
    """As JumpReLU with the running threshold; before the first step by the batch rule."""
    if float(p["threshold"]) < 0:
        return parts.frozen(p, {"kind": "batchtopk", "k": spec.k}, about)
    threshold = p["threshold"].detach().expand(len(p["b_enc"])).clone()
    return parts.frozen(p, {"kind": "jumprelu"}, about, threshold)


def one_threshold(sae: SAE, spec: ArchitectureSpec) -> Tensor:
    """The threshold that all latents have, negative where a batch rule has none; a scalar.

    Raises:
        SpecError: if they have different ones.
    """
    if sae.threshold is None:
        return torch.tensor(parts.NOT_YET)
    low, high = sae.threshold.aminmax()
    if float(high - low) > 1e-5 * float(high.abs()):
        raise SpecError(
            f"init = {spec.init!r}: its thresholds lie between {low:.3g} and {high:.3g}, and "
            f"{spec.name} has one for all latents; jumprelu has one for each"
        )
    return sae.threshold.mean()


def thaw(sae: SAE, spec: BatchSpec, start: Start) -> Parameters:
    """To go on from one: of JumpReLU, the running threshold goes on too."""
    return parts.thawed(sae, spec, start) | {"threshold": one_threshold(sae, spec)}


_BUFFERS = frozenset({"threshold"})
_BACK: Any = {"thaw": thaw, "thaws": frozenset({"batchtopk", "jumprelu"})}
BATCHTOPK = Architecture(BatchTopKSpec, initial, objective, freeze, buffers=_BUFFERS, **_BACK)
MATRYOSHKA = Architecture(
    MatryoshkaSpec, initial, nested_objective, freeze, buffers=_BUFFERS, **_BACK
)
