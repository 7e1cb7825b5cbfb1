"""Crosscoders: one dictionary for several sites (transformer-circuits, October 2024).

Rows are those of the sites side by side, x = (x¹, ..., xᴹ). Each part is scaled to the same size:
c_m = √D_m / mean ‖x^m‖ over the first batch.

    x' = (c_1 x¹, ...),  f = relu(x' W_encᵀ + b_enc),  x̂' = f W_dec + b_dec,
    n_i = Σ_m ‖W_dec,i^m‖,  scale = Σ (x' - mean over the batch)²
    loss = Σ (x̂' - x')² / scale + λ Σ f n / (B √(scale / B))

With k there is no penalty: of all f_i n_i of a batch of B rows the k B largest pass (BatchTopK
crosscoders, arXiv 2504.02922), and the SAE is saved with the one threshold at which k pass.

Saved codes are f n, decoder rows have summed norms 1 in scaled units. B batch, F latents, M parts
(sites) of D_m dimensions, D = Σ D_m.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from reseed.errors import SpecError
from reseed.records import Floats
from reseed.sae import Tensor, np, parts, torch
from reseed.sae.architecture import (
    Architecture,
    At,
    Batch,
    BatchSource,
    Objective,
    Parameters,
    Start,
)
from reseed.sae.model import SAE
from reseed.sae.parts import squared_variation
from reseed.sae.settings import ArchitectureSpec

if TYPE_CHECKING:
    import polars as pl


class CrosscoderSpec(ArchitectureSpec):
    """One dictionary for several sites, read and written together.

    L1 on codes times summed decoder norms (transformer-circuits, October 2024), or with `k`
    BatchTopK on the same product (arXiv 2504.02922).
    """

    without: ClassVar[frozenset[str]] = frozenset({"end_to_end"})
    subtracts: ClassVar[bool] = False

    architecture: Literal["crosscoder"] = "crosscoder"
    parts: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=2)]
    """Widths of the sites that are joined, in their order."""
    k: Annotated[int, Field(ge=1)] | None = None
    """Latents that fire at a time on average; given, there is no penalty."""
    penalty: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the penalty without `k`, as that of `relu`."""
    threshold_rows: Annotated[int, Field(ge=1)] = 32_768
    """With `k`, rows at the end of training from which the one threshold is found."""

    @model_validator(mode="after")
    def _possible(self) -> CrosscoderSpec:
        if self.k is not None and "penalty" in self.model_fields_set:
            raise ValueError("k and penalty are two ways to one end; take one of them out")
        return self

    @property
    def settings(self) -> dict[str, Any]:
        return {"l1_": self.penalty} if self.k is None else {"k": self.k}

    @property
    def unit_rows(self) -> bool:
        return False

    def takes(self, site: str) -> bool:
        return site.count("+") + 1 == len(self.parts)

    @property
    def place(self) -> str:
        joined = "+".join(f"SITE{number + 1}" for number in range(len(self.parts)))
        return f"its parts have {len(self.parts)} widths, so it reads a joined site, {joined!r}"


EXCLUSIVE = 0.1
"""A part with less than this share of what a row weighs counts as not used by the latent."""


def relative_norms(
    W_dec: Floats, parts: Sequence[int], scales: Sequence[float] | None = None
) -> pl.DataFrame:
    """How much of each latent belongs to which site (transformer-circuits, October 2024).

    Args:
        W_dec: `[F, D]`, D the sum of the parts.
        parts: widths of the sites, in their order.
        scales: of each part, `about["scales"]`; without them a site of larger activations seems to
            have more of every latent.

    Returns:
        latent; share_0 to share_M-1, each part's share of the summed norms, NaN for a zero row;
        kind: `"shared"` if every part has at least `EXCLUSIVE`, `"exclusive"` if one part only has,
        `"partly"` if some but not all have, `"zero"` for a zero row; part, the strongest part.

    Raises:
        SpecError: if the widths do not add up, or there is not one scale a part.
    """
    import polars as pl

    scales = [1.0] * len(parts) if scales is None else scales
    if sum(parts) != W_dec.shape[1] or len(scales) != len(parts):
        raise SpecError(
            f"parts = {list(parts)} with {len(scales)} scales do not fit decoder rows of "
            f"{W_dec.shape[1]} dimensions; `about` of the crosscoder has parts and scales"
        )
    pieces = np.split(W_dec.astype(np.float64), np.cumsum(parts)[:-1], axis=1)
    norms = np.stack([np.linalg.norm(piece, axis=1) for piece in pieces], axis=1) * scales
    total = norms.sum(axis=1, keepdims=True)
    shares = np.divide(norms, total, out=np.full_like(norms, np.nan), where=total > 0)
    used = (shares >= EXCLUSIVE).sum(axis=1)
    kind = np.select(
        [total[:, 0] == 0, used == len(parts), used == 1], ["zero", "shared", "exclusive"], "partly"
    )
    columns = {f"share_{m}": shares[:, m] for m in range(len(parts))}
    strongest = norms.argmax(axis=1)
    return pl.DataFrame(
        {"latent": np.arange(len(norms)), **columns, "kind": kind, "part": strongest}
    )


