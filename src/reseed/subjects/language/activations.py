"""Passes of a language model over blocks of tokens: sites are read, or what passes one is replaced.

B sequences, L tokens each, V tokens of the vocabulary, D dimensions of a site.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reseed.errors import SpecError, SubjectError
from reseed.spec.subject import LanguageModelSpec
from reseed.subjects.language.blocks import NO_DOCUMENT, TokenBlocks
from reseed.subjects.language.model import LanguageModel, load_causal, model_inputs
from reseed.subjects.networks.inside import first_tensor
from reseed.subjects.sites import register, replaced, resolve_sites
from reseed.subjects.source import first_bad_row

_POSITIONS = 256
"""In one forward pass over short blocks; more are not faster on a processor."""

_READ_TOGETHER = 64
"""Blocks that are usually read together at the least."""


class Pass(NamedTuple):
    """One forward pass."""

    places: list[int]
    """which of the blocks asked for"""
    blocks: int
    """in the pass; where it is more than `places`, the last is repeated"""
    length: int
    """positions of each"""


class TextSource:
    """A language model reading text, as a `BlockSource`; kept positions are rows.

    Padding is never computed: a padded block is read at its own length, together with blocks of
    that length only. Every pass over blocks of one length has the same shape, which length and text
    decide, so the rows of a block do not depend on which blocks are read with it (on one machine
    with one number of threads). Blocks without padding have one length, L, and `batch_blocks` of
    them go through in a pass. With `padded` padded blocks are read at full length under a mask, the
    plain way; the rows are equal up to rounding.
    """

    def __init__(
        self,
        model: LanguageModel,
        tokens: TokenBlocks,
        batch_blocks: int,
        *,
        padded: bool = False,
    ) -> None:
        model.check_block(tokens.ids.shape[1])
        self._model, self._tokens, self._batch = model, tokens, batch_blocks
        self._masked = padded and tokens.padded
        self._lengths = _lengths(tokens) if tokens.padded and not padded else None
        self._blocks_of_length = None if self._lengths is None else np.bincount(self._lengths)
        two = torch.from_numpy(tokens.ids[:1, :2].astype(np.int64))
        self.sites: Mapping[str, int] = {s: t.shape[2] for s, t in model.forward(two).items()}
        self.rows: NDArray[np.int64] = tokens.rows

    def check_causal(self) -> None:
        """Refuse a model that sees what follows, where it is to predict it."""
        self._model.check_causal()

    def passes(self, blocks: Sequence[int]) -> list[Pass]:
        """The forward passes that read these blocks."""
        if self._lengths is None:
            return _passes(range(len(blocks)), self._batch, self._tokens.ids.shape[1])
        lengths, out = self._lengths[list(blocks)], list[Pass]()
        for length in np.unique(lengths).tolist():
            places = np.flatnonzero(lengths == length).tolist()
            out += _passes(places, self._together(length), length)
        return out

    def read(self, blocks: Sequence[int]) -> dict[str, Tensor]:
        """Rows of these blocks; see `BlockSource.read`."""
        return self.read_watched(blocks, lambda _: None)

    def read_watched(
        self, blocks: Sequence[int], advance: Callable[[int], object]
    ) -> dict[str, Tensor]:
        """The same, telling `advance` after each pass how many more rows are there."""
        numbers = [int(block) for block in blocks]
        ends = np.cumsum(self.rows[numbers]) if numbers else np.zeros(0, np.int64)
        total = int(ends[-1]) if numbers else 0
        out = {site: torch.empty(total, d) for site, d in self.sites.items()}
        for pass_, read in self._read_each(numbers):
            for site, activations in read.items():
                for sequence, place in zip(activations, pass_.places, strict=False):
                    block, end = numbers[place], int(ends[place])
                    keep = torch.from_numpy(self._tokens.keep[block, : pass_.length])
                    rows = sequence[keep.to(sequence.device)]
                    self._check(site, rows, block)
                    out[site][end - len(rows) : end] = rows
            advance(int(self.rows[[numbers[place] for place in pass_.places]].sum()))
        return out

    def _read_each(self, numbers: Sequence[int]) -> Iterator[tuple[Pass, dict[str, Tensor]]]:
        """What passes the sites in each pass over these blocks; some may be made at a time."""
        passes, some = self.passes(numbers), self._model.together
        for first in range(0, len(passes), some):
            now = passes[first : first + some]
            batches = [self._batch_of([numbers[place] for place in p.places], p) for p in now]
            yield from zip(now, self._model.forward_each(batches), strict=True)

    def _together(self, length: int) -> int:
        """Blocks of this length in one pass: no more than usually meet, and at least one."""
        assert self._blocks_of_length is not None
        share = self._blocks_of_length[length] / len(self.rows)
        expected = int(share * _READ_TOGETHER / 2)
        return max(1, min(self._batch, _POSITIONS // length, expected))

    def _batch_of(self, batch: Sequence[int], pass_: Pass) -> tuple[Tensor, Tensor | None]:
        # A smaller last batch would go through other kernels and round differently.
        filled = [*batch, *[batch[-1]] * (pass_.blocks - len(batch))]
        ids = torch.from_numpy(self._tokens.ids[filled, : pass_.length].astype(np.int64))
        return ids, torch.from_numpy(self._tokens.attention(filled)) if self._masked else None

    def _check(self, site: str, rows: Tensor, block: int) -> None:
        bad = first_bad_row(rows)
        if bad is None:
            return
        position = self._tokens.positions(block)[bad]
        number = int(self._tokens.document[block, position])
        origin = "no document (a special token)"
        if number != NO_DOCUMENT:
            origin = f"document {self._tokens.documents['origin'][number]}"
        raise SubjectError(
            f"site {site!r} of {self._model.name}: NaN or infinity in block {block} at position "
            f"{position}, {origin}. The weights may be damaged, or the numbers too large for the "
            "dtype of the subject; with bfloat16, try float32."
        )


def _lengths(tokens: TokenBlocks) -> NDArray[np.int64]:
    """[blocks] positions before the padding; it only stands at the end."""
    real = tokens.attention(range(len(tokens.rows)))
    return real.shape[1] - real[:, ::-1].argmax(axis=1)


def _passes(places: Sequence[int], size: int, length: int) -> list[Pass]:
    return [
        Pass(list(places[first : first + size]), size, length)
        for first in range(0, len(places), size)
    ]


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

    @property
    def body(self) -> nn.Module:
        """The model without its head, below which sites are named."""
        return self._body

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
        with replaced(self._body, site, replace):
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
