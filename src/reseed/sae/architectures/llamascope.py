"""Llama Scope's TopK (arXiv 2410.20526): chosen by code times decoder norm, saved as JumpReLU.

    x' = c x,  c = √D / mean ‖x‖ over the first batch
    p = relu(x' W_encᵀ + b_enc),  f = p where p ‖W_dec‖ is among the K largest, else 0
    x̂' = f W_dec + b_dec,  loss = Σ (x̂' - x')² / Σ (x' - mean over the batch)²

Decoder norms are free. K goes from D down to k in the first steps. After training norms and c are
folded in, and one threshold θ, the (N k)-th largest p ‖W_dec‖ / c over N rows, takes TopK's place.

B batch, D dimensions, F latents.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from reseed.sae import np, parts, torch
from reseed.sae.architecture import (
    Architecture,
    At,
    Batch,
    BatchSource,
    Objective,
    Parameters,
    Start,
)
from reseed.sae.architectures.batchtopk import one_threshold
from reseed.sae.model import SAE
from reseed.sae.parts import squared_variation
from reseed.sae.settings import ArchitectureSpec


class LlamaScopeSpec(ArchitectureSpec):
    """TopK chosen by code times decoder norm, saved as JumpReLU (Llama Scope, arXiv 2410.20526)."""

    without: ClassVar[frozenset[str]] = frozenset({"end_to_end"})
    subtracts: ClassVar[bool] = False

    architecture: Literal["llamascope"] = "llamascope"
    k: Annotated[int, Field(ge=1)] = 50
    """Latents that may fire at a time once annealing is over."""
    lr: Annotated[float, Field(gt=0)] | None = 8e-4
    """Peak learning rate; the paper's, for inputs scaled as it scales them."""
    anneal: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the steps in which the number of latents that fire goes from D down to k."""
    threshold_rows: Annotated[int, Field(ge=1)] = 32_768
    """Rows at the end of training from which the one threshold is found."""

    @property
    def unit_rows(self) -> bool:
        return False


def initial(spec: LlamaScopeSpec, start: Start) -> Parameters:
    """Parameters before training: decoder rows of length √(2 D / F), W_enc = W_dec, biases 0."""
    dimensions = start.rows.shape[1]
    rows = parts.unit_rows(start.rows) * np.float32(np.sqrt(2 * dimensions / spec.latents))
    scale = torch.ones(())
    if start.batches is not None:
        scale = parts.input_scale(next(start.batches.first(1)).x)
    return {
        "W_enc": torch.from_numpy(rows.copy()),
        "b_enc": torch.zeros(spec.latents),
        "W_dec": torch.from_numpy(rows),
        "b_dec": torch.zeros(dimensions),
        "scale": scale,
        "threshold": torch.tensor(parts.NOT_YET),
    }


def active(spec: LlamaScopeSpec, at: At, dimensions: int) -> int:
    """K at a step: from D (or F) linearly down to k, and k from then on."""
    first = max(spec.k, min(dimensions, spec.latents))
    return parts.falling_k(at.step, first=first, k=spec.k, over=spec.anneal * at.steps)


def objective(p: Parameters, batch: Batch, spec: LlamaScopeSpec, at: At) -> Objective:
    """The loss of a batch."""
    x = batch.x * p["scale"]
    pre = torch.relu(x @ p["W_enc"].T + p["b_enc"])
    with torch.no_grad():
        norms = torch.linalg.vector_norm(p["W_dec"], dim=1)
        chosen = (pre * norms).topk(active(spec, at, x.shape[1]), dim=1, sorted=False).indices
    z = torch.zeros_like(pre).scatter(1, chosen, pre.gather(1, chosen))
    loss = (z @ p["W_dec"] + p["b_dec"] - x).square().sum() / squared_variation(x)
    return Objective(loss, loss.detach(), z.detach())


def settle(p: Parameters, spec: LlamaScopeSpec, batches: BatchSource) -> Parameters:
    """θ from the last rows of training, by the weights as they ended."""
    return parts.last_threshold(folded(p), batches, spec.k, spec.threshold_rows)


def folded(p: Parameters) -> Parameters:
    """W_enc, b_enc, W_dec, b_dec for raw rows, with decoder rows of length 1.

    Codes are then p ‖W_dec‖ / c, so TopK by norms is plain TopK.
    """
    c, norms = p["scale"], torch.linalg.vector_norm(p["W_dec"], dim=1).clamp_min(1e-12)
    return {
        "W_enc": p["W_enc"] * norms[:, None],
        "b_enc": p["b_enc"] * norms / c,
        "W_dec": p["W_dec"] / norms[:, None],
        "b_dec": p["b_dec"] / c,
    }


def freeze(p: Parameters, spec: LlamaScopeSpec, about: Mapping[str, Any]) -> SAE:
    """The SAE for raw rows: JumpReLU once θ is known, TopK before."""
    about = {**about, "input_scale": float(p["scale"]), "k": spec.k}
    if float(p["threshold"]) < 0:
        return parts.frozen(folded(p), {"kind": "topk", "k": spec.k}, about, centred=False)
    threshold = p["threshold"].detach().repeat(spec.latents)
    return parts.frozen(folded(p), {"kind": "jumprelu"}, about, threshold, centred=False)


def thaw(sae: SAE, spec: LlamaScopeSpec, start: Start) -> Parameters:
    """To go on from one; its decoder rows have length 1 now, so that codes count as they are."""
    c = torch.ones(())
    if start.batches is not None:
        c = parts.input_scale(next(start.batches.first(1)).x)
    p = parts.thawed(sae, spec, start)
    biases = {name: p[name] * c for name in ("b_enc", "b_dec")}
    return p | biases | {"scale": c, "threshold": one_threshold(sae, spec)}


_BUFFERS = frozenset({"scale", "threshold"})
LLAMASCOPE = Architecture(
    LlamaScopeSpec,
    initial,
    objective,
    freeze,
    buffers=_BUFFERS,
    settle=settle,
    thaw=thaw,
    thaws=frozenset({"topk", "jumprelu"}),
)
