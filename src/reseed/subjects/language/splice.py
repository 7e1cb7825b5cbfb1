"""A model that computes with the reconstructions of an SAE at one of its sites."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from reseed.errors import SpecError, SubjectError
from reseed.sae.model import SAE
from reseed.spec.subject import Layout
from reseed.subjects.networks.inside import first_tensor
from reseed.subjects.networks.layout import features_last
from reseed.subjects.sites import register, replaced

Edit = Callable[[Tensor], Tensor]
"""From codes `[..., F]` to what goes on instead of them."""


@contextmanager
def spliced(
    sae: SAE,
    model: nn.Module,
    site: str | None = None,
    *,
    target: str | None = None,
    edit: Edit | None = None,
    keep_error: bool = False,
    layout: Layout = "features_last",
) -> Generator[None, None, None]:
    """Replace what passes a site by what an SAE makes of it, as long as the context lasts.

    Every position is replaced, the first of a text too, which studies leave out.

    Args:
        sae: in raw activation units, as all that are loaded or trained here.
        model: a module, or a model of transformers, whose sites are named below its head.
        site: e.g. `"layers.6.mlp"`; left out, the one that the SAE was trained on.
        target: the site that a transcoder writes; left out, the one that it was trained on.
        edit: changes codes `[..., F]`, e.g. takes a latent out.
        keep_error: leave in what the SAE does not reconstruct, so that without an edit nothing
            changes, and with one its effect alone is seen (arXiv 2403.19647, equation 2).
        layout: where the features of these sites stand; a convolution's are `"channels_first"`.

    Raises:
        SpecError: if no site is named, or the model has none of that name.
        SubjectError: in a pass, if no tensor passes there, or its size is not the SAE's.
    """
    read = site or sae.about.get("site")
    if not isinstance(read, str):
        raise SpecError(f"{sae!r} does not say which site it is of; name one, e.g. layers.6.mlp")
    known = sae.about.get("target")
    written = target or (known if isinstance(known, str) else read)
    body: Any = getattr(model, "base_model", model)
    last: dict[str, Tensor] = {}

    def keep(value: object) -> None:
        tensor = first_tensor(value)
        if tensor is None:
            raise SubjectError(f"site {read!r}: no tensor passes there; choose another")
        last["x"] = _fitting(sae, read, features_last(tensor, layout))

    def replace(there: Tensor) -> Tensor:
        x = _fitting(sae, read, there) if written == read else last["x"]
        return _made(sae, x, there, edit, keep_error)

    with ExitStack() as hooks:
        if written != read:
            hooks.callback(register(body, read, keep).remove)
        hooks.enter_context(replaced(body, written, replace, layout))
        yield


def _fitting(sae: SAE, site: str, x: Tensor) -> Tensor:
    """Rows that the SAE can read."""
    if x.shape[-1] != sae.dimensions:
        raise SubjectError(
            f"site {site!r}: {list(x.shape)} passes there, and {sae!r} reads rows of "
            f"{sae.dimensions}. Name the site that it was trained on, or where its features stand: "
            "layout = 'channels_first'."
        )
    return x


def _made(sae: SAE, x: Tensor, there: Tensor, edit: Edit | None, keep_error: bool) -> Tensor:
    """What goes on in the place of `there`."""
    out = there if keep_error else sae.reconstruct(x).to(there)
    if edit is None:
        return out
    codes = sae.encode(x)
    change = (edit(codes) - codes) @ sae.W_dec
    if sae.normalised:
        change = change * x.std(dim=-1, keepdim=True).to(change)
    return out + change.to(there)
