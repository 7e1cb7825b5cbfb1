"""Where the features of a site stand, and which of its places are rows.

B samples, D features; a map has H x W places, a sequence L.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isqrt, prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reseed.errors import SpecError, SubjectError, nearest
from reseed.seeds import generator
from reseed.spec.analysis import fits_path, plain
from reseed.spec.subject import Layout


def layouts_of(sites: Sequence[str], layout: Layout | Mapping[str, Layout]) -> dict[str, Layout]:
    """The layout of each site.

    Raises:
        SpecError: if a pattern fits none of the sites.
    """
    if isinstance(layout, str):
        return dict.fromkeys(sites, layout)
    for pattern in layout:
        if not any(fits_path(site, plain(pattern)) for site in sites):
            raise SpecError(
                f"subject.layout has {pattern!r}, which is none of the sites that are read; "
                + nearest(pattern, sites)
            )
    out: dict[str, Layout] = dict.fromkeys(sites, "features_last")
    for pattern, how in reversed(list(layout.items())):
        out |= {site: how for site in sites if fits_path(site, plain(pattern))}
    return out


def features_last(tensor: Tensor, layout: Layout) -> Tensor:
    """What passes a site as `[B, ..., D]`; a view."""
    if layout == "channels_first" and tensor.ndim > 1:
        return tensor.movedim(1, -1)
    if layout == "patches" and tensor.ndim == 3:
        side = isqrt(tensor.shape[1])
        return tensor[:, tensor.shape[1] - side**2 :].unflatten(1, (side, side))
    return tensor


def laid_back(changed: Tensor, there: Tensor, layout: Layout) -> Tensor:
    """The inverse of `features_last`: laid out as `there`, whose class tokens stay."""
    if layout == "channels_first" and there.ndim > 1:
        return changed.movedim(-1, 1)
    if layout == "patches" and there.ndim == 3:
        patches = changed.flatten(1, 2)
        return torch.cat([there[:, : there.shape[1] - patches.shape[1]], patches], 1)
    return changed


def check_layout(site: str, tensor: Tensor, layout: Layout, module: nn.Module) -> None:
    """Refuse a tensor that is no activations, or features where the module has none.

    Args:
        site: its name.
        tensor: what passes, as the module gives it.
        layout: how it is to be read.
        module: the subject; its part at the site may say how many features it gives or takes.

    Raises:
        SubjectError: naming the layout that the module's own sizes speak for.
    """
    if tensor.ndim < 2 or not tensor.is_floating_point():
        raise SubjectError(
            f"site {site!r} gives {tensor.dtype} {list(tensor.shape)}; floats [..., D] are needed"
        )
    if layout == "patches" and tensor.ndim != 3:
        raise SubjectError(
            f"site {site!r}: layout = 'patches' reads [B, tokens, D], but {list(tensor.shape)} "
            "passes there; 'channels_first' is for [B, D, H, W]"
        )
    path, _, side = site.partition(":")
    part = module.get_submodule(path)
    known = _features(part, side == "in") if side in ("", "in") else None
    if known is None or tensor.ndim == 2:
        return
    where = 1 if layout == "channels_first" else -1
    other = -1 if where == 1 else 1
    if tensor.shape[where] != known and tensor.shape[other] == known:
        better = "channels_first" if other == 1 else "features_last"
        raise SubjectError(
            f"site {site!r}: {type(part).__name__} has {known} features, which are dimension "
            f"{other % tensor.ndim} of {list(tensor.shape)}, not {where % tensor.ndim} as layout = "
            f"{layout!r} says. Set layout = {better!r} in [subject], or for this site alone, "
            f"layout = {{ {site!r} = {better!r} }}."
        )


def _features(part: nn.Module, of_input: bool) -> int | None:
    """How many features a module says that it gives or takes; None if it does not say."""
    if isinstance(part, nn.Sequential) and len(part):
        return _features(part[0 if of_input else -1], of_input)
    names = ("in_channels", "in_features") if of_input else ("out_channels", "out_features")
    for name in (*names, "num_features", "num_channels"):
        size: Any = getattr(part, name, None)
        if isinstance(size, int):
            return size
    shape: Any = getattr(part, "normalized_shape", None)
    return int(shape[-1]) if shape else None


def drawn(block: int, samples: int, count: int) -> NDArray[np.float64]:
    """`[samples, count, 2]` points in the unit square, spread evenly, y and x.

    The square is cut into the fewest equal parts that are a square number and at least `count`; of
    these some are left out by chance, and a point is drawn in each. They depend on the number of
    the block alone, so that a place is the same at sites whose maps have different sizes.
    """
    side = isqrt(count - 1) + 1
    draw = generator("map-positions", block, count)
    parts = np.sort(draw.random((samples, side**2)).argsort(axis=1)[:, :count], axis=1)
    corners = np.stack([parts // side, parts % side], axis=2)
    return (corners + draw.random((samples, count, 2))) / side


def cells(points: NDArray[np.float64], shape: Sequence[int]) -> NDArray[np.int64]:
    """`[samples, count]` which places of a map, counted row by row, hold these points."""
    height, width = prod(shape[:-1]), shape[-1]
    y, x = (points[..., i] * size for i, size in enumerate((height, width)))
    return y.astype(np.int64) * width + x.astype(np.int64)


def places_in(samples: int, shape: Sequence[int], cells: NDArray[np.int64]) -> NDArray[np.int32]:
    """`[samples * count, 3]` sample, y and x of cells `[samples, count]`; -1 in no map."""
    sample = np.broadcast_to(np.arange(samples)[:, None], cells.shape)
    none = np.full_like(cells, -1)
    y, x = np.divmod(cells, shape[-1]) if len(shape) > 1 else (none, none)
    return np.stack([sample, y, x], axis=2).reshape(-1, 3).astype(np.int32)
