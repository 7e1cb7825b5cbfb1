"""The logit lens: which tokens a decoder row makes likely and unlikely, as a piece of each run.

A row goes through the final norm's gain (centred before, where that norm centres) and the
unembedding; what the norm divides by is left out, since it depends on the token (nostalgebraist's
logit lens; TransformerLens folds the same two into its unembedding).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from reseed.errors import ReseedError
from reseed.events import Events
from reseed.formats import own
from reseed.records import Floats
from reseed.runs import Done, logits_name, run_name
from reseed.sae import Tensor, torch
from reseed.seeds import digest
from reseed.spec.subject import LanguageModelSpec, subject_beside
from reseed.spec.training import RunSpec
from reseed.store import Store
from reseed.study import Study

FILE, ABOUT = "logits.parquet", "about.json"

_TOKENS = 10
"""Kept at each end."""

_BARS = 40
"""Of the histogram over the vocabulary, from the least logit to the largest."""

_AT_A_TIME = 128
"""Latents whose logits are in memory together."""

_SCHEMA = {
    "latent": pl.UInt32,
    "top": pl.List(pl.String),
    "top_logits": pl.List(pl.Float32),
    "bottom": pl.List(pl.String),
    "bottom_logits": pl.List(pl.Float32),
    "counts": pl.List(pl.UInt32),
}


class Norm(NamedTuple):
    """What the final norm does to a direction."""

    gain: Tensor
    """[D]"""
    centres: bool


@dataclass(frozen=True, slots=True)
class Unembedding:
    """The head of a language model with the norm before it, and its tokenizer's names of tokens."""

    head: Tensor
    """[V, D]"""
    norm: Norm | None
    tokenizer: Any

    def through(self, rows: Floats) -> Tensor:
        """`[n, V]` what directions `[n, D]` add to the logits."""
        at = torch.from_numpy(rows).to(self.head.device)
        if self.norm is not None:
            at = (at - at.mean(dim=1, keepdim=True) if self.norm.centres else at) * self.norm.gain
        return at @ self.head.T

    def table(self, rows: Floats) -> pl.DataFrame:
        """A row for each direction.

        Returns:
            latent; top, top_logits (largest first); bottom, bottom_logits (smallest first); counts
            of the vocabulary in equal bins from the least to the largest logit.
        """
        parts = (
            self._part(first, rows[first : first + _AT_A_TIME])
            for first in range(0, len(rows), _AT_A_TIME)
        )
        return pl.concat([pl.DataFrame(schema=_SCHEMA), *parts])

    def _part(self, first: int, rows: Floats) -> pl.DataFrame:
        values, size = self.through(rows), min(_TOKENS, len(self.head))
        top, bottom = values.topk(size), values.topk(size, largest=False)
        ends = {"top": top.indices, "bottom": bottom.indices}
        names = {
            end: [self.tokenizer.pieces(ids) for ids in at.tolist()] for end, at in ends.items()
        }
        least, most = bottom.values[:, :1], top.values[:, :1]
        width = (most - least).clamp(min=1e-30) / _BARS
        bins = ((values - least) / width).long().clamp(0, _BARS - 1)
        counts = torch.zeros(len(rows), _BARS, dtype=torch.int32, device=values.device)
        counts.scatter_add_(1, bins, torch.ones_like(bins, dtype=torch.int32))
        return pl.DataFrame(
            {
                "latent": np.arange(first, first + len(rows)),
                **names,
                "top_logits": top.values.tolist(),
                "bottom_logits": bottom.values.tolist(),
                "counts": counts.tolist(),
            }
        ).select(pl.col(name).cast(type_) for name, type_ in _SCHEMA.items())


