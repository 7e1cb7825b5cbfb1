"""A trained sparse autoencoder, ready to encode and decode in raw activation units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reseed.errors import SpecError
from reseed.records import SAEArrays
from reseed.sae import kernels
from reseed.sae.kernels import Codes

Rows = Tensor | NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SAE:
    """A sparse autoencoder of F latents on D dimensions; rows of both matrices are latents.

    `reconstruct(x) = encode(x) @ W_dec + b_dec`, where the codes come from the pre-activations
    `(x - b_dec) @ W_enc.T + b_enc` by the activation rule.

    Args:
        W_enc: `[F, D]`.
        W_dec: `[F, D]`.
        b_enc: `[F]`.
        b_dec: `[D]`.
        activation: the rule as JSON, e.g. `{"kind": "topk", "k": 32}`.
        centred: whether `b_dec` is subtracted from the input.
        about: where it comes from; free-form JSON.
    """

    W_enc: Tensor
    W_dec: Tensor
    b_enc: Tensor
    b_dec: Tensor
    activation: Mapping[str, Any]
    centred: bool = True
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def latents(self) -> int:
        """F."""
        return self.W_enc.shape[0]

    @property
    def dimensions(self) -> int:
        """D."""
        return self.W_enc.shape[1]

    def __repr__(self) -> str:
        rule = ", ".join(f"{v}" for v in self.activation.values())
        return f"SAE({self.latents} latents, {self.dimensions} dimensions, {rule})"

    def pre_activations(self, x: Rows) -> Tensor:
        """`[N, D] -> [N, F]`.

        Raises:
            SpecError: if x does not have D columns.
        """
        rows = torch.as_tensor(x, dtype=self.W_enc.dtype, device=self.W_enc.device)
        if rows.ndim < 1 or rows.shape[-1] != self.dimensions:
            raise SpecError(
                f"this SAE reads rows of {self.dimensions} dimensions, these have shape "
                f"{tuple(rows.shape)}; is it the right site?"
            )
        if self.centred:
            rows = rows - self.b_dec
        return rows @ self.W_enc.T + self.b_enc

    def encode_sparse(self, x: Rows) -> Codes:
        """Codes of rows with K entries each, for pipelines that cannot afford `[N, F]`.

        Args:
            x: `[N, D]`.
        """
        return kernels.top_codes(self.pre_activations(x), self.activation["k"])

    def encode(self, x: Rows) -> Tensor:
        """Codes `[N, F]` of rows `[N, D]`; leading dimensions of any number are kept."""
        rows = torch.as_tensor(x)
        codes = self.encode_sparse(rows.reshape(-1, rows.shape[-1]))
        return kernels.dense(codes, self.latents).reshape(*rows.shape[:-1], self.latents)

    def decode(self, codes: Rows) -> Tensor:
        """Rows `[N, D]` of dense codes `[N, F]`."""
        dense = torch.as_tensor(codes, dtype=self.W_dec.dtype, device=self.W_dec.device)
        return dense @ self.W_dec + self.b_dec

    def decode_sparse(self, codes: Codes) -> Tensor:
        """Rows `[N, D]` of sparse codes."""
        return kernels.decode(codes, self.W_dec) + self.b_dec

    def reconstruct(self, x: Rows) -> Tensor:
        """`decode(encode(x))`, `[N, D] -> [N, D]`."""
        rows = torch.as_tensor(x)
        codes = self.encode_sparse(rows.reshape(-1, rows.shape[-1]))
        return self.decode_sparse(codes).reshape(rows.shape)

    def arrays(self) -> SAEArrays:
        """The same as NumPy arrays."""

        def numpy(tensor: Tensor) -> NDArray[np.float32]:
            return tensor.detach().to("cpu", torch.float32).numpy()

        return SAEArrays(
            W_enc=numpy(self.W_enc),
            W_dec=numpy(self.W_dec),
            b_enc=numpy(self.b_enc),
            b_dec=numpy(self.b_dec),
            activation=self.activation,
            centred=self.centred,
            about=self.about,
        )


def from_arrays(arrays: SAEArrays) -> SAE:
    """The SAE that these arrays describe, on the CPU in float32.

    Raises:
        SpecError: if the activation rule is not known.
    """
    if arrays.activation.get("kind") != "topk":
        raise SpecError(
            f"activation {arrays.activation.get('kind')!r} is not known; known is 'topk'"
        )
    return SAE(
        W_enc=torch.from_numpy(np.array(arrays.W_enc)),
        W_dec=torch.from_numpy(np.array(arrays.W_dec)),
        b_enc=torch.from_numpy(np.array(arrays.b_enc)),
        b_dec=torch.from_numpy(np.array(arrays.b_dec)),
        activation=arrays.activation,
        centred=arrays.centred,
        about=arrays.about,
    )
