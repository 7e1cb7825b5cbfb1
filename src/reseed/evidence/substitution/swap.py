"""What taking a latent out does to the subject's predictions, and its partner in its place.

Latent i of A writes `a_i(t) d_i` at a site, its partner j of B would write `b_j(t) e_j` there:

    ablate     x(t) - a_i(t) d_i
    replace    x(t) - a_i(t) d_i + b_j(t) e_j

What the SAE does not reconstruct stays where it is. Effects are KL(as it is || changed) and the
rise of the cross-entropy of the next token, in nats, summed over the tokens of a window. Codes are
those of the window itself. L tokens of a window, V of the vocabulary, D dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl
import torch
from torch import Tensor

from reseed.events import Events
from reseed.evidence.substitution.draw import COPY, Windows
from reseed.evidence.substitution.restart import Restart
from reseed.sae.model import SAE
from reseed.subjects.language.activations import SplicedModel, blocks_of

_COPY = 0.8
"""Size of a copy."""

_TOGETHER = 8
"""Variants of a window in one pass."""

EFFECT_SCHEMA = {
    "pair": pl.Int64,
    "window": pl.Int64,
    "document": pl.Int64,
    "weight": pl.Float64,
    "kl_ablate": pl.Float64,
    "kl_replace": pl.Float64,
    "ce_ablate": pl.Float64,
    "ce_replace": pl.Float64,
}


class Change(NamedTuple):
    """A latent that is taken out, and what comes into its place."""

    run: str
    latent: int
    other: str | None = None
    partner: int = 0
    size: float = 1.0


class _Text(NamedTuple):
    """A window as the subject reads it."""

    ids: Tensor
    """[1, L]"""
    keep: Tensor
    """[L] positions that may be changed"""
    counted: Tensor
    """[L] positions whose predictions count"""
    following: Tensor
    """ids that come after these"""
    attention: Tensor | None
    document: int


def measure_pairs(
    model: SplicedModel,
    sites: tuple[str, str],
    saes: Mapping[str, SAE],
    pairs: pl.DataFrame,
    windows: Windows,
    each: int,
    events: Events,
) -> pl.DataFrame:
    """Effects of ablating and of replacing, a row for each pair and window in which one fires.

    Args:
        model: the subject.
        sites: what the SAEs read, and what they write.
        saes: by run.
        pairs: run_a, latent_a, run_b, latent_b and kind; `pair` in the result is the row.
        windows: what fires where.
        each: windows of a latent, see `Windows.drawn`.
        events: progress.

    Returns:
        Columns of `EFFECT_SCHEMA`; effects are of one window, to be summed with `weight`.
    """
    wanted: dict[int, list[tuple[int, float]]] = {}
    rows = list(pairs.iter_rows(named=True))
    for number, row in enumerate(rows):
        ends = row["run_a"], row["latent_a"], row["run_b"], row["latent_b"]
        for window, weight in windows.drawn(*ends, each):
            wanted.setdefault(window, []).append((number, weight))
    restart, out = Restart(model, sites[1]), list[dict[str, object]]()
    with events.task("substitution", len(wanted), "windows") as task, torch.no_grad():
        for window, pairs_here in sorted(wanted.items()):
            text = _read(windows, window)
            if len(text.following):
                changes = {n: _changes(rows[n]) for n, _ in pairs_here}
                distinct = list(dict.fromkeys(c for both in changes.values() for c in both))
                effects = _effects(restart, sites, saes, text, distinct)
                for number, weight in pairs_here:
                    ablated, replaced = (effects[change] for change in changes[number])
                    row = (number, window, text.document, weight)
                    values = (ablated[0], replaced[0], ablated[1], replaced[1])
                    out.append(dict(zip(EFFECT_SCHEMA, (*row, *values), strict=True)))
            task.advance(1)
    return pl.DataFrame(out, schema=EFFECT_SCHEMA).sort("pair", "window")


def _changes(row: Mapping[str, Any]) -> tuple[Change, Change]:
    """What is ablated, and what is replaced."""
    a, i, b, j = (row[name] for name in ("run_a", "latent_a", "run_b", "latent_b"))
    if row["kind"] != COPY:
        return Change(a, i), Change(a, i, b, j)
    return Change(a, i), Change(a, i, a, i, _COPY)


def _read(windows: Windows, window: int) -> _Text:
    block, positions = windows.place(window)
    text = windows.text
    block_text = blocks_of(text, [block])
    document = text.document[block, positions]
    keep = block_text.keep[0, positions].clone()
    keep[0] = False  # the first token of a text is where attention goes to rest
    same = torch.from_numpy((document[:-1] == document[1:]) & (document[:-1] >= 0))
    counted = torch.zeros_like(keep)
    counted[:-1] = keep[:-1] & same
    ids = block_text.ids[:, positions]
    kept = document[keep.numpy()]
    return _Text(
        ids=ids,
        keep=keep,
        counted=counted,
        following=ids[0, 1:][counted[:-1]],
        attention=None if block_text.attention is None else block_text.attention[:, positions],
        document=int(kept[0]) if len(kept) else -1,
    )


def _effects(
    restart: Restart,
    sites: tuple[str, str],
    saes: Mapping[str, SAE],
    text: _Text,
    changes: Sequence[Change],
) -> dict[Change, tuple[float, float]]:
    """KL and rise of cross-entropy of each change, summed over the counted tokens."""
    before = restart.begin(text.ids, list(dict.fromkeys(sites)), text.attention)
    x, y = (before.at[site][0, text.keep].float().cpu() for site in sites)
    runs = dict.fromkeys(run for c in changes for run in (c.run, c.other) if run is not None)
    codes = {run: _amounts(saes[run], x) for run in runs}
    zero = torch.zeros_like(y)
    rows: dict[Change, Tensor] = {}
    out: dict[Change, tuple[float, float]] = {}
    for change in changes:
        added = -_written(saes, codes, change.run, change.latent)
        if change.other is not None:
            added = added + change.size * _written(saes, codes, change.other, change.partner)
        if torch.equal(added, zero):
            out[change] = (0.0, 0.0)
        else:
            rows[change] = y + added
    old = before.logits[0, text.counted].log_softmax(-1)
    target = text.following.to(old.device)[:, None]
    entropy = -old.gather(1, target).sum()
    waiting = list(rows)
    for first in range(0, len(waiting), _TOGETHER):
        some = waiting[first : first + _TOGETHER]
        new = _run(restart, text, torch.stack([rows[change] for change in some]))
        kl = (old.exp() * (old - new)).sum((1, 2))
        rise = -new.gather(2, target.expand(len(some), -1, 1)).sum((1, 2)) - entropy
        for change, *numbers in zip(some, kl.tolist(), rise.tolist(), strict=True):
            out[change] = (max(numbers[0], 0.0), numbers[1])
    return out


def _run(restart: Restart, text: _Text, rows: Tensor) -> Tensor:
    """[n, counted, V] log-probabilities with rows `[n, kept, D]` at the site."""

    def replace(there: Tensor) -> Tensor:
        changed = there.clone()
        changed[:, text.keep.to(there.device)] = rows.to(there)
        return changed

    n = len(rows)
    attention = None if text.attention is None else text.attention.expand(n, -1)
    logits = restart.run_with(text.ids.expand(n, -1), replace, attention).logits
    return logits[:, text.counted.to(logits.device)].log_softmax(-1)


def _amounts(sae: SAE, x: Tensor) -> Tensor:
    """[kept, F] what multiplies the decoder rows."""
    codes = sae.encode(x)
    return codes * x.std(dim=-1, keepdim=True) if sae.normalised else codes


def _written(saes: Mapping[str, SAE], codes: Mapping[str, Tensor], run: str, latent: int) -> Tensor:
    """[kept, D] what a latent writes."""
    return codes[run][:, latent, None] * saes[run].W_dec[latent]
