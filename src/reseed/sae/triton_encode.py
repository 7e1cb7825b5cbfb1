"""TopK codes of rows on a GPU: a rounded product shows who can win, float32 decides.

The way and the proof of `reseed.sae.encode`, by Triton kernels. The product of rows and encoder
rows, both rounded to bfloat16 (or left in float32), is stored as bfloat16 and only looked at for
bounds e on how far it is from the score in float32:

    |x w - x~ w~| <= |x| |dw| + |dx| |w~|                     (Cauchy-Schwarz, exact lengths)
    |sum as computed - x~ w~| <= g |x~| |w~|,  g = (D + 8) 2^-22
    |product as stored - sum| <= 2^-7 |product|               (bfloat16, any rounding)
    |score as computed - (x w + b)| <= (D + 8) 2^-23 |x| |w| + 2^-22 (|x w| + |b|)

g is twice that of a CPU: tensor cores add 4 or more products at a time and cut what lies below the
last bit of the largest (Fasi, Higham, Mikaitis and Pranesh, PeerJ Computer Science 7:e330).

The bar of a row is the k-th largest of the groups' largest lower bounds. Each of those k groups
holds a latent whose score is at least the bar, so a latent whose upper bound is below has k others
above it and is no member. Latents whose upper bound is at or above the bar are scored, in groups
whose largest upper bound is. A row with more of them than there is room for is scored whole. So the
codes do not depend on the product or its type; among equal scores the lowest latent wins; scores at
or below 0 are silent.

B rows, F latents, D dimensions, K codes of a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from reseed.sae import triton_encode_kernels as loops
from reseed.sae.kernels import Codes

_STORED = 2.0**-7 + 2.0**-20
_BIAS = 2.0**-20
_OVER = 1 + 2.0**-10
"""Bounds are this much larger than computed lengths, since these are rounded as well."""
_DENORMAL = 1e-24
"""Stands for what is lost where products are too small for float32."""
_PRODUCTS = 2**27
"""Most products that are stored at a time."""
_SCORES = 2**24
"""Most scores of whole rows that are made at a time."""
_LARGEST_GROUP = 64
_LATENTS = 1024
"""Latents that are looked at at a time for those that can win."""
_TILE: dict[str, Any] = {"ROWS": 64, "LATENTS": 128, "DEPTH": 32, "num_warps": 8}
_ROW: dict[str, Any] = {"BLOCK": 16, "DEPTH": 128}
EXACT: dict[str, Any] = {"enable_fp_fusion": True}
"""Said to Triton, whose default differs between versions; a product and sum in one only rounds
less."""


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


class Strongest(NamedTuple):
    """The K largest positive scores of rows, by falling score; silent entries have value 0."""

    values: Tensor
    """[B, K] float32"""
    latents: Tensor
    """[B, K] int64; F where silent"""


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


def strongest(x: Tensor, W_enc: Tensor, b_enc: Tensor, screen: Screen, k: int) -> Strongest:
    """The k largest positive pre-activations of rows.

    Args:
        x: `[B, D]` float32, contiguous, what the encoder reads.
        W_enc: `[F, D]` float32, contiguous.
        b_enc: `[F]`.
        screen: of W_enc as it is now.
        k: codes of a row, at most F.
    """
    latents = len(W_enc)
    room = max(4 * k, k + 64)
    if latents <= room:
        return _whole(x, W_enc, b_enc, k)
    group = _LARGEST_GROUP
    while group > 1 and latents < 4 * k * group:
        group //= 2
    at_a_time = max(1, _PRODUCTS // latents)
    parts = [
        _screened(x[low : low + at_a_time], W_enc, b_enc, screen, k, room, group)
        for low in range(0, max(1, len(x)), at_a_time)
    ]
    return parts[0] if len(parts) == 1 else Strongest(*map(torch.cat, zip(*parts, strict=True)))


def _screened(
    x: Tensor, W_enc: Tensor, b_enc: Tensor, screen: Screen, k: int, room: int, group: int
) -> Strongest:
    (rows, dimensions), latents = x.shape, len(W_enc)
    if not rows:
        return _of_keys(x.new_empty((0, k), dtype=torch.int64), latents)
    left, bounds = bounds_of(x, b_enc, screen)
    groups = -(-latents // group)
    product = x.new_empty((rows, latents), dtype=torch.bfloat16)
    upper, lower = x.new_empty((2, rows, groups))
    slack, reach, slope, lift, drop = bounds
    how: dict[str, Any] = {"GROUP": group, "WIDE": x.device.type == "cpu"}
    loops.screen[_tiles(rows, latents)](
        left, screen.rows, reach, slope, lift, drop, product, upper, lower, slack,
        rows, latents, dimensions, groups, **how, **_TILE, **EXACT,
    )  # fmt: skip
    bar = lower.topk(k, dim=1, sorted=False).values.amin(1)
    chosen = torch.empty((rows, room), dtype=torch.int32, device=x.device)
    count = torch.empty(rows, dtype=torch.int32, device=x.device)
    how = {"GROUP": group, "GROUPS": _LATENTS // group}
    loops.candidates[(rows,)](
        product, upper, bar, reach, slope, lift, chosen, count, slack,
        latents, groups, room, **how, **EXACT,
    )  # fmt: skip
    scores = x.new_empty((rows, room))
    loops.score[(rows, -(-room // _ROW["BLOCK"]))](
        x, W_enc, b_enc, chosen, count, scores, room, dimensions, **_ROW, **EXACT
    )
    keys = _keys(scores, chosen, latents).topk(k, dim=1).values
    over = ((count > room) | ~torch.isfinite(reach)).nonzero()[:, 0]
    best = _of_keys(keys, latents)
    if len(over):
        whole = _whole(x[over], W_enc, b_enc, k)
        best.values[over], best.latents[over] = whole.values, whole.latents
    return best


def _whole(x: Tensor, W_enc: Tensor, b_enc: Tensor, k: int) -> Strongest:
    """The same by the scores of all latents."""
    latents, dimensions = W_enc.shape
    every = torch.arange(latents, dtype=torch.int32, device=x.device)
    keys = [torch.empty((0, k), dtype=torch.int64, device=x.device)]
    at_a_time = max(1, _SCORES // latents)
    for low in range(0, len(x), at_a_time):
        some = x[low : low + at_a_time]
        scores = x.new_empty((len(some), latents))
        loops.all_scores[_tiles(len(some), latents)](
            some, W_enc, b_enc, scores, len(some), latents, dimensions, **_TILE, **EXACT
        )
        keys.append(_keys(scores, every, latents).topk(k, dim=1).values)
    return _of_keys(torch.cat(keys), latents)


def _tiles(rows: int, latents: int) -> tuple[int, int]:
    return -(-rows // _TILE["ROWS"]), -(-latents // _TILE["LATENTS"])


def _keys(scores: Tensor, latents: Tensor, width: int) -> Tensor:
    """One integer for each score: larger for larger ones, among equals for lower latents."""
    bits = scores.abs().view(torch.int32).to(torch.int64) << 32  # NaN above all: it is to be seen
    return torch.where(scores <= 0, -1, bits | (width - 1 - latents))


def _of_keys(keys: Tensor, width: int) -> Strongest:
    values = (keys >> 32).to(torch.int32).view(torch.float32)
    active = keys >= 0
    latents = torch.where(active, width - 1 - (keys & 0xFFFFFFFF), width)
    return Strongest(torch.where(active, values, 0.0), latents)


def top_codes(x: Tensor, W_enc: Tensor, b_enc: Tensor, k: int, *, halves: bool = True) -> Codes:
    """The k largest pre-activations after ReLU. Plain twin: `kernels.top_codes_plain`.

    Args:
        x: `[B, D]` float32, what the encoder reads.
        W_enc: `[F, D]`.
        b_enc: `[F]`.
        k: codes of a row, at most F.
        halves: whether the product that is looked at is made in bfloat16.
    """
    rows = W_enc.contiguous()
    screen = new_screen(rows, halves=halves)
    best = strongest(x.contiguous(), rows, b_enc.contiguous(), screen, k)
    latents, order = best.latents.sort(dim=1)
    values = best.values.gather(1, order)
    # silent entries stand for the lowest latents that are not active
    place = torch.arange(k, device=x.device)
    silent = place - (values > 0).sum(1, keepdim=True)
    below = torch.searchsorted(latents - place, silent.clamp_min(0), right=True)
    latents, order = torch.where(silent >= 0, silent + below, latents).sort(dim=1)
    return Codes(values.gather(1, order), latents)
