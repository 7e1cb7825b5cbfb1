"""Delphi's cache of latents: read its examples into our tables, and write what it can read.

The cache of a hookpoint is a folder (EleutherAI/delphi 0.1.3, arXiv 2410.13928): a `config.json`,
and files `FIRST_LAST.safetensors`, each with the latents from FIRST to LAST:

- `locations` `[n, 3]`, uint16 or uint32: sequence, position, latent - FIRST, of all that fires;
- `activations` `[n]`, float16: above 1e-5 in size, smaller ones are left out;
- `tokens` `[S, L]`: the sequences, the same in every file.

What the cache does not say: where documents begin. Each sequence counts as one document here, so
examples of two splits never share a sequence; a document that goes on in another sequence cannot
be seen. Nor does it have decoder rows, so there are no hard negatives from neighbours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.errors import SpecError, StoreError
from reseed.events import Events
from reseed.evidence.rows import Encoded, Fired, Integers, Reader, entries_of, feed
from reseed.evidence.sampler import WindowSampler
from reseed.evidence.tables import ExampleTables, tables_of
from reseed.evidence.windows import cut
from reseed.formats.containers.arrays import read_safetensors
from reseed.spec.analysis import EvidenceSpec
from reseed.store import json_bytes, read_json, safetensors_bytes, write_bytes
from reseed.subjects.language.blocks import TokenBlocks
from reseed.subjects.source import BlockSource

LEAST = 1e-5
"""Activations up to this size are left out, as Delphi does."""

_NAME = re.compile(r"(\d{1,9})_(\d{1,9})\.safetensors")
_SEQUENCES = 128
"""Sampled from together."""
_MOST_LATENTS = 2**22
"""Of one file; a name can claim any number."""


def read_delphi_cache(
    folder: Path,
    pieces: Callable[[list[int]], list[str]],
    spec: EvidenceSpec | None = None,
    latents: Collection[int] | None = None,
) -> ExampleTables:
    """Sample examples from a cache, as from a pass of our own; `joined()` has their text.

    Files are read one by one: memory grows with the largest of them.

    `pieces` gives the text of each token, e.g. `Tokenizer.pieces` of the model in `config.json`;
    `latents` limits what is read.
    """
    spec = spec or EvidenceSpec()
    text: _Sequences | None = None
    tables: list[ExampleTables] = []
    for part in _parts(folder):
        if latents is not None and not any(part.first <= n <= part.last for n in latents):
            continue
        tokens, fired = part.read()
        if text is not None and not np.array_equal(text.ids, tokens):
            raise StoreError(
                f"{part.path} has other tokens than the files before it; caches of two runs were "
                "mixed in one folder"
            )
        text = text or _Sequences(tokens, pieces)
        sampler = WindowSampler(part.latents, spec, base=part.first)
        for first in range(0, len(tokens), _SEQUENCES):
            blocks = np.arange(first, min(first + _SEQUENCES, len(tokens)))
            here = fired.at(slice(*np.searchsorted(fired.place, [first, first + len(blocks)])))
            windows = cut(text, blocks, spec.window, spec.seed)
            sampler.add(windows, here._replace(place=here.place - first))
        tables.append(tables_of(sampler, text))
    return _joined(tables, latents)


def delphi_model(folder: Path) -> str:
    """Name of the model whose latents are in a cache, to load its tokenizer."""
    config = read_json(folder / "config.json")
    name = config.get("model_name") if isinstance(config, dict) else None
    if not isinstance(name, str) or not name:
        raise StoreError(f"{folder / 'config.json'} does not say model_name; name it yourself")
    return name


def write_delphi_cache(
    folder: Path,
    tokens: NDArray[Any],
    fired: Fired,
    latents: int,
    model: str,
    files: int = 5,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write a cache of one hookpoint.

    float16, as Delphi has it, ends at 65,504; a file with larger activations is written in float32,
    which its loader reads as well.

    `tokens` `[S, L]` are ids, and the `place` of what fires is the sequence; the latents are cut
    into `files`. `model` names the tokenizer; `about` is more for `config.json`, e.g.
    `dataset_repo`.
    """
    if tokens.ndim != 2 or not tokens.size or not 1 <= files <= latents:
        raise SpecError(
            f"a cache of {latents} latents in {files} files with tokens of shape {tokens.shape} "
            "cannot be written; ask for 1 to F files, and give tokens [S, L]"
        )
    if folder.is_dir() and any(folder.iterdir()):
        raise StoreError(f"{folder} holds a cache already, or other files; choose another folder")
    fired = fired.at(np.lexsort((fired.latent, fired.position, fired.place)))
    edges = [i * latents // files for i in range(files + 1)]
    for first, stop in zip(edges, edges[1:], strict=False):
        inside = (fired.latent >= first) & (fired.latent < stop)
        part = fired.at(inside & (fired.value > LEAST))
        locations = np.stack([part.place, part.position, part.latent - first], axis=1)
        small = locations.max(initial=0) < 2**16
        half = part.value.max(initial=0) <= np.finfo(np.float16).max
        arrays = {
            "locations": locations.astype(np.uint16 if small else np.uint32),
            "activations": part.value.astype(np.float16 if half else np.float32),
            "tokens": tokens.astype(np.int64),
        }
        write_bytes(folder / f"{first}_{stop - 1}.safetensors", safetensors_bytes(arrays))
    shape = {"cache_ctx_len": tokens.shape[1], "ctx_len": tokens.shape[1]}
    config = {"n_tokens": int(tokens.size), "n_splits": files, **shape, **(about or {})}
    write_bytes(folder / "config.json", json_bytes({**config, "model_name": model}))


def write_run_for_delphi(
    folder: Path,
    reader: Reader,
    source: BlockSource,
    blocks: Integers,
    text: TokenBlocks,
    events: Events,
    **options: Any,
) -> None:
    """Encode these blocks and write them; a block becomes a sequence.

    Memory: 28 bytes for each latent that fires at a token, all of them together. Positions that
    are left out of the activations (BOS, separators) have no codes; Delphi takes the latents to be
    silent there.
    """
    parts: list[Fired] = []

    def add(chunk: Encoded) -> None:
        fired = entries_of(chunk.codes("sae"), chunk.chunk.blocks, text.positions)
        parts.append(fired._replace(place=fired.place + chunk.chunk.first))

    feed(add, {"sae": reader}, source, blocks, events, "cache")
    fired = Fired(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    write_delphi_cache(folder, text.ids[blocks], fired, reader.sae.latents, **options)


class _Sequences:
    """The sequences of a cache as text; each is a document."""

    def __init__(self, ids: Integers, pieces: Callable[[list[int]], list[str]]) -> None:
        self.ids, self.length, self._pieces = ids, ids.shape[1], pieces

    def positions(self, block: int) -> Integers:
        return np.arange(self.length)

    def documents(self, block: int) -> Integers:
        return np.full(self.length, block)

    def tokens(self, block: int, first: int, last: int) -> list[str]:
        return self._pieces(self.ids[block, first:last].tolist())


class _Part(NamedTuple):
    """One file of a cache."""

    first: int
    last: int
    path: Path

    @property
    def latents(self) -> int:
        return self.last - self.first + 1

    def read(self) -> tuple[Integers, Fired]:
        """Tokens `[S, L]`, and what fires, by sequence (its `place`), position and latent."""
        held = read_safetensors(self.path)
        if "tokens" not in held:
            raise StoreError(f"{self.path} has no tokens; write the cache with them (save_tokens)")
        tokens, locations = self._integers(held, "tokens"), self._integers(held, "locations")
        if "activations" not in held or held.shape("activations") != (len(locations),):
            raise StoreError(f"{self.path}: there is not one activation for each location")
        most = (*tokens.shape, self.latents)
        if locations.shape[1] != 3 or (locations >= most).any():
            raise StoreError(
                f"{self.path}: locations should be [n, 3] and stay below {most} (sequences, "
                "positions, latents); the file was renamed, or is of another cache"
            )
        values = self._activations(held["activations"])
        key = (locations[:, 0] * most[1] + locations[:, 1]) * most[2] + locations[:, 2]
        order = np.argsort(key, kind="stable")
        if (np.diff(key[order]) == 0).any():
            raise StoreError(f"{self.path}: a latent fires twice at one position; it is damaged")
        order = order[values[order] > 0]
        sequence, position, latent = locations[order].T
        return tokens, Fired(sequence, position, latent, values[order])

    def _integers(self, held: Mapping[str, Any], name: str) -> Integers:
        array = held.get(name)
        if (
            not isinstance(array, np.ndarray)
            or array.dtype.kind not in "iu"
            or array.ndim != 2
            or (name == "tokens" and not array.size)
            or int(array.min(initial=0)) < 0
            or int(array.max(initial=0)) >= 2**32
        ):
            raise StoreError(
                f"{self.path}: {name} should be a table of whole numbers from 0 to 2^32"
            )
        return array.astype(np.int64)

    def _activations(self, values: NDArray[Any]) -> NDArray[np.float32]:
        if values.dtype.kind != "f" or not np.isfinite(values).all():
            raise StoreError(
                f"{self.path}: activations are not all finite numbers; those above 65,504 become "
                "infinite in float16. Cache again in float32, or scale the SAE"
            )
        if (values < 0).any():
            raise StoreError(
                f"{self.path}: activations below 0. Caches written before delphi #131 hold the "
                "output of the decoder in place of latents: cache again with a newer version"
            )
        return values.astype(np.float32)


def _parts(folder: Path) -> Iterator[_Part]:
    """The files of a cache by their latents."""
    names = ((_NAME.fullmatch(child.name), child) for child in folder.glob("*"))
    files = sorted(_Part(int(name[1]), int(name[2]), child) for name, child in names if name)
    if not files:
        raise StoreError(
            f"{folder} holds no files FIRST_LAST.safetensors, as a cache of Delphi does. Give the "
            "folder of one hookpoint, e.g. latents/layers.5.mlp"
        )
    end = -1
    for part in files:
        if not end < part.first <= part.last:
            raise StoreError(f"{part.path} has latents of another file too, or none; mixed caches?")
        if part.latents > _MOST_LATENTS:
            raise StoreError(
                f"{part.path} claims {part.latents:,} latents, more than the {_MOST_LATENTS:,} "
                "that are read from one file; cut the cache into more files"
            )
        end = part.last
        yield part


def _joined(tables: list[ExampleTables], latents: Collection[int] | None) -> ExampleTables:
    """The tables of files with other latents of the same text."""
    columns = zip(*(tables or [tables_of(None, None)]), strict=True)
    examples, windows, counts = (pl.concat(column) for column in columns)
    if latents is not None:
        wanted = pl.col("latent").is_in(sorted(set(latents)))
        examples, counts = examples.filter(wanted), counts.filter(wanted)
    windows = windows.filter(pl.col("window").is_in(examples["window"].unique().to_list()))
    return ExampleTables(examples, windows.unique("window").sort("window"), counts)
