"""Places inside a torch module where activations are read.

A site is the path of a submodule, e.g. `layers.6.mlp`: what that submodule gives. With `:in` after
it, what that submodule is given. Of several tensors the first counts, unless a part is named:
`:out[1]` of a tuple, `:out.logits` of a dict or record, `:in.hidden_states` of the arguments, and
further in, `:out.states[0]`. Of several calls in one pass, the first call counts.

Where experts are one module that is told where each row goes, as those of transformers are,
`layers.0.mlp.experts:in@3` is what is sent to expert 3.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from reseed.errors import SpecError, SubjectError, nearest
from reseed.spec.analysis import fits_path
from reseed.spec.subject import Layout
from reseed.subjects.networks.hook_names import module_path
from reseed.subjects.networks.inside import (
    Step,
    first_tensor,
    part_of,
    steps_of,
    with_first_tensor,
    with_part,
)
from reseed.subjects.networks.layout import features_last, laid_back

_SUFFIX = re.compile(r"(?P<path>[^:]*):(?P<side>in|out)(?P<inside>(?:\[\d+\]|\.\w+)*(?:@\d+)?)")


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
    places: dict[tuple[int, bool, str], str] = {}
    for pattern in patterns:
        path, suffix = _split(pattern)
        order = not suffix.startswith(":in"), suffix
        hits = {(n, *order): k + suffix for n, k in enumerate(known) if fits_path(k, path)}
        if not hits:
            raise SpecError(
                f"site {pattern!r}: the subject has no such module; {_hint(path, known)}"
            )
        places |= hits
    return [places[key] for key in sorted(places)]


def read_sites(
    module: nn.Module, sites: Iterable[str], call: Callable[[], object], *, absent: bool = False
) -> dict[str, Tensor]:
    """Run a forward pass without gradients; it ends at the last site, and gives what passes each.

    Tensors are detached and as the module made them (any shape, type and device). With `absent`
    sites that are not reached are left out, as experts that no token is sent to.
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
    if absent:
        return {site: reader.read[site] for site in reader.wanted if site in reader.read}
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
    steps, expert = steps_of(suffix), suffix.partition("@")[2]

    def change(value: object, way: Sequence[Step]) -> object:
        changed = visit(part_of(value, way, site))
        return None if changed is None else with_part(value, way, changed)

    def before(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> Any:
        flat = (*args, *kwargs.values())
        way = _of_arguments(part, steps, len(args), list(kwargs))
        if expert:
            way, sent = way or (0,), _sent_to(int(expert), flat, site)
            there = first_tensor(part_of(flat, way, site))
            changed = None if there is None else visit(there[sent])
            if there is not None and isinstance(changed, Tensor):
                changed = with_part(flat, way, there.index_put((sent,), changed.to(there)))
        else:
            changed = change(flat, way)
        if not isinstance(changed, tuple):
            return None
        out = cast(tuple[object, ...], changed)
        return out[: len(args)], dict(zip(kwargs, out[len(args) :], strict=True))

    def after(_: nn.Module, __: object, output: object) -> object:
        return change(output, steps)

    if suffix.startswith(":in"):
        return part.register_forward_pre_hook(before, with_kwargs=True)
    return part.register_forward_hook(after)


def _sent_to(expert: int, given: tuple[object, ...], site: str) -> Tensor:
    """[rows] whether they go to an expert, by the `[rows, K]` whole numbers a module is given."""
    for value in given:
        if isinstance(value, Tensor) and value.ndim == 2 and not value.is_floating_point():
            return (value == expert).any(dim=1)
    raise SubjectError(
        f"site {site!r}: that module is not told which rows go to which expert (whole numbers "
        "[rows, K] among its arguments). Experts that are modules of their own are sites by name."
    )


def _of_arguments(
    part: nn.Module, steps: tuple[Step, ...], positional: int, named: Sequence[str]
) -> tuple[Step, ...]:
    """The way into all arguments of a call, positional ones first; a named one may be either."""
    if not steps or isinstance(steps[0], int):
        return steps
    if steps[0] in named:
        return (positional + list(named).index(steps[0]), *steps[1:])
    known = list(inspect.signature(part.forward).parameters)[:positional]
    return (known.index(steps[0]), *steps[1:]) if steps[0] in known else steps


@contextmanager
def replaced(
    module: nn.Module,
    site: str,
    replace: Callable[[Tensor], Tensor],
    layout: Layout = "features_last",
) -> Generator[None, None, None]:
    """Let the first tensor that passes a site go on as `replace` makes it, inside the context.

    `replace` is given `[..., D]` whatever the layout of the site is, and what it returns is laid
    out as the site has it.

    Raises:
        SpecError: if the module has no such site.
        SubjectError: in a pass, if no tensor passes there.
    """

    def change(value: object) -> object:
        there = first_tensor(value)
        if there is None:
            raise SubjectError(f"site {site!r}: no tensor passes there, so none is replaced")
        changed = replace(features_last(there, layout))
        return with_first_tensor(value, laid_back(changed, there, layout))

    handle = register(module, site, change)
    try:
        yield
    finally:
        handle.remove()


def _split(site: str) -> tuple[str, str]:
    """Path and suffix; `:out` alone is dropped, so that a site has one name."""
    if ":" not in site:
        return site, ""
    parts = _SUFFIX.fullmatch(site)
    if parts is None:
        suffix = site[site.index(":") :]
        raise SpecError(
            f"site {site!r}: a site ends in :in, :out or nothing, not {suffix!r}; a part of a "
            "tuple or dict is named behind it, as :out[1] or :out.logits"
        )
    suffix = f":{parts['side']}{parts['inside']}"
    if "@" in suffix and parts["side"] == "out":
        raise SpecError(f"site {site!r}: what is sent to an expert is {parts['path']}:in@N")
    return parts["path"], "" if suffix == ":out" else suffix


def _hint(path: str, known: list[str]) -> str:
    """What another library calls so, or the nearest site of the same first component."""
    elsewhere = module_path(path, known)
    if elsewhere is not None:
        return f"{path} is a name of another library; here it is {elsewhere!r}"
    near = [site for site in known if site.split(".")[0] == path.split(".")[0]]
    return nearest(path, near or known)
