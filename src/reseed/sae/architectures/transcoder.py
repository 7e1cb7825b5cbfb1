"""Transcoders: TopK from one site to another (arXiv 2406.11944; with TopK as arXiv 2501.18823).

    z = TopK(relu(x W_encᵀ + b_enc)),  ŷ = z W_dec + b_dec,  loss = FVU = Σ (ŷ - y)² / Σ (y - mean)²

Nothing is subtracted from the input, since b_dec belongs to the output. B batch, D input and E
output dimensions, F latents.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from reseed.sae import codes
from reseed.sae.architecture import At, Batch, Objective, Parameters, Start, squared_variation
from reseed.sae.lazy import torch
from reseed.sae.model import SAE
from reseed.sae.settings import ArchitectureSpec, check_k
from reseed.sae.start import unit_rows
from reseed.seeds import generator


class _Transcoding(ArchitectureSpec):
    target: Annotated[str, Field(min_length=1)]
    """The site that is reconstructed; it is read along with `activations.sites`."""
    k: Annotated[int, Field(ge=1)] = 32
    """Latents that may fire at a time."""

    @model_validator(mode="after")
    def _possible(self) -> _Transcoding:
        check_k(self.k, self.latents)
        if "*" in self.target:
            raise ValueError(
                f"target = {self.target!r} is a pattern; name one site, and write a table for each"
            )
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """See `ArchitectureSpec`."""
        return {"k": self.k}

    @property
    def label(self) -> str:
        """As shown to people."""
        return f"{super().label} to {self.output_site}"

    @property
    def shape(self) -> str:
        """Architecture, sizes and target, fit for a file name."""
        return f"{super().shape}-to-{re.sub(r'[^A-Za-z0-9._-]', '-', self.output_site)[-40:]}"

    @property
    def output_site(self) -> str:
        """The site that it reconstructs."""
        return self.target.removesuffix(":out")

    def takes(self, site: str) -> bool:
        """All sites but its own target."""
        return site != self.output_site

    @property
    def place(self) -> str:
        """For people: at which sites it can be trained."""
        return "a transcoder reads another site than its target; name that one in activations.sites"


class TranscoderSpec(_Transcoding):
    """TopK from one site to another, e.g. from what an MLP reads to what it gives (2406.11944)."""

    architecture: Literal["transcoder"] = "transcoder"


class SkipTranscoderSpec(_Transcoding):
    """A transcoder with a linear map beside the latents (arXiv 2501.18823)."""

    architecture: Literal["skip_transcoder"] = "skip_transcoder"


UNIT_ROWS = frozenset({"W_dec"})

BUFFERS: frozenset[str] = frozenset()


def initial(spec: TranscoderSpec | SkipTranscoderSpec, start: Start) -> Parameters:
    """Parameters before training.

    Encoder rows as everywhere, with biases that centre the input; decoder rows in directions of
    their own, since the two sites have nothing in common yet.
    """
    numbers = generator("decoder-init", start.init_seed)
    rows = numbers.standard_normal((spec.latents, len(start.y_centre)), dtype="float32")
    return {
        "W_enc": torch.from_numpy(start.rows.copy()),
        "b_enc": torch.from_numpy(-(start.rows @ start.x_centre)),
        "W_dec": torch.from_numpy(unit_rows(rows)),
        "b_dec": torch.from_numpy(start.y_centre.copy()),
    }


def objective(
    p: Parameters, batch: Batch, spec: TranscoderSpec | SkipTranscoderSpec, at: At
) -> Objective:
    """The loss of a batch."""
    pre = batch.x @ p["W_enc"].T + p["b_enc"]
    z = codes.dense(codes.top_codes_plain(pre, spec.k), len(p["W_enc"]))
    y = z @ p["W_dec"] + p["b_dec"]
    if "W_skip" in p:
        y = y + batch.x @ p["W_skip"].T
    loss = (y - batch.y).square().sum() / squared_variation(batch.y)
    return Objective(loss, loss.detach(), z.detach(), {}, y)


def freeze(
    p: Parameters, spec: TranscoderSpec | SkipTranscoderSpec, about: Mapping[str, Any]
) -> SAE:
    """The transcoder that these parameters are; training and inference rule are the same."""
    kept: dict[str, Any] = {name: value.detach().clone() for name, value in p.items()}
    return SAE(**kept, activation={"kind": "topk", "k": spec.k}, centred=False, about=about)
