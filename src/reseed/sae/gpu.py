"""TopK codes of rows on a GPU: a rounded product shows who can win, float32 decides.

As `reseed.sae.encode` does, by Triton kernels. Rows x and encoder rows w are rounded to bfloat16
(or left in float32), x~ = x - dx, w~ = w - dw; the product is stored as bfloat16 and only looked at
for bounds, which are those of `encode` but for the sum:

    |sum as computed - x~ w~| <= g |x~| |w~|,  g = (D + 8) 2^-22

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

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from reseed.loops import gpu_encode as loops
from reseed.sae.codes import Codes, count_of

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
    """Look at encoder rows `[F, D]`, for products in bfloat16 or, without `halves`, in float32."""
    rows = W_enc.bfloat16() if halves else W_enc
    lost = (W_enc - rows.float()).square().sum(1)
    return Screen(rows, W_enc.square().sum(1), lost)


def bounds_of(x: Tensor, b_enc: Tensor, screen: Screen) -> tuple[Tensor, Bounds]:
    """Rows x `[B, D]` as they enter the product, and what it can be away from the score."""
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
    """Upper and lower bounds of all scores `[B, F]`, from the product as stored: the plain twin."""
    p = product.float()
    error = bounds.slack * p.abs() + bounds.reach[:, None] * bounds.slope
    return p + error + bounds.lift, p - error + bounds.drop


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


class Strongest(NamedTuple):
    """The K largest positive scores of rows, by falling score; silent entries have value 0."""

    values: Tensor
    """[B, K] float32"""
    latents: Tensor
    """[B, K] int64; F where silent"""


class _Bounded(NamedTuple):
    """What the product says of rows."""

    product: Tensor
    """[B, F] bfloat16"""
    upper: Tensor
    """[B, groups] largest upper bounds"""
    lower: Tensor
    """[B, groups] largest lower bounds"""
    bounds: Bounds
    group: int
    """latents of a group"""


def strongest(x: Tensor, W_enc: Tensor, b_enc: Tensor, screen: Screen, k: int) -> Strongest:
    """The k largest positive pre-activations of rows x `[B, D]`; W_enc is `[F, D]`."""
    if _narrow(len(W_enc), k):
        return _whole(x, W_enc, b_enc, k)
    at_a_time = max(1, _PRODUCTS // len(W_enc))
    parts = [
        _screened(x[low : low + at_a_time], W_enc, b_enc, screen, k)
        for low in range(0, max(1, len(x)), at_a_time)
    ]
    return parts[0] if len(parts) == 1 else Strongest(*map(torch.cat, zip(*parts, strict=True)))


def strongest_of_batch(
    x: Tensor, W_enc: Tensor, b_enc: Tensor, screen: Screen, k: float
) -> Strongest:
    """The k B largest positive pre-activations of all rows (BatchTopK, arXiv 2412.06410).

    K is the most that fire in a row. All rows share the bar. Plain twin: `codes.batch_top`.
    """
    rows, latents, each = len(x), len(W_enc), math.ceil(k)
    wanted = count_of(k, rows, rows * latents)
    if _narrow(latents, each):
        keys = _keys_of_all(x, W_enc, b_enc)
    else:
        looked = _look(x, b_enc, screen, each)
        bar = looked.lower.flatten().topk(wanted, sorted=False).values.amin().expand(rows)
        chosen, count = _candidates(looked, bar.contiguous(), _room(latents, each))
        most = int(count.max())
        if most > chosen.shape[1]:  # some row has more than its share
            chosen, count = _candidates(looked, bar.contiguous(), most)
        keys = _scored(x, W_enc, b_enc, chosen, count)
    best = keys.flatten().topk(min(wanted, keys.numel()), sorted=False).indices
    kept = torch.zeros_like(keys, dtype=torch.bool).flatten().scatter_(0, best, True)
    kept = kept.view_as(keys) & (keys >= 0)
    active = max(1, int(kept.sum(1).max()))
    return _of_keys(torch.where(kept, keys, -1).topk(active, dim=1).values, latents)


def _narrow(latents: int, k: int) -> bool:
    """Whether looking for candidates would not pay."""
    return latents <= 4 * k + 64


def _room(latents: int, k: int) -> int:
    """For candidates of a row: about 2 k at 576 dimensions, 4 k at 2,304 (docs/speed.md)."""
    return min(latents, 16 * k + 64)


def _screened(x: Tensor, W_enc: Tensor, b_enc: Tensor, screen: Screen, k: int) -> Strongest:
    if not len(x):
        return _of_keys(x.new_empty((0, k), dtype=torch.int64), len(W_enc))
    looked = _look(x, b_enc, screen, k)
    bar = looked.lower.topk(k, dim=1, sorted=False).values.amin(1)
    chosen, count = _candidates(looked, bar, _room(len(W_enc), k))
    keys = _scored(x, W_enc, b_enc, chosen, count).topk(k, dim=1).values
    best = _of_keys(keys, len(W_enc))
    over = ((count > chosen.shape[1]) | ~torch.isfinite(looked.bounds.reach)).nonzero()[:, 0]
    if len(over):
        scored_whole = _whole(x[over], W_enc, b_enc, k)
        best.values[over], best.latents[over] = scored_whole.values, scored_whole.latents
    return best


def _look(x: Tensor, b_enc: Tensor, screen: Screen, k: int) -> _Bounded:
    (rows, dimensions), latents = x.shape, len(b_enc)
    group = _LARGEST_GROUP
    while group > 1 and latents < 4 * k * group:  # many more groups than codes: a bar near the best
        group //= 2
    groups = -(-latents // group)
    left, bounds = bounds_of(x, b_enc, screen)
    product = x.new_empty((rows, latents), dtype=torch.bfloat16)
    upper, lower = x.new_empty((2, rows, groups))
    how: dict[str, Any] = {"GROUP": group, "WIDE": x.device.type == "cpu"}
    loops.screen[_tiles(rows, latents)](
        left, screen.rows, bounds.reach, bounds.slope, bounds.lift, bounds.drop, product,
        upper, lower, bounds.slack, rows, latents, dimensions, groups, **how, **_TILE, **EXACT,
    )  # fmt: skip
    return _Bounded(product, upper, lower, bounds, group)


def _candidates(looked: _Bounded, bar: Tensor, room: int) -> tuple[Tensor, Tensor]:
    """Latents that can be at or above the bars of rows, and how many they are."""
    (rows, latents), bounds = looked.product.shape, looked.bounds
    chosen = torch.empty((rows, room), dtype=torch.int32, device=bar.device)
    count = torch.empty(rows, dtype=torch.int32, device=bar.device)
    how: dict[str, Any] = {"GROUP": looked.group, "GROUPS": _LATENTS // looked.group}
    loops.candidates[(rows,)](
        looked.product, looked.upper, bar, bounds.reach, bounds.slope, bounds.lift, chosen, count,
        bounds.slack, latents, looked.upper.shape[1], room, **how, **EXACT,
    )  # fmt: skip
    return chosen, count


def _scored(x: Tensor, W_enc: Tensor, b_enc: Tensor, chosen: Tensor, count: Tensor) -> Tensor:
    """Keys of the candidates."""
    rows, room = chosen.shape
    scores = x.new_empty((rows, room))
    loops.score[(rows, -(-room // _ROW["BLOCK"]))](
        x, W_enc, b_enc, chosen, count, scores, room, x.shape[1], **_ROW, **EXACT
    )
    return _keys(scores, chosen, len(W_enc))


def _whole(x: Tensor, W_enc: Tensor, b_enc: Tensor, k: int) -> Strongest:
    """The same by the scores of all latents."""
    at_a_time = max(1, _SCORES // len(W_enc))
    keys = [
        _keys_of_all(x[low : low + at_a_time], W_enc, b_enc).topk(k, dim=1).values
        for low in range(0, max(1, len(x)), at_a_time)
    ]
    return _of_keys(torch.cat(keys), len(W_enc))


def _keys_of_all(x: Tensor, W_enc: Tensor, b_enc: Tensor) -> Tensor:
    """Keys of all latents, `[B, F]`."""
    rows, (latents, dimensions) = len(x), W_enc.shape
    scores = x.new_empty((rows, latents))
    if rows:
        loops.all_scores[_tiles(rows, latents)](
            x, W_enc, b_enc, scores, rows, latents, dimensions, **_TILE, **EXACT
        )
    every = torch.arange(latents, dtype=torch.int32, device=x.device)
    return _keys(scores, every, latents)


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
    """The k largest pre-activations after ReLU. Plain twin: `codes.top_codes_plain`."""
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
