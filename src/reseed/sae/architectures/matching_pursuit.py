"""Matching pursuit as an SAE (MP-SAE, arXiv 2506.03093).

    r = x - b_dec;  k times:  i = argmax(r · W_dec),  a = relu(r · W_dec[i]),
    z[i] += a,  r -= a W_dec[i];   loss = FVU = Σ r² / Σ (x - mean over the batch)²

The encoder is the decoder: rows have length 1, and there are no encoder biases. The last residual
is the error, so nothing has to be decoded.

B batch, D dimensions, F latents.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from reseed.sae.architecture import At, Batch, Objective, Parameters, Start, squared_variation
from reseed.sae.lazy import torch
from reseed.sae.model import SAE
from reseed.sae.rules import pursue
from reseed.sae.settings import ArchitectureSpec, check_k
from reseed.sae.start import unit_rows


class MatchingPursuitSpec(ArchitectureSpec):
    """Latents chosen one after the other, each for what those before left over (2506.03093)."""

    architecture: Literal["matching_pursuit"] = "matching_pursuit"
    k: Annotated[int, Field(ge=1)] = 32
    """Steps of the pursuit: latents that may fire at a time."""

    @model_validator(mode="after")
    def _possible(self) -> MatchingPursuitSpec:
        check_k(self.k, self.latents)
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """See `ArchitectureSpec`."""
        return {"k": self.k}

    @property
    def without(self) -> frozenset[str]:
        """See `ArchitectureSpec`."""
        return frozenset({"aligned", "end_to_end", "tied_init", "weight_l2"})


UNIT_ROWS = frozenset({"W_dec"})

BUFFERS: frozenset[str] = frozenset()


def initial(spec: MatchingPursuitSpec, start: Start) -> Parameters:
    """Parameters before training: the rows of the init seed, of length 1."""
    return {
        "W_dec": torch.from_numpy(unit_rows(start.rows)),
        "b_dec": torch.from_numpy(start.x_centre.copy()),
    }


def objective(p: Parameters, batch: Batch, spec: MatchingPursuitSpec, at: At) -> Objective:
    """The loss of a batch; gradients go through all steps of the pursuit."""
    codes, residual = pursue(batch.x - p["b_dec"], p["W_dec"], spec.k)
    loss = residual.square().sum() / squared_variation(batch.x)
    return Objective(loss, loss.detach(), codes.detach())


def freeze(p: Parameters, spec: MatchingPursuitSpec, about: Mapping[str, Any]) -> SAE:
    """The SAE that these parameters are; training and inference rule are the same."""
    W_dec = p["W_dec"].detach().clone()
    return SAE(
        W_enc=W_dec.clone(),
        W_dec=W_dec,
        b_enc=torch.zeros(len(W_dec)),
        b_dec=p["b_dec"].detach().clone(),
        activation={"kind": "matching_pursuit", "k": spec.k},
        about=about,
    )
