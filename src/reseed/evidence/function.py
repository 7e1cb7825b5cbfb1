"""What reconstructions and single latents are worth: to the rows, and to the subject's predictions.

Through the subject, with a reconstruction in place of a site at every kept position:

    ce            cross-entropy of the next token, as the subject is, nats
    ce_spliced    the same with the reconstruction
    ce_zero       the same with zeros
    recovered     (ce_zero - ce_spliced) / (ce_zero - ce)
    kl            KL(as it is || spliced), nats

Means over the kept positions that are followed by a token of the same document.

Of latents: sets of equal firing mass are ablated, and FVU = Σ‖x̂ - x‖² / Σ‖x - mean‖² on held-out
rows and cross-entropy are measured again. D input dimensions, N rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from reseed.errors import SpecError, SubjectError
from reseed.events import Events
from reseed.evidence.equal_mass import (
    TOLERANCE,
    Draw,
    FunctionalValue,
    equal_mass_draws,
    functional_result,
)
from reseed.evidence.rows import Encoded, Reader, feed
from reseed.records import is_transcoder
from reseed.sae import codes as kernels
from reseed.sae.codes import Codes
from reseed.sae.model import SAE
from reseed.subjects.language.activations import (
    Replace,
    SplicedModel,
    TextBatch,
    blocks_of,
    divergence,
    put_rows,
)
from reseed.subjects.language.blocks import TokenBlocks
from reseed.subjects.source import BlockSource

Reconstruct = Callable[[Tensor], Tensor]
"""Rows `[N, D]` to what stands in their place, `[N, D]`."""

CrossEntropy = Callable[[Reconstruct], float]
"""Of the subject's next tokens, in nats, with reconstructions spliced in at the site."""

_TOGETHER = 4
"""Blocks in one pass of the subject: logits of all their positions are held at a time."""


def measure(
    saes: Mapping[str, SAE | Reader],
    sites: Mapping[str, tuple[str, str]],
    model: SplicedModel,
    text: TokenBlocks,
    blocks: Sequence[int],
    events: Events,
) -> dict[str, dict[str, float]]:
    """The numbers above and `tokens`, for each SAE, at the sites that it reads and reconstructs."""
    sums = {name: np.zeros(4) for name in saes}
    read = sorted({site for pair in sites.values() for site in pair})
    tokens = 0
    with (
        events.task("through the subject", len(blocks) * (1 + len(saes)), "passes") as task,
        torch.no_grad(),
    ):
        for (ids, keep, attention), followed, following in _passes(text, blocks):
            original = model.run(ids, read, attention)
            logits = original.logits[followed]
            zero: dict[str, float] = {}
            for name, sae in saes.items():
                source, target = sites[name]
                if target not in zero:
                    silent = model.run_with(ids, target, _zeros(keep), (), attention)
                    zero[target] = _sum_ce(silent.logits[followed], following)
                rows = put_rows(keep, sae.reconstruct(original.at[source][keep]))
                new = model.run_with(ids, target, rows, (), attention).logits[followed]
                sums[name] += [
                    _sum_ce(logits, following),
                    _sum_ce(new, following),
                    zero[target],
                    len(following) * float(divergence(logits, new)),
                ]
                task.advance(len(ids))
            tokens += len(following)
            task.advance(len(ids))
    return {name: _numbers(total / max(tokens, 1), tokens) for name, total in sums.items()}


def spliced_cross_entropy(
    model: SplicedModel, text: TokenBlocks, blocks: Sequence[int], site: str
) -> CrossEntropy:
    """What gives the cross-entropy with something else in place of a site's kept rows, in nats."""

    def measured(reconstruct: Reconstruct) -> float:
        total, tokens = 0.0, 0
        for (ids, keep, attention), followed, following in _passes(text, blocks):

            def replace(there: Tensor, keep: Tensor = keep) -> Tensor:
                return put_rows(keep, reconstruct(there[keep].float()))(there)

            with torch.no_grad():
                logits = model.run_with(ids, site, replace, (), attention).logits[followed]
            total += _sum_ce(logits, following)
            tokens += len(following)
        return total / max(tokens, 1)

    return measured


def _numbers(means: NDArray[np.float64], tokens: int) -> dict[str, float]:
    ce, spliced, zero, kl = (float(value) for value in means)
    out = {"ce": ce, "ce_spliced": spliced, "ce_zero": zero, "kl": kl, "tokens": tokens}
    # where zeros do no harm there is nothing to recover
    return out | {"recovered": (zero - spliced) / (zero - ce) if zero != ce else 0.0}


def _zeros(keep: Tensor) -> Replace:
    return lambda there: there.masked_fill(keep[..., None].to(there.device), 0.0)


def _sum_ce(logits: Tensor, following: Tensor) -> float:
    targets = following.to(logits.device)
    return float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))


def _passes(text: TokenBlocks, blocks: Sequence[int]) -> Iterator[tuple[TextBatch, Tensor, Tensor]]:
    """A few blocks at a time, `[n, L]` where a token of the document follows, and these tokens."""
    for first in range(0, len(blocks), _TOGETHER):
        numbers = list(blocks[first : first + _TOGETHER])
        document, keep = text.document[numbers], text.keep[numbers]
        followed = np.zeros_like(keep)
        followed[:, :-1] = keep[:, :-1] & (document[:, :-1] == document[:, 1:])
        following = text.ids[numbers][:, 1:][followed[:, :-1]].astype(np.int64)
        yield blocks_of(text, numbers), torch.from_numpy(followed), torch.from_numpy(following)


