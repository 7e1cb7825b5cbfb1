"""A whole language model in which what passes a site is replaced.

B sequences, L tokens each, V tokens of the vocabulary, D dimensions of a site.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from reseed.errors import SpecError, SubjectError
from reseed.spec.subject import LanguageModelSpec
from reseed.subjects.language.blocks import TokenBlocks
from reseed.subjects.language.model import load_causal, model_inputs
from reseed.subjects.sites import first_tensor, register, resolve_sites, with_first_tensor

Replace = Callable[[Tensor], Tensor]
"""From what passes a site, `[B, L, D]`, to what goes on instead, of the same shape."""


class Outputs(NamedTuple):
    """What a forward pass gave."""

    logits: Tensor
    """[B, L, V] float32"""
    at: Mapping[str, Tensor]
    """site to float32 `[B, L, D]`"""


class TextBatch(NamedTuple):
    """Some blocks of text as the subject reads them."""

    ids: Tensor
    """[n, L] int64"""
    keep: Tensor
    """[n, L] bool, positions that are rows"""
    attention: Tensor | None
    """[n, L] bool, false at padding; None without"""


def blocks_of(tokens: TokenBlocks, numbers: Sequence[int]) -> TextBatch:
    """These blocks of a text."""
    return TextBatch(
        torch.from_numpy(tokens.ids[list(numbers)].astype(np.int64)),
        torch.from_numpy(tokens.keep[list(numbers)]),
        torch.from_numpy(tokens.attention(numbers)) if tokens.padded else None,
    )


def divergence(original: Tensor, new: Tensor) -> Tensor:
    """Mean of KL(original || new) in nats, of logits `[B, V]`."""
    p, q = original.log_softmax(-1), new.log_softmax(-1)
    return torch.nn.functional.kl_div(q, p, reduction="batchmean", log_target=True)


def put_rows(keep: Tensor, rows: Tensor) -> Replace:
    """What puts rows `[kept, D]` at the kept positions `[B, L]` and leaves the others."""
    return lambda there: there.masked_scatter(keep[..., None].to(there.device), rows.to(there))


class SplicedModel:
    """Runs a frozen language model, as it is or with a site replaced."""

    def __init__(self, model: nn.Module, name: str) -> None:
        self._model = model.eval().requires_grad_(False)
        base: Any = model
        self._body: nn.Module = base.base_model
        self.name = name
        base.config.use_cache = False

    @classmethod
    def load(cls, spec: LanguageModelSpec, device: str = "cpu") -> SplicedModel:
        """Load a model with its head."""
        if spec.random_weights is not None:
            raise SubjectError(f"{spec.model} with random weights predicts nothing; take them out")
        return cls(load_causal(spec, device).model, spec.model)

    def check_sites(self, site: str, later: Sequence[str], ids: Tensor) -> None:
        """Refuse sites that are not there, or that do not come after the one that is replaced."""
        if resolve_sites(self._body, [site]) != [site]:
            raise SpecError(f"{site!r} is a pattern; name one site")
        original = self.run(ids, later)
        changed = self.run_with(ids, site, torch.zeros_like, later)
        for name in later:
            if torch.equal(original.at[name], changed.at[name]):
                raise SpecError(
                    f"end_to_end.sites has {name!r}, which does not depend on {site!r}; name sites "
                    "that come after it"
                )

    def run(self, ids: Tensor, sites: Sequence[str], attention: Tensor | None = None) -> Outputs:
        """A pass of the model as it is on ids `[B, L]`; `attention` is false at padding."""
        with torch.no_grad():
            return self._run(ids, sites, attention)

    def run_with(
        self,
        ids: Tensor,
        site: str,
        replace: Replace,
        sites: Sequence[str] = (),
        attention: Tensor | None = None,
    ) -> Outputs:
        """A pass in which a site is replaced; gradients flow back to what replaces it."""

        def change(value: object) -> object:
            there = first_tensor(value)
            if there is None:
                raise SubjectError(f"site {site!r}: no tensor passes there, so none is replaced")
            return with_first_tensor(value, replace(there))

        with ExitStack() as hooks:
            hooks.callback(register(self._body, site, change).remove)
            return self._run(ids, sites, attention)

    def _run(self, ids: Tensor, sites: Sequence[str], attention: Tensor | None) -> Outputs:
        passed: dict[str, Tensor] = {}

        def keep(site: str, value: object) -> None:
            tensor = first_tensor(value)
            if tensor is None:
                raise SubjectError(f"site {site!r}: no tensor passes there; choose another")
            passed.setdefault(site, tensor.float())

        with ExitStack() as hooks:
            for site in sites:
                hooks.callback(register(self._body, site, partial(keep, site)).remove)
            logits = self._model(**model_inputs(self._model, ids, attention)).logits
        missing = [site for site in sites if site not in passed]
        if missing:
            raise SubjectError(f"site {missing[0]!r} was not reached in a forward pass")
        return Outputs(logits.float(), passed)
