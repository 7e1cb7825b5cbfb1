"""Crosscoders: one dictionary for several sites (transformer-circuits, October 2024).

Rows are those of the sites side by side, x = (x¹, ..., xᴹ). Each part is scaled to the same size:
c_m = √D_m / mean ‖x^m‖ over the first batch.

    x' = (c_1 x¹, ...),  f = relu(x' W_encᵀ + b_enc),  x̂' = f W_dec + b_dec,
    n_i = Σ_m ‖W_dec,i^m‖,  scale = Σ (x' - mean over the batch)²
    loss = Σ (x̂' - x')² / scale + λ Σ f n / (B √(scale / B))

With k there is no penalty: of all f_i n_i of a batch of B rows the k B largest pass (BatchTopK
crosscoders, arXiv 2504.02922), and the SAE is saved with the one threshold at which k pass.

`exclusive` keeps F `exclusive` latents for each part, the first part's first; what they have in
other parts, of encoder and decoder, is 0 (after arXiv 2602.11729, reconstructed from code of
others). With k, n of these counts M times, or one part would stand against M and they would die.

`delta` adds δ Σ (Δ̂ - Δ)² / scale, Δ = x'² - x'¹, Δ̂ = f_U (W_dec,U² - W_dec,U¹) + b_dec² - b_dec¹,
U the first `delta_share` of the latents: shared ones cannot explain what changed (after arXiv
2603.04426, reconstructed from reviews; without its second k for shared latents).

Saved codes are f n, decoder rows have summed norms 1 in scaled units (exclusive ones of BatchTopK
1 / M). B batch, F latents, M parts (sites) of D_m dimensions, D = Σ D_m.
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
from reseed.sae.settings import ArchitectureSpec, Share

if TYPE_CHECKING:
    import polars as pl


class CrosscoderSpec(ArchitectureSpec):
    """One dictionary for several sites, read and written together.

    L1 on codes times summed decoder norms (transformer-circuits, October 2024), or with `k`
    BatchTopK on the same product (arXiv 2504.02922).
    """

    OPTIONAL: ClassVar[frozenset[str]] = ArchitectureSpec.OPTIONAL | {
        "exclusive", "delta", "delta_share", "auxk_alpha",
    }  # fmt: skip
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
    exclusive: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Share of the latents that each site has alone, .05 in code after arXiv 2602.11729."""
    delta: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the loss of the second site less the first (after arXiv 2603.04426, there .005)."""
    auxk_alpha: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the auxiliary loss that lets dead latents explain the error."""
    delta_share: Share = 0.8
    """Share of the latents that explain this difference alone; exclusive ones come first."""

    @model_validator(mode="after")
    def _possible(self) -> CrosscoderSpec:
        if self.k is not None and "penalty" in self.model_fields_set:
            raise ValueError("k and penalty are two ways to one end; take one of them out")
        most = self.latents // len(self.parts)
        if self.exclusive and not 0 < self.own <= most:
            raise ValueError(
                f"exclusive = {self.exclusive:g} of {self.latents} latents is {self.own} for each "
                f"site, which must be 1 to {most}"
            )
        if self.delta and (len(self.parts) != 2 or len(set(self.parts)) > 1):
            at = f"two sites of one width, and parts = {list(self.parts)}"
            raise ValueError(f"delta is of the difference of {at}; take delta out")
        self.refuse_idle("delta", self.delta, "delta_share")
        self.refuse_idle("k", self.k, "threshold_rows")
        return self

    @property
    def own(self) -> int:
        """Exclusive latents of each part."""
        return round(self.exclusive * self.latents)

    @property
    def settings(self) -> dict[str, Any]:
        first = {"l1_": self.penalty} if self.k is None else {"k": self.k}
        arms = {"exclusive": self.exclusive, "delta": self.delta, "auxk": self.auxk_alpha}
        return first | {name: value for name, value in arms.items() if value}

    @property
    def unit_rows(self) -> bool:
        return False

    def check_width(self, dimensions: int) -> None:
        if sum(self.parts) != dimensions:
            raise SpecError(
                f"crosscoder: parts = {list(self.parts)} add up to {sum(self.parts)} dimensions, "
                f"but its rows have {dimensions}; give the widths of the sites that are joined, in "
                "their order"
            )

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
    return pl.DataFrame(
        {"latent": np.arange(len(norms)), **columns, "kind": kind, "part": norms.argmax(axis=1)}
    )


