"""Transcoders: TopK from one site to another (arXiv 2406.11944; with TopK as arXiv 2501.18823).

    z = TopK(relu(x W_encᵀ + b_enc)),  ŷ = z W_dec + b_dec,  loss = FVU = Σ (ŷ - y)² / Σ (y - mean)²

Nothing is subtracted from the input, since b_dec belongs to the output. A skip transcoder has a
linear map beside the latents (arXiv 2501.18823): ŷ = z W_dec + b_dec + x W_skipᵀ, with W_skip
`[E, D]`, which starts at 0. B batch, D input and E output dimensions, F latents.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from reseed.errors import SpecError
from reseed.sae import parts, torch
from reseed.sae.architecture import Architecture, At, Batch, Objective, Parameters, Start
from reseed.sae.model import SAE
from reseed.sae.parts import squared_variation
from reseed.sae.settings import ArchitectureSpec
from reseed.seeds import generator


class _Transcoding(ArchitectureSpec):
    subtracts: ClassVar[bool] = False

    target: Annotated[str, Field(min_length=1)]
    """The site that is reconstructed; it is read along with `activations.sites`."""
    k: Annotated[int, Field(ge=1)] = 32
    """Latents that may fire at a time."""

    @model_validator(mode="after")
    def _possible(self) -> _Transcoding:
        if "*" in self.target:
            raise ValueError(
                f"target = {self.target!r} is a pattern; name one site, and write a table for each"
            )
        return self

    @property
    def output_site(self) -> str:
        return self.target.removesuffix(":out")

    def takes(self, site: str) -> bool:
        return site != self.output_site

    @property
    def place(self) -> str:
        return "a transcoder reads another site than its target; name that one in activations.sites"


class TranscoderSpec(_Transcoding):
    """TopK from one site to another, e.g. from what an MLP reads to what it gives (2406.11944)."""

    architecture: Literal["transcoder"] = "transcoder"


class SkipTranscoderSpec(_Transcoding):
    """A transcoder with a linear map beside the latents (arXiv 2501.18823)."""

    architecture: Literal["skip_transcoder"] = "skip_transcoder"


def initial(spec: _Transcoding, start: Start) -> Parameters:
    """Biases centre the input; decoder rows are drawn, since the sites share nothing yet."""
    numbers = generator("decoder-init", start.init_seed)
    rows = numbers.standard_normal((spec.latents, len(start.y_centre)), dtype="float32")
    p = {
        "W_enc": torch.from_numpy(start.rows.copy()),
        "b_enc": torch.from_numpy(-(start.rows @ start.x_centre)),
        "W_dec": torch.from_numpy(parts.unit_rows(rows)),
        "b_dec": torch.from_numpy(start.y_centre.copy()),
    }
    if isinstance(spec, SkipTranscoderSpec):
        p["W_skip"] = torch.zeros(len(start.y_centre), len(start.x_centre))
    return p


def objective(p: Parameters, batch: Batch, spec: _Transcoding, at: At) -> Objective:
    """The loss of a batch."""
    pre = batch.x @ p["W_enc"].T + p["b_enc"]
    z = parts.top(pre, spec.k)
    y = z @ p["W_dec"] + p["b_dec"]
    if "W_skip" in p:
        y = y + batch.x @ p["W_skip"].T
    loss = (y - batch.y).square().sum() / squared_variation(batch.y)
    return Objective(loss, loss.detach(), z.detach(), {}, y)


def freeze(p: Parameters, spec: _Transcoding, about: Mapping[str, Any]) -> SAE:
    """The transcoder that these parameters are; training and inference rule are the same."""
    return parts.frozen(p, {"kind": "topk", "k": spec.k}, about, centred=False)


def thaw(sae: SAE, spec: _Transcoding, start: Start) -> Parameters:
    """To go on from one; where it has no skip connection and needs one, that starts at 0."""
    p = parts.thawed(sae, spec, start)
    if isinstance(spec, SkipTranscoderSpec):
        p.setdefault("W_skip", torch.zeros(len(sae.b_dec), sae.dimensions))
    elif "W_skip" in p:
        raise SpecError(f"init = {spec.init!r}: it has a skip connection; take skip_transcoder")
    return p


_BACK: Any = {"thaw": thaw, "thaws": frozenset({"topk"})}
TRANSCODER = Architecture(TranscoderSpec, initial, objective, freeze, **_BACK)
SKIP_TRANSCODER = Architecture(SkipTranscoderSpec, initial, objective, freeze, **_BACK)
