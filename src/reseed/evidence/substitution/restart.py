"""The same text through a language model many times, each from the last layer before a site.

What lies before the site does not change, so it is computed once and handed on: the layers before
the one that holds the site give what the last of them gave. That holds for stacks of layers whose
only bond is the hidden state; a pass that changes nothing is held against the plain one first, and
where they differ every pass is a whole one.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from reseed.subjects.language.activations import Outputs, Replace, SplicedModel
from reseed.subjects.networks.inside import first_tensor, with_first_tensor

_SAME = 1e-3
"""Of the largest logit: by how much a pass that starts later may differ."""


class Restart:
    """Passes of one text with a site replaced."""

    def __init__(self, model: SplicedModel, site: str) -> None:
        self._model, self._site = model, site
        self._earlier = layers_before(model.body, site)
        self._passed: Any = None
        self._checked = False

    @property
    def skipped(self) -> int:
        """Layers that are computed once."""
        return len(self._earlier)

    def begin(self, ids: Tensor, sites: Sequence[str], attention: Tensor | None = None) -> Outputs:
        """The pass of a text `[1, L]` as it is; the next ones are of this text."""
        with ExitStack() as hooks:
            if self._earlier:
                last = self._earlier[-1].register_forward_hook(self._keep)
                hooks.callback(last.remove)
            out = self._model.run(ids, sites, attention)
        if not self._checked:
            self._checked = True
            again = self.run_with(ids, lambda there: there, attention).logits
            if (again - out.logits).abs().max() > _SAME * out.logits.abs().max():
                self._earlier = []
        return out

    def run_with(self, ids: Tensor, replace: Replace, attention: Tensor | None = None) -> Outputs:
        """A pass of n copies `[n, L]` of the text, with the site replaced."""
        with ExitStack() as patches, torch.no_grad():
            if self._earlier:
                before = first_tensor(self._passed)
                assert before is not None
                value = with_first_tensor(self._passed, before.expand(len(ids), *before.shape[1:]))

                def passed(*_: object, **__: object) -> object:
                    return value

                for layer in self._earlier:
                    layer.forward = passed
                    patches.callback(delattr, layer, "forward")
            return self._model.run_with(ids, self._site, replace, (), attention)

    def _keep(self, _: nn.Module, __: object, output: object) -> None:
        self._passed = output


def layers_before(body: nn.Module, site: str) -> list[nn.Module]:
    """The layers of the stack that holds a site, up to the one that holds it; none without one."""
    path = site.partition(":")[0].split(".")
    for cut in range(len(path)):
        stack = body.get_submodule(".".join(path[:cut]))
        if isinstance(stack, nn.ModuleList) and path[cut].isdigit():
            return list(stack[: int(path[cut])])
    return []
