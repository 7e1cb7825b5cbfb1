"""Places inside a torch module where activations are read.

A site is the path of a submodule, e.g. `layers.6.mlp`: what that submodule gives. With `:in` after
it, what that submodule is given. Of several tensors the first counts; of several calls in one pass,
the first call.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from reseed.errors import SpecError, SubjectError, nearest
from reseed.spec.analysis import fits_path
from reseed.subjects.hook_names import module_path

_IN, _OUT = ":in", ":out"


class _AllRead(BaseException):  # noqa: N818  (not an error; no handler of the module may catch it)
    """Ends a forward pass as soon as every wanted site was read."""


def list_sites(module: nn.Module) -> list[str]:
    """Paths of all submodules that compute something, in the order of the module; no root.

    Bare containers (`ModuleList`, `ModuleDict`) are never called, so they are no sites.
    """
    containers = (nn.ModuleList, nn.ModuleDict)
    return [
        path for path, part in module.named_modules() if path and not isinstance(part, containers)
    ]


def resolve_sites(module: nn.Module, patterns: Sequence[str]) -> list[str]:
    """The sites that patterns mean, each once, in the order of the module.

    Args:
        module: in which to look.
        patterns: paths in which `*` stands for (a part of) one component, e.g. `layers.*.mlp` or
            `layers.1?:in`. `:out` is what a path without suffix means.

    Raises:
        SpecError: if a pattern fits nothing; the message names the nearest site.
    """
    known = list_sites(module)
    places: dict[tuple[int, bool], str] = {}
    for pattern in patterns:
        path, suffix = _split(pattern)
        hits = {(n, suffix == ""): k + suffix for n, k in enumerate(known) if fits_path(k, path)}
        if not hits:
            raise SpecError(
                f"site {pattern!r}: the subject has no such module; {_hint(path, known)}"
            )
        places |= hits
    return [places[key] for key in sorted(places)]


def read_sites(
    module: nn.Module, sites: Iterable[str], call: Callable[[], object]
) -> dict[str, Tensor]:
    """Run a forward pass without gradients; it ends at the last site, and gives what passes each.

    Tensors are detached and as the module made them (any shape, type and device).
    """
    reader = _Reader(list(dict.fromkeys(sites)))
    if not reader.wanted:
        raise SpecError(f"no site is named; {nearest('', list_sites(module))}")
    with ExitStack() as hooks, torch.no_grad():
        for site in reader.wanted:
            hooks.callback(register(module, site, partial(reader.keep, site)).remove)
        try:
            call()
        except _AllRead:
            return {site: reader.read[site] for site in reader.wanted}
    never = [site for site in reader.wanted if site not in reader.read]
    raise SubjectError(
        f"site {never[0]!r} was not reached in a forward pass"
        + (f", nor were {len(never) - 1} others" if len(never) > 1 else "")
        + ": that module is not called on this input. Choose a module that is."
    )


class _Reader:
    """What passed the wanted sites so far."""

    def __init__(self, wanted: list[str]) -> None:
        self.wanted = wanted
        self.read: dict[str, Tensor] = {}

    def keep(self, site: str, value: object) -> None:
        """Take the first tensor at a site; stop the pass when it is the last one wanted."""
        if site in self.read:
            return
        tensor = first_tensor(value)
        if tensor is None:
            kind = type(value).__name__
            raise SubjectError(f"site {site!r}: no tensor passes there, but {kind}; choose another")
        self.read[site] = tensor.detach()
        if len(self.read) == len(self.wanted):
            raise _AllRead
        # Later modules may work in place (`ReLU(inplace=True)`, `x += y`).
        self.read[site] = self.read[site].clone()


def register(module: nn.Module, site: str, visit: Callable[[object], object]) -> Any:
    """Let `visit` see what passes a site (of the input: all arguments); gives the hook's handle.

    What it returns goes on instead, unless that is None.
    """
    path, suffix = _split(site)
    try:
        part = module.get_submodule(path)
    except AttributeError:
        hint = _hint(path, list_sites(module))
        raise SpecError(f"site {site!r}: the subject has no such module; {hint}") from None

    def before(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> Any:
        changed = visit((*args, *kwargs.values()))
        if not isinstance(changed, tuple):
            return None
        out = cast(tuple[object, ...], changed)
        return out[: len(args)], dict(zip(kwargs, out[len(args) :], strict=True))

    def after(_: nn.Module, __: object, output: object) -> object:
        return visit(output)

    if suffix == _IN:
        return part.register_forward_pre_hook(before, with_kwargs=True)
    return part.register_forward_hook(after)


@contextmanager
def replaced(
    module: nn.Module, site: str, replace: Callable[[Tensor], Tensor]
) -> Generator[None, None, None]:
    """Let the first tensor that passes a site go on as `replace` makes it, inside the context.

    Raises:
        SpecError: if the module has no such site.
        SubjectError: in a pass, if no tensor passes there.
    """

    def change(value: object) -> object:
        there = first_tensor(value)
        if there is None:
            raise SubjectError(f"site {site!r}: no tensor passes there, so none is replaced")
        return with_first_tensor(value, replace(there))

    handle = register(module, site, change)
    try:
        yield
    finally:
        handle.remove()


def _split(site: str) -> tuple[str, str]:
    """Path and suffix; `:out` is dropped, so that a site has one name."""
    path, colon, word = site.rpartition(":")
    if not colon:
        return site, ""
    suffix = colon + word
    if suffix not in (_IN, _OUT):
        raise SpecError(f"site {site!r}: a site ends in {_IN}, {_OUT} or nothing, not {suffix!r}")
    return path, _IN if suffix == _IN else ""


def _hint(path: str, known: list[str]) -> str:
    """What another library calls so, or the nearest site of the same first component."""
    elsewhere = module_path(path, known)
    if elsewhere is not None:
        return f"{path} is a name of another library; here it is {elsewhere!r}"
    near = [site for site in known if site.split(".")[0] == path.split(".")[0]]
    return nearest(path, near or known)


def first_tensor(value: object) -> Tensor | None:
    """The first tensor of what passes a site; None if there is none."""
    if isinstance(value, Tensor):
        return value
    parts: Iterable[object] = ()
    if isinstance(value, Mapping):
        parts = value.values()
    elif isinstance(value, (tuple, list)):
        parts = value
    return next((part for part in parts if isinstance(part, Tensor)), None)


def with_first_tensor(value: object, tensor: Tensor) -> object:
    """The same with its first tensor replaced."""
    old = first_tensor(value)
    if value is old:
        return tensor
    if isinstance(value, Mapping):
        known = cast(Mapping[Any, Any], value)
        out: Any = type(known)()  # an output class of transformers keeps its kind
        for key, part in known.items():
            out[key] = tensor if part is old else part
        return out
    parts = [tensor if part is old else part for part in cast(Iterable[Any], value)]
    return tuple(parts) if isinstance(value, tuple) else parts