_START_NORM = 0.1
"""Norm of a decoder row in each part at the start, as the authors take it."""


def initial(spec: CrosscoderSpec, start: Start) -> Parameters:
    """Parameters before training: W_enc = W_dec, each part of a decoder row of length 0.1."""
    width = start.rows.shape[1]
    if sum(spec.parts) != width:
        raise SpecError(
            f"crosscoder: parts = {list(spec.parts)} add up to {sum(spec.parts)} dimensions, but "
            f"its rows have {width}; give the widths of the sites that are joined, in their order"
        )
    pieces = np.split(start.rows, np.cumsum(spec.parts)[:-1], axis=1)
    rows = torch.cat([torch.from_numpy(parts.unit_rows(p)) * _START_NORM for p in pieces], dim=1)
    return {
        "W_enc": rows.clone(),
        "b_enc": torch.zeros(spec.latents),
        "W_dec": rows,
        "b_dec": torch.zeros(width),
        "scales": _scales(spec, start),
        "threshold": torch.tensor(parts.NOT_YET),
    }


def _scales(spec: CrosscoderSpec, start: Start) -> Tensor:
    """`[M]` c."""
    if start.batches is None:
        return torch.ones(len(spec.parts))
    pieces = next(start.batches.first(1)).x.split(spec.parts, dim=1)
    return torch.stack([parts.input_scale(piece) for piece in pieces])


def summed_norms(W_dec: Tensor, widths: Sequence[int]) -> Tensor:
    """`[F]` n: summed over the parts, the norms of each row's parts."""
    norms = [torch.linalg.vector_norm(part, dim=1) for part in W_dec.split(list(widths), dim=1)]
    return torch.stack(norms).sum(0)


def objective(p: Parameters, batch: Batch, spec: CrosscoderSpec, at: At) -> Objective:
    """The loss of a batch."""
    x = batch.x * _columns(p, spec)
    f = torch.relu(x @ p["W_enc"].T + p["b_enc"])
    norms = summed_norms(p["W_dec"], spec.parts)
    if spec.k is not None:
        f = _largest(f, norms.detach(), spec.k)
    scale = squared_variation(x)
    fvu = (f @ p["W_dec"] + p["b_dec"] - x).square().sum() / scale
    loss = fvu
    if spec.k is None:
        length = (scale / len(x)).sqrt()
        loss = fvu + at.penalty * spec.penalty * (f @ norms).sum() / (len(x) * length)
    return Objective(loss, fvu.detach(), f.detach())


def _largest(f: Tensor, norms: Tensor, k: int) -> Tensor:
    with torch.no_grad():
        flat = (f * norms).flatten()
        chosen = flat.topk(min(k * len(f), flat.numel()), sorted=False).indices
    return torch.zeros_like(flat).scatter(0, chosen, f.flatten()[chosen]).view_as(f)


def _columns(p: Parameters, spec: CrosscoderSpec) -> Tensor:
    """`[D]` the scale of each dimension."""
    return p["scales"].repeat_interleave(torch.tensor(spec.parts, device=p["scales"].device))


def settle(p: Parameters, spec: CrosscoderSpec, batches: BatchSource) -> Parameters:
    """With k, the threshold from the last rows of training, by the weights as they ended."""
    if spec.k is None:
        return {}
    return parts.last_threshold(folded(p, spec), batches, spec.k, spec.threshold_rows)


def folded(p: Parameters, spec: CrosscoderSpec) -> Parameters:
    """W_enc, b_enc, W_dec, b_dec for raw rows; codes are then f n."""
    columns = _columns(p, spec)
    norms = summed_norms(p["W_dec"], spec.parts).clamp_min(1e-12)
    return {
        "W_enc": p["W_enc"] * columns * norms[:, None],
        "b_enc": p["b_enc"] * norms,
        "W_dec": p["W_dec"] / columns / norms[:, None],
        "b_dec": p["b_dec"] / columns,
    }


def freeze(p: Parameters, spec: CrosscoderSpec, about: Mapping[str, Any]) -> SAE:
    """The SAE for raw rows: relu without k, JumpReLU once its threshold is known, else BatchTopK.

    `about` holds `parts` and `scales`, which `relative_norms` takes.
    """
    known = float(p["threshold"]) >= 0
    rule: dict[str, Any] = {"kind": "batchtopk", "k": spec.k}
    if known or spec.k is None:
        rule = {"kind": "jumprelu" if known else "relu"}
    threshold = p["threshold"].detach().repeat(spec.latents) if known else None
    about = {**about, "parts": list(spec.parts), "scales": p["scales"].tolist()}
    return parts.frozen(folded(p, spec), rule, about, threshold, centred=False)


_BUFFERS = frozenset({"scales", "threshold"})
CROSSCODER = Architecture(
    CrosscoderSpec, initial, objective, freeze, buffers=_BUFFERS, settle=settle
)
