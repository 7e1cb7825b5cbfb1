"""Activations of any torch module on batches of inputs.

D dimensions of a site; one batch of inputs is one block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reseed.errors import SpecError, SubjectError
from reseed.spec.subject import Layout
from reseed.subjects.networks.batches import (
    Batch,
    arguments,
    device_of,
    real_positions,
    samples_in,
    speaks_of,
)
from reseed.subjects.networks.layout import (
    cells,
    check_layout,
    drawn,
    features_last,
    layouts_of,
    places_in,
)
from reseed.subjects.sites import read_sites, resolve_sites
from reseed.subjects.source import first_bad_row, one_after_other


class ModuleSource:
    """A torch module as a `BlockSource`: each batch is a block, whatever shape its outputs have.

    Outputs `[..., D]` are flattened to rows; where features stand elsewhere, `layout` says so. How
    many rows a batch gives is taken from the first batch: each of its samples (leading index of its
    first tensor) gives the same number, unless rows are ragged. The module is put into eval mode,
    since in training mode its outputs would depend on the order of reading, and stays on its
    device.

    Padding is left out: where a batch of keyword arguments says which positions are none
    (`attention_mask`; `key_padding_mask` of torch), a site with a row for each position gives those
    alone, and batches may differ in length.

    Args:
        module: the subject.
        sites: patterns, see `resolve_sites`.
        batches: inputs; must have a length and be indexable again and again.
        layout: of all sites, or by pattern; see `ModuleSpec`.
        positions: places drawn in the map of each sample, see `drawn`; None for all.
        ragged: whether samples may give different numbers of rows, or none. Batches are read once
            to count them.
        enough: rows after which a ragged source stops counting; batches behind them are left out.

    Raises:
        SpecError: if a site is unknown, a layout is of none, or there is no batch.
        SubjectError: if a site gives no rows, the sites give unequal numbers of them, or features
            stand where the layout has none.
    """

    def __init__(
        self,
        module: nn.Module,
        sites: Sequence[str],
        batches: Sequence[Batch],
        *,
        layout: Layout | Mapping[str, Layout] = "features_last",
        positions: int | None = None,
        ragged: bool = False,
        enough: int | None = None,
    ) -> None:
        if not hasattr(batches, "__len__") or not hasattr(batches, "__getitem__"):
            kind = type(batches).__name__
            raise SpecError(
                f"batches is a {kind}, but a sequence with a length is needed, since blocks are "
                "read several times and in any order; for example list(batches)."
            )
        if len(batches) == 0:
            raise SpecError("batches is empty: there is nothing to read")
        self._module, self._batches = module.eval(), batches
        self._names = resolve_sites(module, sites)
        self._layouts = layouts_of(self._names, layout)
        self._positions, self._ragged = positions, ragged
        self._shapes: dict[tuple[int, str], tuple[int, ...]] = {}
        self.show: Callable[[int], NDArray[np.uint8]] | None = None
        """of a factory that gives pictures: number of a sample to its picture"""
        self.labels: Sequence[str] | None = None
        """a word for each sample, where a factory gives them"""
        self.padding = 0
        """positions of all batches that are left out"""
        if ragged:
            sizes, counts = self._counted(enough)
        else:
            first = self._run(0)
            sizes = {site: rows.shape[1] for site, rows in first.items()}
            counts = self._expected({site: len(rows) for site, rows in first.items()})
        self.sites: Mapping[str, int] = sizes
        self.rows: NDArray[np.int64] = counts

    def read(self, blocks: Sequence[int]) -> dict[str, Tensor]:
        """Rows of these blocks; see `BlockSource.read`."""
        return one_after_other(self.sites, (self._checked(int(block)) for block in blocks))

    def places(self, block: int, site: str | None = None) -> NDArray[np.int32]:
        """`[rows, 3]` sample, y and x of each row of a block, in the map of a site.

        Samples are counted over all batches. y and x are -1 where a site has no map, as in a
        sequence; the sample is -1 where a row cannot be traced to one, as in an expert.

        Args:
            block: its number.
            site: one of `sites`; left out, the first with a map, or the first.
        """
        names = [site] if site else list(self.sites)
        name = max(names, key=lambda one: len(self._shape(block, one)))
        samples, *shape = self._shape(block, name) or (0,)
        if not samples:
            return np.full((int(self.rows[block]), 3), -1, np.int32)
        if self._positions is None:
            which = np.arange(prod(shape))[None].repeat(samples, 0)
        else:
            which = cells(drawn(block, samples, self._positions), shape)
        places = places_in(samples, shape, which)
        places[:, 0] += self._first_samples[block]
        real = real_positions(self._batches[block], name)
        same = real is not None and tuple(real.shape) == (samples, *shape)
        return places[real.flatten().numpy()] if real is not None and same else places

    @cached_property
    def _first_samples(self) -> NDArray[np.int64]:
        """[blocks] number of the first sample of each."""
        counts = [samples_in(self._batches[i], i) for i in range(len(self.rows))]
        return np.cumsum([0, *counts[:-1]], dtype=np.int64)

    def _shape(self, block: int, site: str) -> tuple[int, ...]:
        """B and the places of a sample at a site; empty where rows are not those of samples."""
        samples = samples_in(self._batches[block], block)
        if self._ragged:
            shape = self._shapes.get((block, site), ())
            return shape if len(shape) > 1 and shape[0] == samples else ()
        real, lead = real_positions(self._batches[block], site), self._shapes[0, site]
        first = real_positions(self._batches[0], site)
        if real is not None and first is not None and speaks_of(first, lead):
            return tuple(real.shape)
        each = lead[0] // samples_in(self._batches[0], 0)
        return (samples, *lead[1:]) if each == 1 else (samples, each, *lead[1:])

    def _checked(self, block: int) -> dict[str, Tensor]:
        read = self._run(block)
        for site, d in self.sites.items():
            rows = read.setdefault(site, torch.empty(0, d))
            want = (int(self.rows[block]), d)
            if tuple(rows.shape) != want:
                raise SubjectError(
                    f"site {site!r}: batch {block} gives {list(rows.shape)} rows and dimensions, "
                    f"{list(want)} were expected from the first batch. Every sample must give as "
                    "many rows as any other: pad or cut them to one shape, and name padding in an "
                    "attention_mask; or say rows = 'ragged'."
                )
            bad = first_bad_row(rows)
            if bad is not None:
                raise SubjectError(
                    f"site {site!r}: NaN or infinity in row {bad} of batch (block) {block}. "
                    "Look at the inputs of this batch and at the weights of the module."
                )
        return read

    def _run(self, block: int) -> dict[str, Tensor]:
        args, kwargs = arguments(self._batches[block], device_of(self._module))
        call = partial(self._module, *args, **kwargs)
        read = read_sites(self._module, self._names, call, absent=self._ragged)
        return {site: self._rows_of(block, site, tensor) for site, tensor in read.items()}

    def _rows_of(self, block: int, site: str, tensor: Tensor) -> Tensor:
        """`[rows, D]` of what passes a site."""
        check_layout(site, tensor, self._layouts[site], self._module)
        there = features_last(tensor, self._layouts[site])
        if self._ragged or block == 0:
            self._shapes[block, site] = tuple(there.shape[:-1])
        rows = there.flatten(0, -2).to("cpu", torch.float32)
        real = real_positions(self._batches[block], site)
        if real is not None and speaks_of(real, there.shape[:-1]):
            if self._positions is not None:
                raise SpecError(
                    f"site {site!r} has padding, which positions = {self._positions} would draw "
                    "as well; take positions out, or the mask"
                )
            return rows[real.flatten()]
        return rows if self._positions is None else self._some(block, site, rows, there.shape[:-1])

    def _some(self, block: int, site: str, rows: Tensor, shape: Sequence[int]) -> Tensor:
        """Those of the places drawn in a block."""
        count, (samples, *places) = self._positions or 0, shape
        if not places or count > prod(places):
            raise SpecError(
                f"positions = {count}, but site {site!r} gives {prod(places)} rows for a sample "
                f"({list(shape)} without features); draw fewer, or choose a site with a larger map"
            )
        which = cells(drawn(block, samples, count), places) + (
            np.arange(samples)[:, None] * prod(places)
        )
        return rows[torch.from_numpy(which.reshape(-1))]

    def _counted(self, enough: int | None) -> tuple[dict[str, int], NDArray[np.int64]]:
        """Sizes of the sites, and rows of each batch, by reading them."""
        sizes, counts = dict[str, int](), list[int]()
        for block in range(len(self._batches)):
            read = self._run(block)
            sizes |= {site: rows.shape[1] for site, rows in read.items()}
            there = {site: len(read.get(site, ())) for site in self._names}
            _check_equal(there, f"batch {block}")
            counts.append(next(iter(there.values())))
            if enough is not None and sum(counts) >= enough:
                break
        if len(sizes) < len(self._names) or not sum(counts):
            none = next((site for site in self._names if site not in sizes), self._names[0])
            raise SubjectError(
                f"site {none!r} gives no row in any of {len(counts)} batches: that module is not "
                "called on these inputs, or nothing is sent to it. Choose another, or more inputs."
            )
        return {site: sizes[site] for site in self._names}, np.array(counts, np.int64)

    def _expected(self, counts: Mapping[str, int]) -> NDArray[np.int64]:
        _check_equal(counts, "the first batch")
        # Not `iter`: a Dataset without __iter__ raises its own errors at the end.
        real = real_positions(self._batches[0], self._names[0])
        if real is not None and next(iter(counts.values())) == int(real.sum()):
            return self._real_positions()
        samples = [samples_in(self._batches[i], i) for i in range(len(self._batches))]
        total = next(iter(counts.values()))
        if total == 0 or total % samples[0]:
            raise SubjectError(
                f"site {self._names[0]!r}: {total} rows for the {samples[0]} samples of the first "
                "batch; each sample must give the same number of rows, at least one. Where that "
                "is how the module works, as experts do, say rows = 'ragged'."
            )
        return np.array(samples, np.int64) * (total // samples[0])

    def _real_positions(self) -> NDArray[np.int64]:
        """[batches] positions that are no padding."""
        counts = list[int]()
        for index in range(len(self._batches)):
            mask = real_positions(self._batches[index], self._names[0])
            if mask is None:
                raise SubjectError(
                    f"batch {index} has no mask of padding, but the first one has; give each its "
                    "attention_mask"
                )
            counts.append(int(mask.sum()))
            self.padding += mask.numel() - counts[-1]
        return np.array(counts, np.int64)


def _check_equal(counts: Mapping[str, int], where: str) -> None:
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"{site}: {n}" for site, n in counts.items())
        raise SubjectError(
            f"the sites give unequal numbers of rows for {where} ({shown}). Study them one at a "
            "time, choose sites with the same leading shape, or draw as many places of each map "
            "with positions."
        )


def harvest(
    module: nn.Module,
    sites: Sequence[str],
    batches: Sequence[Batch],
    *,
    layout: Layout | Mapping[str, Layout] = "features_last",
    positions: int | None = None,
    ragged: bool = False,
) -> dict[str, NDArray[np.float32]]:
    """Read activations of any torch module into memory.

    Args:
        module: in the mode it is to be read in.
        sites: module paths or patterns, `:in` behind for the input.
        batches: inputs; each a tensor, a tuple or a dict of keyword arguments.
        layout: where features stand, of all sites or by pattern, e.g. `"channels_first"`.
        positions: places drawn in the map of each sample; None for all.
        ragged: whether samples may give different numbers of rows.

    Returns:
        Site to `[N, D]`, one row for each vector that the site gives; without those of padding,
        where a batch has an `attention_mask` (see `ModuleSource`).

    Raises:
        SpecError: if a site is unknown.
        SubjectError: if activations are NaN or infinite.
    """
    source = ModuleSource(module, sites, batches, layout=layout, positions=positions, ragged=ragged)
    return {site: x.numpy() for site, x in source.read(range(len(batches))).items()}
