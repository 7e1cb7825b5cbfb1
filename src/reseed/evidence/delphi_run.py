"""A run's codes on held-out text as a cache that Delphi reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reseed.events import Events
from reseed.evidence.delphi_cache import write_delphi_cache
from reseed.evidence.examples import Fired
from reseed.sae.model import SAE
from reseed.subjects.source import BlockSource
from reseed.subjects.tokens import TokenBlocks

_CHUNK = 32


def write_run_for_delphi(
    folder: Path,
    sae: SAE,
    site: str,
    source: BlockSource,
    blocks: NDArray[np.int64],
    text: TokenBlocks,
    model: str,
    events: Events,
    files: int = 5,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Encode these blocks and write them; a block becomes a sequence.

    Memory: 28 bytes for each latent that fires at a token, all of them together. Positions that
    are left out of the activations (BOS, separators) have no codes; Delphi takes the latents to be
    silent there.

    Args:
        folder: of the hookpoint.
        sae: of the run.
        site: where it reads.
        source: of the activations.
        blocks: e.g. the held-out ones.
        text: what the source was made from.
        model: name by which Delphi finds the tokenizer.
        events: progress.
        files: in how many the latents are cut.
        about: more for `config.json`.

    Raises:
        SpecError, StoreError: as `write_delphi_cache`.
    """
    parts: list[Fired] = []
    with events.task("cache", int(source.rows[blocks].sum()), "tokens") as task:
        for first in range(0, len(blocks), _CHUNK):
            chunk = blocks[first : first + _CHUNK]
            with torch.no_grad():
                codes = sae.encode_sparse(source.read(chunk.tolist())[site])
            positions = [text.positions(int(block)) for block in chunk]
            place = np.repeat(first + np.arange(len(chunk)), [len(one) for one in positions])
            position, fires = np.concatenate(positions), (codes.values > 0).numpy()
            row = np.nonzero(fires)[0]
            latents, values = codes.latents.numpy()[fires], codes.values.numpy()[fires]
            parts.append(Fired(place[row], position[row], latents, values))
            task.advance(len(position))
    whole = Fired(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    ids = text.ids[np.asarray(blocks)]
    write_delphi_cache(folder, ids, whole, sae.latents, model, files, about)
