"""Subjects by entry point: a function of a package or of a file makes a module and its inputs."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import nn

from reseed.errors import SpecError, nearest
from reseed.seeds import digest
from reseed.spec.subject import ModuleSpec, is_file_factory
from reseed.subjects.networks.batches import Batch


@dataclass(frozen=True, slots=True)
class Network:
    """What a factory gives."""

    module: nn.Module
    batches: Sequence[Batch]
    show: Callable[[int], NDArray[np.uint8]] | None = None
    """number of a sample, counted over all batches, to its picture, uint8 `[H, W, 3]`"""
    labels: Sequence[str] | None = None
    """a word for each sample"""


def open_factory(spec: ModuleSpec) -> Network:
    """Call the function that a `ModuleSpec` names.

    Raises:
        SpecError: if there is none, or it gives something else.
    """
    name, colon, function = spec.factory.rpartition(":")
    if not (name and colon and function):
        raise SpecError(
            f"subject.factory = {spec.factory!r} is not of the form package.module:name or "
            "file.py:name"
        )
    path = Path(os.path.expanduser(name)) if is_file_factory(spec.factory) else None
    with _importable(path):
        imported = _imported(name) if path is None else _executed(path)
        factory = getattr(imported, function, None)
        if not callable(factory):
            hint = nearest(function, [key for key in vars(imported) if not key.startswith("_")])
            raise SpecError(f"subject.factory: {name} has no function {function!r}; {hint}")
        return _network(spec.factory, cast(Callable[[], object], factory)())


def _network(name: str, made: object) -> Network:
    parts: tuple[Any, ...] = cast(tuple[Any, ...], made) if isinstance(made, tuple) else ()
    if not (2 <= len(parts) <= 4 and isinstance(parts[0], nn.Module)):
        raise SpecError(
            f"subject.factory: {name} gave {type(made).__name__}, but (module, batches) is needed, "
            "and show and labels may follow: a torch.nn.Module, a sequence of inputs, a function "
            "from the number of a sample to its picture, a sequence of words."
        )
    network = Network(*parts)
    if network.show is not None and not callable(network.show):
        raise SpecError(f"subject.factory: {name} gave {network.show!r} as show, no function")
    return network


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SpecError(
            f"subject.factory: {name} cannot be imported ({error}). Install it; or name its file, "
            f'seen from the study\'s: factory = "{name.replace(".", "/")}.py:...".'
        ) from error


def _executed(path: Path) -> ModuleType:
    """The module of a file, made anew if the file is another than before."""
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.py")) if path.parent.is_dir() else []
        raise SpecError(f"subject.factory: there is no file {path}; {nearest(path.name, near)}")
    name = f"reseed_subject_{digest([str(path.resolve()), path.stat().st_mtime_ns], 8)}"
    if name in sys.modules:
        return sys.modules[name]
    described = importlib.util.spec_from_file_location(name, path)
    assert described is not None
    assert described.loader is not None
    made = importlib.util.module_from_spec(described)
    sys.modules[name] = made  # dataclasses look their module up
    try:
        described.loader.exec_module(made)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, Exception):
            raise SpecError(
                f"subject.factory: {path} ends with {type(error).__name__}: {error}"
            ) from error
        raise
    return made


@contextmanager
def _importable(path: Path | None) -> Generator[None, None, None]:
    """Files beside a factory's can be imported by it, as when Python runs that file."""
    folder = str(path.parent.resolve()) if path is not None else None
    if folder is not None:
        sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
