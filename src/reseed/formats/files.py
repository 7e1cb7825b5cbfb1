"""The files that a reference to an SAE names. Formats see nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reseed.errors import SpecError, StoreError
from reseed.formats.containers.arrays import Array, Arrays, read_npy, read_npz, read_safetensors
from reseed.formats.containers.torch_file import read_torch
from reseed.formats.containers.wrappings import unwrapped

OF_ARRAYS = (".safetensors", ".npz", ".pt", ".pth", ".bin", ".ckpt")
"""Endings of files whose arrays have names."""

_MOST_NAMES, _DEEPEST = 10_000, 6
_LARGEST_JSON = 16 * 2**20
_LFS = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True, slots=True)
class Files:
    """The file or the folder that a reference names.

    Names are relative to the folder; for a file, to the folder it lies in, so that a format finds
    the settings that lie beside the weights (`"config.json"`, `"../config.json"`). Reading raises
    StoreError for what is missing or damaged, and SpecError for what is known and not read.
    """

    path: Path

    @property
    def folder(self) -> Path:
        """The folder itself, or the one the file lies in."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def is_file(self) -> bool:
        """Whether one file is named, not a folder."""
        return self.path.is_file()

    def means(self, *names: str) -> bool:
        """Whether the folder is named, or one of these files in it."""
        return not self.is_file or self.path.name in names

    def names(self) -> list[str]:
        """Names of the files of the folder and below, sorted; of a file, its own only.

        At most 10,000, and not deeper than 6 folders. Links to folders are not followed.

        Raises:
            SpecError: if there is neither a file nor a folder.
        """
        if self.path.is_file():
            return [self.path.name]
        if not self.path.is_dir():
            raise SpecError(f"{self.path} does not exist; is the path right?")
        names: list[str] = []
        for folder, folders, files in os.walk(self.path):
            below = Path(folder).relative_to(self.path)
            folders[:] = [] if len(below.parts) >= _DEEPEST else sorted(folders)
            names += [(below / name).as_posix() for name in files]
            if len(names) > _MOST_NAMES:
                break
        return sorted(names[:_MOST_NAMES])

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return (self.folder / name).is_file()

    def inside(self, name: str) -> Files:
        """The file or folder of this name."""
        return Files(self.folder / name)

    def json(self, name: str) -> dict[str, Any]:
        """A table in JSON, of at most 16 MiB."""
        path = self._existing(name)
        try:
            if path.stat().st_size > _LARGEST_JSON:
                raise ValueError("it has more than 16 MiB, no settings are that long")
            value = json.loads(path.read_text("utf-8-sig"))  # editors put a byte order mark there
        except (OSError, ValueError, RecursionError) as error:
            raise StoreError(f"{path} is no JSON that can be read: {error}") from error
        if not isinstance(value, dict):
            raise StoreError(f"{path} should hold a table, not a {type(value).__name__}")
        return value

    def tensors(self, name: str) -> Arrays:
        """The arrays of a safetensors file."""
        return unwrapped(read_safetensors(self._existing(name)))

    def torch_dict(self, name: str) -> Arrays:
        """What `torch.save` wrote, tensors as NumPy arrays, dicts inside as `Arrays`.

        Without what a training wraps around them, see `containers.wrappings`.
        """
        return unwrapped(read_torch(self._existing(name)))

    def npz(self, name: str) -> Arrays:
        """The arrays of an `.npz` file."""
        return read_npz(self._existing(name))

    def npy(self, name: str) -> Array:
        """The array of an `.npy` file."""
        return read_npy(self._existing(name))

    def keys(self, name: str) -> frozenset[str]:
        """Names of the arrays in a file of any of these kinds; none if it cannot be read.

        For recognising, which must be cheap and never fail on a foreign file.
        """
        try:
            return frozenset(self.arrays(name) or () if self.has(name) else ())
        except (SpecError, StoreError):
            return frozenset()

    def arrays(self, name: str) -> Arrays | None:
        """The arrays of a file that names them; None if it is of no such kind, by its ending."""
        readers = {".safetensors": self.tensors, ".npz": self.npz}
        suffix = Path(name).suffix
        return readers.get(suffix, self.torch_dict)(name) if suffix in OF_ARRAYS else None

    def settings(self, name: str) -> dict[str, Any]:
        """Like `json`, but an empty table if there is none that can be read; for recognising."""
        try:
            return self.json(name) if self.has(name) else {}
        except StoreError:
            return {}

    def _existing(self, name: str) -> Path:
        path = self.folder / name
        if not path.is_file():
            raise StoreError(f"{path} is missing; was the whole SAE copied?")
        with contextlib.suppress(OSError), open(path, "rb") as handle:
            if handle.read(len(_LFS)) == _LFS:
                raise StoreError(
                    f"{path} is a Git LFS pointer, the few lines that stand for the file until it "
                    "is fetched. Fetch it: git lfs pull, or download the file itself."
                )
        return path

    def layer_file(self, pattern: str) -> str | None:
        """The file itself, or the only one of a folder that fits e.g. `"layer{}.sae.pt"`."""
        if self.is_file:
            return self.path.name if self.path.suffix == Path(pattern).suffix else None
        names = self._layer_files(pattern)
        return names[0] if len(names) == 1 else None

    def the_layer_file(self, pattern: str) -> str:
        """The same, where there must be one.

        Raises:
            SpecError: if a folder has none or several.
        """
        name = self.path.name if self.is_file else self.layer_file(pattern)
        if name is None:
            names = self._layer_files(pattern)
            listed = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
            raise SpecError(
                f"{self.path} holds {len(names)} files like {pattern.format('N')}"
                + (f": {listed}; give one of them" if names else "")
            )
        return name

    def _layer_files(self, pattern: str) -> list[str]:
        """Names in the folder that fit the pattern, by number."""
        before, after = pattern.split("{}")
        fits = re.compile(f"{re.escape(before)}([0-9]+){re.escape(after)}")
        matches = [match for name in self.names() if (match := fits.fullmatch(name))]
        return [match[0] for match in sorted(matches, key=lambda match: int(match[1]))]
