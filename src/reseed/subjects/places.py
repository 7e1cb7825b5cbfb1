"""Where the rows of a subject stand: in its text, or in the samples of a module."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reseed.spec.subject import LanguageModelSpec, SubjectSpec, ToySpec
from reseed.subjects.networks.pictures import Pictures

if TYPE_CHECKING:
    from reseed.subjects.language.blocks import TextPositions, TokenBlocks
    from reseed.subjects.norms import Kept
    from reseed.subjects.source import BlockSource


def places_in_text(
    subject: SubjectSpec, text: Callable[[], TokenBlocks], *, toy_text: bool
) -> TextPositions | None:
    """Where the rows of a subject stand in its text; None if it reads none."""
    if isinstance(subject, ToySpec) and toy_text:
        from reseed.subjects.toy import ToyText

        return ToyText(subject)
    if not isinstance(subject, LanguageModelSpec):
        return None
    from reseed.subjects.language.blocks import TextPlaces
    from reseed.subjects.language.model import load_tokenizer

    return TextPlaces(text(), load_tokenizer(subject))


def places_in_samples(source: BlockSource, kept: Kept | None) -> Pictures | None:
    """Where the rows of a module stand, without those that are left out for their length."""
    from reseed.subjects.module import ModuleSource

    if not isinstance(source, ModuleSource):
        return None
    if kept is None:
        return Pictures(source.places, source.rows, source.show, source.labels)
    ends = np.cumsum(kept.counts)

    def used(block: int) -> NDArray[np.bool_]:
        return kept.rows[ends[block] - kept.counts[block] : ends[block]]

    return Pictures(source.places, kept.by_block, source.show, source.labels, used)
