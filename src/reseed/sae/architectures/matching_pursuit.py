"""Matching pursuit as an SAE (MP-SAE, arXiv 2506.03093).

    r = x - b_dec;  k times:  i = argmax(r · W_dec),  a = relu(r · W_dec[i]),
    z[i] += a,  r -= a W_dec[i];   loss = FVU = Σ r² / Σ (x - mean over the batch)²

The encoder is the decoder: rows have length 1, and there are no encoder biases. The last residual
is the error, so nothing has to be decoded.

B batch, D dimensions, F latents.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from reseed.sae import parts, torch
from reseed.sae.architecture import Architecture, At, Batch, Objective, Parameters, Start
from reseed.sae.codes import pursue
from reseed.sae.model import SAE
from reseed.sae.settings import ArchitectureSpec


class MatchingPursuitSpec(ArchitectureSpec):
    """Latents chosen one after the other, each for what those before left over (2506.03093)."""

    without: ClassVar[frozenset[str]] = frozenset(
        {"aligned", "end_to_end", "tied_init", "weight_l2"}
    )
    trains: ClassVar[frozenset[str]] = frozenset({"W_dec"})

    architecture: Literal["matching_pursuit"] = "matching_pursuit"
    k: Annotated[int, Field(ge=1)] = 32
    """Steps of the pursuit: latents that may fire at a time."""


def initial(spec: MatchingPursuitSpec, start: Start) -> Parameters:
    """Parameters before training: the rows of the init seed, of length 1."""
    p = parts.autoencoder(start)
    return {name: p[name] for name in ("W_dec", "b_dec")}


def objective(p: Parameters, batch: Batch, spec: MatchingPursuitSpec, at: At) -> Objective:
    """The loss of a batch; gradients go through all steps of the pursuit."""
    codes, residual = pursue(batch.x - p["b_dec"], p["W_dec"], spec.k)
    loss = residual.square().sum() / parts.squared_variation(batch.x)
    return Objective(loss, loss.detach(), codes.detach())


def freeze(p: Parameters, spec: MatchingPursuitSpec, about: Mapping[str, Any]) -> SAE:
    """The SAE that these parameters are; training and inference rule are the same."""
    encoder = {"W_enc": p["W_dec"], "b_enc": torch.zeros(len(p["W_dec"]))}
    return parts.frozen(p | encoder, {"kind": "matching_pursuit", "k": spec.k}, about)


MATCHING_PURSUIT = Architecture(MatchingPursuitSpec, initial, objective, freeze)
