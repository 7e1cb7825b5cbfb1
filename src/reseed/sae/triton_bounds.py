"""How far a rounded product can be from the scores that decide; on any device.

The bounds of `reseed.sae.encode`, as a GPU needs them. Rows x and encoder rows w are rounded to
bfloat16 (or left in float32), x~ = x - dx, w~ = w - dw; the product is stored as bfloat16:

    |x w - x~ w~| <= |x| |dw| + |dx| |w~|                     (Cauchy-Schwarz, exact lengths)
    |sum as computed - x~ w~| <= g |x~| |w~|,  g = (D + 8) 2^-22
    |product as stored - sum| <= 2^-7 |product|               (bfloat16, any rounding)
    |score as computed - (x w + b)| <= (D + 8) 2^-23 |x| |w| + 2^-22 (|x w| + |b|)

g is twice that of a CPU: tensor cores add 4 or more products at a time and cut what lies below the
last bit of the largest (Fasi, Higham, Mikaitis and Pranesh, PeerJ Computer Science 7:e330). The sum
is a bound on how far product plus b is from the score in float32.

B rows, F latents, D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

_STORED = 2.0**-7 + 2.0**-20
_BIAS = 2.0**-20
_OVER = 1 + 2.0**-10
"""Bounds are this much larger than computed lengths, since these are rounded as well."""
_DENORMAL = 1e-24
"""Stands for what is lost where products are too small for float32."""


@dataclass(frozen=True, slots=True, eq=False)
class Screen:
    """Encoder rows as the product reads them, with the lengths that bound what that changes."""

    rows: Tensor
    """[F, D] bfloat16, or the float32 rows themselves"""
    length: Tensor
    """[F] squared lengths of encoder rows"""
    lost: Tensor
    """[F] squared lengths of what rounding took from them"""

    def of(self, rows: Tensor) -> Screen:
        """That of some encoder rows, `[R]` int64."""
        return Screen(self.rows[rows], self.length[rows], self.lost[rows])


class Bounds(NamedTuple):
    """How far scores may be from the stored product p: `slack |p| + reach slope`, then the bias."""

    slack: float
    reach: Tensor
    """[B]"""
    slope: Tensor
    """[F]"""
    lift: Tensor
    """[F] added for the upper bound"""
    drop: Tensor
    """[F] added for the lower one"""


def new_screen(W_enc: Tensor, *, halves: bool = True) -> Screen:
    """Look at encoder rows.

    Args:
        W_enc: `[F, D]` float32.
        halves: whether products are made in bfloat16, else in float32.
    """
    rows = W_enc.bfloat16() if halves else W_enc
    lost = (W_enc - rows.float()).square().sum(1)
    return Screen(rows, W_enc.square().sum(1), lost)


def bounds_of(x: Tensor, b_enc: Tensor, screen: Screen) -> tuple[Tensor, Bounds]:
    """Rows as they enter the product, and what it can be away from the score.

    Args:
        x: `[B, D]` float32.
        b_enc: `[F]`.
        screen: of the encoder rows.
    """
    left = x.to(screen.rows.dtype)
    length = x.square().sum(1)
    lost = (x - left.float()).square().sum(1)
    share = torch.where(length > 0, lost / length, 0.0).nan_to_num(0.0).sqrt().amax()
    sums = (x.shape[1] + 8) * 2.0**-22
    w, dw = screen.length.sqrt(), screen.lost.sqrt()
    slope = dw + share * (w + dw) + sums * ((1 + share) * (w + dw) + w)
    bias = b_enc.abs() * _BIAS
    reach = torch.where(length > 0, length.sqrt() + _DENORMAL, length)
    slope = slope * _OVER + (w > 0) * _DENORMAL
    return left, Bounds(_STORED, reach, slope, b_enc + bias, b_enc - bias)


def plain_bounds(product: Tensor, bounds: Bounds) -> tuple[Tensor, Tensor]:
    """Upper and lower bounds of all scores `[B, F]`: the plain twin of what the kernels compute.

    Args:
        product: `[B, F]` as stored.
        bounds: of these rows and latents.
    """
    p = product.float()
    error = bounds.slack * p.abs() + bounds.reach[:, None] * bounds.slope
    return p + error + bounds.lift, p - error + bounds.drop