_START_NORM = 0.1
"""Norm of a decoder row in each part at the start, as the authors take it."""


def initial(spec: CrosscoderSpec, start: Start) -> Parameters:
    """Parameters before training: W_enc = W_dec, each part of a decoder row of length 0.1."""
    width = start.rows.shape[1]
    spec.check_width(width)
    pieces = np.split(start.rows, np.cumsum(spec.parts)[:-1], axis=1)
    rows = torch.cat([torch.from_numpy(parts.unit_rows(p)) * _START_NORM for p in pieces], dim=1)
    p = {"W_enc": rows.clone(), "b_enc": torch.zeros(spec.latents), "W_dec": rows}
    p |= {"b_dec": torch.zeros(width), "scales": _scales(spec, start)}
    return reserved(p | {"threshold": torch.tensor(parts.NOT_YET)}, spec)


def reserved(p: Parameters, spec: CrosscoderSpec) -> Parameters:
    """The same, with zeros where an exclusive latent would have a part of another site."""
    if not (own := spec.own):
        return p
    open_to = torch.ones_like(p["W_dec"])
    columns = torch.arange(len(spec.parts)).repeat_interleave(torch.tensor(spec.parts))
    for part in range(len(spec.parts)):
        open_to[part * own : (part + 1) * own, columns != part] = 0.0
    return {**p, "W_enc": p["W_enc"] * open_to, "W_dec": p["W_dec"] * open_to}


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


def _weights(p: Parameters, spec: CrosscoderSpec) -> Tensor:
    """`[F]` n, with k that of an exclusive latent as if it were as strong in every part."""
    norms, parts_own = summed_norms(p["W_dec"], spec.parts), spec.own * len(spec.parts)
    if spec.k is None or not parts_own:
        return norms
    return torch.cat([len(spec.parts) * norms[:parts_own], norms[parts_own:]])


def objective(p: Parameters, batch: Batch, spec: CrosscoderSpec, at: At) -> Objective:
    """The loss of a batch."""
    p, x = reserved(p, spec), batch.x * _columns(p, spec)
    pre = x @ p["W_enc"].T + p["b_enc"]
    f = torch.relu(pre)
    norms = _weights(p, spec)
    if spec.k is not None:
        f = _largest(f, norms.detach(), spec.k)
    scale = parts.squared_variation(x)
    error = x - (f @ p["W_dec"] + p["b_dec"])
    fvu = error.square().sum() / scale
    loss = fvu + parts.weighted_auxk(p, pre, error, scale, spec.auxk_alpha, at.dead)
    if spec.k is None:
        length = (scale / len(x)).sqrt()
        loss = loss + at.penalty * spec.penalty * (f @ norms).sum() / (len(x) * length)
    if spec.delta:
        loss = loss + spec.delta * _unexplained(p, x, f, spec) / scale
    return Objective(loss, fvu.detach(), f.detach())


def _unexplained(p: Parameters, x: Tensor, f: Tensor, spec: CrosscoderSpec) -> Tensor:
    """Σ (Δ̂ - Δ)², of latents that are not shared."""
    those = round(spec.delta_share * spec.latents)
    pieces = (rows.split(spec.parts, dim=-1) for rows in (p["W_dec"][:those], p["b_dec"], x))
    W, b, change = (second - first for first, second in pieces)
    return (f[:, :those] @ W + b - change).square().sum()


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
    p, columns = reserved(p, spec), _columns(p, spec)
    norms = _weights(p, spec).clamp_min(1e-12)
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
