"""What reconstructions do to the subject's predictions, on held-out text.

    ce            cross-entropy of the next token, as the subject is, nats
    ce_spliced    the same with the reconstruction in place of the site at every kept position
    ce_zero       the same with zeros there
    recovered     (ce_zero - ce_spliced) / (ce_zero - ce)
    kl            KL(as it is || spliced), nats

Means over the kept positions that are followed by a token of the same document.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from reseed.events import Events
from reseed.formats import own
from reseed.runs import through_name
from reseed.sae.model import SAE, from_arrays
from reseed.store import Store, json_bytes
from reseed.subjects.models.spliced import Replace, SplicedModel, blocks_of, divergence, put_rows
from reseed.subjects.text.tokens import TokenBlocks

_TOGETHER = 4
"""Blocks in one pass: logits of all their positions are held at a time."""


def gather_through(
    sites: Mapping[str, tuple[str, str]],
    model: SplicedModel,
    text: TokenBlocks,
    blocks: Sequence[int],
    store: Store,
    made_from: Mapping[str, str],
    events: Events,
) -> None:
    """Make the piece `through/RUN` of each of these runs.

    Args:
        sites: id of each run to the site it reads and the site it reconstructs.
        model: the subject with its head.
        text: what it reads.
        blocks: held-out ones.
        store: of the study.
        made_from: digest for each run.
        events: progress.

    Raises:
        StoreError: if a run is damaged.
    """
    saes = {run: from_arrays(own.read_piece(store, f"runs/{run}")) for run in sites}
    found = measure(saes, sites, model, text, blocks, events)
    for run, numbers in found.items():
        with store.piece(through_name(run), made_from[run]) as folder:
            (folder / "through.json").write_bytes(json_bytes(numbers))


def measure(
    saes: Mapping[str, SAE],
    sites: Mapping[str, tuple[str, str]],
    model: SplicedModel,
    text: TokenBlocks,
    blocks: Sequence[int],
    events: Events,
) -> dict[str, dict[str, float]]:
    """The numbers above and `tokens`, for each SAE; arguments as for `gather_through`."""
    sums = {name: np.zeros(4) for name in saes}
    read = sorted({site for pair in sites.values() for site in pair})
    tokens = 0
    with events.task("through the subject", len(blocks) * (1 + len(saes)), "passes") as task:
        for first in range(0, len(blocks), _TOGETHER):
            numbers = blocks[first : first + _TOGETHER]
            ids, keep, attention = blocks_of(text, numbers)
            followed, following = _followed(text, numbers)
            with torch.no_grad():
                whole = model.run(ids, read, attention)
                logits = whole.logits[followed]
                zero: dict[str, float] = {}
                for name, sae in saes.items():
                    source, target = sites[name]
                    if target not in zero:
                        nothing = model.run_with(ids, target, _zeros(keep), (), attention)
                        zero[target] = _sum_ce(nothing.logits[followed], following)
                    rows = put_rows(keep, sae.reconstruct(whole.at[source][keep]))
                    new = model.run_with(ids, target, rows, (), attention).logits[followed]
                    count = len(following)
                    sums[name] += [
                        _sum_ce(logits, following),
                        _sum_ce(new, following),
                        zero[target],
                        count * float(divergence(logits, new)),
                    ]
                    task.advance(len(numbers))
            tokens += len(following)
            task.advance(len(numbers))
    return {name: _numbers(one / max(tokens, 1), tokens) for name, one in sums.items()}


def spliced_cross_entropy(
    model: SplicedModel, text: TokenBlocks, blocks: Sequence[int], site: str
) -> Callable[[Callable[[Tensor], Tensor]], float]:
    """What gives the cross-entropy with something else in place of a site's rows, in nats a token.

    Args:
        model: the subject with its head.
        text: what it reads.
        blocks: of it.
        site: of which rows at kept positions are replaced.

    Returns:
        from a function of rows `[N, D]` to the mean over the positions described above.
    """

    def measured(reconstruct: Callable[[Tensor], Tensor]) -> float:
        total, tokens = 0.0, 0
        for first in range(0, len(blocks), _TOGETHER):
            numbers = blocks[first : first + _TOGETHER]
            ids, keep, attention = blocks_of(text, numbers)
            followed, following = _followed(text, numbers)

            def replace(there: Tensor, keep: Tensor = keep) -> Tensor:
                return put_rows(keep, reconstruct(there[keep].float()))(there)

            with torch.no_grad():
                logits = model.run_with(ids, site, replace, (), attention).logits[followed]
            total += _sum_ce(logits, following)
            tokens += len(following)
        return total / max(tokens, 1)

    return measured


def _numbers(means: np.ndarray[tuple[int], np.dtype[np.float64]], tokens: int) -> dict[str, float]:
    ce, spliced, zero, kl = (float(value) for value in means)
    out = {"ce": ce, "ce_spliced": spliced, "ce_zero": zero, "kl": kl, "tokens": tokens}
    # where zeros do no harm there is nothing to recover
    return out | {"recovered": (zero - spliced) / (zero - ce) if zero != ce else 0.0}


def _zeros(keep: Tensor) -> Replace:
    return lambda there: there.masked_fill(keep[..., None].to(there.device), 0.0)


def _sum_ce(logits: Tensor, following: Tensor) -> float:
    targets = following.to(logits.device)
    return float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))


def _followed(text: TokenBlocks, blocks: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Which kept positions are followed by a token of their document, and those tokens.

    Returns:
        bool `[n, L]`; int64 `[count]`.
    """
    numbers = list(blocks)
    document, keep = text.document[numbers], text.keep[numbers]
    followed = np.zeros_like(keep)
    followed[:, :-1] = keep[:, :-1] & (document[:, :-1] == document[:, 1:])
    following = text.ids[numbers][:, 1:][followed[:, :-1]].astype(np.int64)
    return torch.from_numpy(followed), torch.from_numpy(following)