def norm_of(body: Any, dimensions: int) -> tuple[str, Norm] | None:
    """The name of the norm that a body ends with, and what it does; None if there is none to see.

    It is looked at from outside, since families write it differently (Gemma's gain is 1 + weight).
    """
    parts = [
        (name, part) for name, part in body.named_modules() if _is_norm(name, part, dimensions)
    ]
    if not parts or dimensions % 2:
        return None
    name, part = parts[-1]
    weight = next(part.parameters())
    signs = torch.ones(1, 1, dimensions, dtype=weight.dtype, device=weight.device)
    signs[..., 1::2] = -1  # of mean 0 and mean square 1, so that it is neither shifted nor scaled
    ones = torch.ones_like(signs)
    with torch.no_grad():
        gain = ((part(signs) - part(-signs)) / 2 * signs)[0, 0].float()
        flat = (part(ones) - part(-ones)).abs().max()
    return name, Norm(gain, bool(flat <= 1e-3 * gain.abs().max()))


def _is_norm(name: str, part: Any, dimensions: int) -> bool:
    """Whether it is a norm of the whole stream: in no layer, with one gain for each dimension."""
    shapes = [tuple(weight.shape) for weight in part.parameters(recurse=False)]
    in_layer = any(piece.isdecimal() for piece in name.split("."))
    said = "norm" in type(part).__name__.lower()
    return said and not in_layer and bool(shapes) and set(shapes) == {(dimensions,)}


def unembedding_of(model: Any, vocabulary: int, tokenizer: Any) -> tuple[Unembedding, str | None]:
    """The end of a causal language model, and the name of its final norm.

    Args:
        model: of the transformers library.
        vocabulary: tokens that have a name; rows of the head behind them are padding.
        tokenizer: with `pieces`.
    """
    head = model.get_output_embeddings().weight.detach().float()[:vocabulary]
    found = norm_of(model.base_model, head.shape[1])
    name, norm = found or (None, None)
    return Unembedding(head, norm, tokenizer), name


def gather_logits(
    study: Study, events: Events, device: str = "cpu", only: Collection[str] | None = None
) -> None:
    """Make the pieces `logits/RUN` that are missing, of `only` if it is given.

    Where there is no unembedding, or none as wide as the decoder rows, the table is empty and
    `about.json` says why. Subjects that are no language models have no such piece.
    """
    spec = subject_beside(study.spec.subject, study.base)
    if not isinstance(spec, LanguageModelSpec):
        return
    made_from = {
        run.spec: [study.store.checksum(run_name(run.spec)), "gain"]
        for run in study.runs
        if isinstance(run.state, Done)
        and run.spec.reads is None
        and (only is None or logits_name(run.id) in only)
    }
    missing = [
        run
        for run, made in made_from.items()
        if not study.store.has(logits_name(run.id), digest(made))
    ]
    if not missing:
        return
    events.say(f"opening {spec.model} with its head")
    end, name, why = _end_of(spec, device)
    with events.task("logits", len(missing), "runs") as task:
        for run in missing:
            files = _files(study.store, run, end, name, why)
            study.store.make(logits_name(run.id), made_from[run], partial(dict[str, Any], files))
            task.advance(1)


def _end_of(
    spec: LanguageModelSpec, device: str
) -> tuple[Unembedding | None, str | None, str | None]:
    from reseed.subjects.language.model import load_causal

    if spec.random_weights is not None:
        return None, None, "the subject has random weights"
    try:
        subject = load_causal(spec, device)
        end, name = unembedding_of(subject.model, len(subject.wrapped), subject.tokenizer)
    except (ReseedError, AttributeError) as error:
        return None, None, f"the subject has no unembedding to read: {error}"
    return end, name, None


def _files(
    store: Store, run: RunSpec, end: Unembedding | None, name: str | None, why: str | None
) -> dict[str, Any]:
    rows = own.read_piece(store, run_name(run)).W_dec
    if end is not None and rows.shape[1] != end.head.shape[1]:
        site = run.target or run.site
        why = (
            f"{site} has {rows.shape[1]:,} dimensions and the unembedding reads "
            f"{end.head.shape[1]:,}; it is of the residual stream"
        )
    table = pl.DataFrame(schema=_SCHEMA)
    if end is not None and why is None:
        table = end.table(rows)
    return {FILE: table, ABOUT: {"norm": name, "why": why}}