def without(sae: SAE, latents: Sequence[int]) -> Reconstruct:
    """The SAE's reconstruction with these latents silent; the others keep their codes.

    For TopK rules nothing takes the place of an ablated latent: it is the decoder that loses it.
    """
    ablated = _mask(sae, latents)

    def reconstruct(x: Tensor) -> Tensor:
        codes = sae.encode_sparse(x)
        return sae.rebuild(x, codes) - _share(sae, codes, ablated, x)

    return reconstruct


def functional_value(
    sae: SAE,
    site: str,
    source: BlockSource,
    blocks: NDArray[np.int64],
    firing: pl.DataFrame,
    sets: Mapping[str, Sequence[int]],
    events: Events,
    *,
    draws: int = 20,
    share: float = 0.5,
    tolerance: float = TOLERANCE,
    seed: int = 0,
    cross_entropy: CrossEntropy | None = None,
) -> FunctionalValue:
    """Ablate latents of each set at equal firing mass and measure what the reconstruction loses.

    Intervals of FVU are by bootstrap over draws and held-out blocks, those of cross-entropy over
    draws alone: they speak of other latents of these sets and (FVU) other text, not of other runs.

    `firing` has latent, rate and mean_act, as `evidence/RUN/firing.parquet`. `sets` are e.g. shared
    and orphans, with a random one as a control; `share` of the mass of the lightest is ablated at a
    time, see `equal_mass_draws`. `cross_entropy` takes a reconstruction; it is called once for each
    draw and once for the SAE.
    """
    if is_transcoder(sae):
        raise SpecError("a transcoder reconstructs another site; its FVU is not measured here")
    mass = mass_of(sae, firing)
    drawn = equal_mass_draws(mass, sets, draws=draws, share=share, tolerance=tolerance, seed=seed)
    errors, scale = _errors(Reader(sae, site), drawn, source, blocks, events)
    entropies = None
    if cross_entropy is not None:
        variants = [sae.reconstruct, *(without(sae, draw.latents) for draw in drawn)]
        entropies = np.zeros(len(variants))
        with events.task("cross-entropy", len(variants), "sets") as task:
            for n, reconstruct in enumerate(variants):
                entropies[n] = cross_entropy(reconstruct)
                task.advance(1)
    rate = firing.sort("latent")["rate"].to_numpy()
    energy = mass**2 / np.where(rate > 0, rate, 1.0)
    return functional_result(drawn, energy, errors, scale, entropies, list(sets), seed)


def mass_of(sae: SAE, firing: pl.DataFrame) -> NDArray[np.float64]:
    """[F] firing rate x mean activation x length of the decoder row.

    Raises:
        SpecError: if the table has another number of latents.
    """
    table = firing.sort("latent")
    if len(table) != sae.latents:
        raise SpecError(f"firing of {len(table)} latents for an SAE of {sae.latents}")
    length = sae.W_dec.double().norm(dim=1).numpy()
    return table["rate"].to_numpy() * table["mean_act"].to_numpy() * length


def _mask(sae: SAE, latents: Sequence[int]) -> Tensor:
    ablated = torch.zeros(sae.latents, dtype=torch.bool)
    ablated[list(latents)] = True
    return ablated


def _share(sae: SAE, codes: Codes, ablated: Tensor, x: Tensor) -> Tensor:
    """What the ablated latents add to the reconstruction of rows `[N, D]`."""
    only = Codes(codes.values * ablated[codes.latents], codes.latents)
    out = kernels.decode(only, sae.W_dec)
    return out * x.std(dim=-1, keepdim=True) if sae.normalised else out


def _errors(
    reader: Reader,
    drawn: Sequence[Draw],
    source: BlockSource,
    blocks: NDArray[np.int64],
    events: Events,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[1 + draws, blocks] squared errors, those of the SAE first; [blocks] Σ‖x - mean‖²."""
    sae, masks = reader.sae, [_mask(reader.sae, draw.latents) for draw in drawn]
    errors = np.zeros((1 + len(drawn), len(blocks)))
    squares, sums = np.zeros(len(blocks)), np.zeros((len(blocks), sae.dimensions))

    def add(chunk: Encoded) -> None:
        x, codes, (_, first, counts, _) = chunk.rows("sae"), chunk.codes("sae"), chunk.chunk
        place = torch.from_numpy(np.repeat(np.arange(len(counts)), counts))
        here = slice(first, first + len(counts))

        def by_block(values: Tensor) -> NDArray[np.float64]:
            out = torch.zeros(len(counts), *values.shape[1:], dtype=torch.float64)
            return out.index_add_(0, place, values.double()).numpy()

        squares[here], sums[here] = by_block(x.double().square().sum(1)), by_block(x)
        with torch.no_grad():
            left = chunk.rebuilt("sae") - x
            errors[0, here] = by_block(left.square().sum(1))
            for n, mask in enumerate(masks, 1):
                lost = left - _share(sae, codes, mask, x)
                errors[n, here] = by_block(lost.square().sum(1))

    feed(add, {"sae": reader}, source, blocks, events, "ablate latents")
    rows = source.rows[blocks]
    mean = sums.sum(axis=0) / max(int(rows.sum()), 1)
    scale = squares - 2 * sums @ mean + rows * float(mean @ mean)
    if scale.sum() <= 1e-12 * squares.sum():
        raise SubjectError(
            f"the {rows.sum():,} held-out rows are all alike, so there is no variance to explain; "
            "raise activations.held_out"
        )
    return errors, scale
