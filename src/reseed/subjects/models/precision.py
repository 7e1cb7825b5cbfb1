"""What it does to activations that a language model computes in another format than float32.

D dimensions of a site.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from reseed.events import Events
from reseed.spec.subject import PRECISION, LanguageModelSpec
from reseed.store import Store, json_bytes
from reseed.subjects.models.language_model import load_language_model
from reseed.subjects.source import BlockSource
from reseed.subjects.text.blocks import TextSource
from reseed.subjects.text.tokens import TokenBlocks

BLOCKS = 4
"""Blocks that are read both ways."""


def change_from_float32(
    spec: LanguageModelSpec, source: BlockSource, text: TokenBlocks
) -> dict[str, Any] | None:
    """Read a few blocks in float32 too; the second model is in memory only meanwhile.

    Args:
        spec: of the subject.
        source: its activations, in its own format.
        text: what it reads.

    Returns:
        `dtype`, `rows` that were compared, and for each of `sites`: `relative_rmse`, the root of
        the summed squared difference over that of the float32 activations, and `smallest_cosine`
        of a row with its float32 twin. None if the subject computes in float32.

    Raises:
        SubjectError: if activations are NaN or infinite, or the model cannot be loaded again.
    """
    if spec.dtype == "float32":
        return None
    there = np.flatnonzero(text.rows)
    few = np.unique(there[np.linspace(0, len(there) - 1, BLOCKS).round().astype(np.int64)])
    sites = list(source.sites)
    twin = load_language_model(spec.model_copy(update={"dtype": "float32"}), sites)
    exact = TextSource(twin, text, 1).read(few.tolist())
    found = source.read(few.tolist())
    return {
        "dtype": spec.dtype,
        "rows": int(text.rows[few].sum()),
        "sites": {site: _compared(exact[site], found[site]) for site in sites},
    }


def kept_change(
    spec: LanguageModelSpec,
    source: BlockSource,
    text: TokenBlocks,
    store: Store,
    made_from: str,
    events: Events,
) -> dict[str, Any] | None:
    """`change_from_float32`, measured and said once, and kept in the piece `PRECISION`.

    Args:
        spec: of the subject.
        source: its activations, in its own format.
        text: what it reads.
        store: of the study.
        made_from: digest of subject, text and sites.
        events: is told when it is measured.

    Raises:
        SubjectError: as `change_from_float32`.
        StoreError: if the disk is full or the folder read-only.
    """
    if store.has(PRECISION, made_from):
        return store.document(PRECISION, "change.json")
    change = change_from_float32(spec, source, text)
    if change is not None:
        events.say(change_in_words(change))
        with store.piece(PRECISION, made_from) as folder:
            (folder / "change.json").write_bytes(json_bytes(change))
    return change


def _compared(exact: Tensor, found: Tensor) -> dict[str, float]:
    scale = float(exact.square().sum())
    error = float((found - exact).square().sum())
    cosines = torch.nn.functional.cosine_similarity(exact, found, dim=1)
    cosines = cosines.masked_fill((exact == found).all(dim=1), 1.0)  # rows of zeros too
    return {
        "relative_rmse": (error / scale) ** 0.5 if scale else float(error > 0),
        "smallest_cosine": float(cosines.min()),
    }


def change_in_words(change: dict[str, Any]) -> str:
    """One line for people."""
    sites = "; ".join(
        f"{site} {one['relative_rmse']:.2%} (smallest cosine of a row {one['smallest_cosine']:.4f})"
        for site, one in change["sites"].items()
    )
    return (
        f"{change['dtype']} changes the activations, against float32 on {change['rows']:,} tokens, "
        f"by (relative root-mean-square error) {sites}"
    )
