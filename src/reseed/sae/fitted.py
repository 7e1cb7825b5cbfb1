"""What the architectures that are fitted and not trained have in common.

F latents, D dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reseed.errors import SpecError
from reseed.sae.architecture import Batch, Objective, Parameters, Start, squared_variation
from reseed.sae.init import unit_rows
from reseed.sae.model import SAE

BUFFERS = frozenset({"W_enc", "b_enc", "W_dec", "b_dec", "converged"})
"""All that such an architecture has; no gradient trains any of it."""


def initial(start: Start) -> Parameters:
    """The start of a training with this seed, so that what fitting adds can be told from it."""
    return {
        "W_enc": torch.from_numpy(start.rows.copy()),
        "b_enc": torch.zeros(len(start.rows)),
        "W_dec": torch.from_numpy(unit_rows(start.rows)),
        "b_dec": torch.from_numpy(start.x_centre.copy()),
        "converged": torch.ones(()),
    }


def check_width(count: int, start: Start) -> None:
    """Refuse more components than there are dimensions.

    Raises:
        SpecError: with both numbers.
    """
    dimensions = start.rows.shape[1]
    if count > dimensions:
        raise SpecError(
            f"latents = {len(start.rows)} asks for {count} components, but the rows have "
            f"{dimensions} dimensions, and there are no more components than those; take at most "
            f"{len(start.rows) // count * dimensions} latents"
        )


def rule(k: int | None) -> dict[str, Any]:
    """All that are positive, or the k strongest of them."""
    return {"kind": "relu"} if k is None else {"kind": "topk", "k": k}


def parameters(
    W_enc: NDArray[Any],
    W_dec: NDArray[Any],
    b_dec: NDArray[Any],
    b_enc: NDArray[Any] | None = None,
    converged: bool = True,
) -> Parameters:
    """What was fitted, as parameters."""

    def tensor(array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32))

    return {
        "W_enc": tensor(W_enc),
        "b_enc": torch.zeros(len(W_enc)) if b_enc is None else tensor(b_enc),
        "W_dec": tensor(W_dec),
        "b_dec": tensor(b_dec),
        "converged": torch.tensor(float(converged)),
    }


def signed(W_enc: NDArray[Any], W_dec: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Components with either sign: i becomes latents 2 i and 2 i + 1.

    Decoder rows get length 1, encoder rows what codes need for that.

    Args:
        W_enc: `[n, D]`.
        W_dec: `[n, D]`.

    Returns:
        Both `[2 n, D]`.
    """
    length = np.linalg.norm(W_dec, axis=1, keepdims=True)
    length = np.where(length > 0, length, 1.0)
    both = (np.stack([part, -part], axis=1) for part in (W_enc * length, W_dec / length))
    enc, dec = (part.reshape(-1, W_enc.shape[1]) for part in both)
    return enc, dec


def evaluate(sae: SAE, batch: Batch) -> Objective:
    """How well it reconstructs a batch."""
    with torch.no_grad():
        codes = sae.encode(batch.x)
        error = sae.decode(codes) - batch.x
        fvu = error.square().sum() / squared_variation(batch.x)
    return Objective(fvu, fvu, codes)


def freeze(p: Parameters, activation: Mapping[str, Any], about: Mapping[str, Any]) -> SAE:
    """The SAE that these parameters are."""
    return SAE(
        W_enc=p["W_enc"].clone(),
        W_dec=p["W_dec"].clone(),
        b_enc=p["b_enc"].clone(),
        b_dec=p["b_dec"].clone(),
        activation=activation,
        about={**about, "converged": bool(p["converged"])},
    )
