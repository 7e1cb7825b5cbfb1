"""Detection as the scorer of a search that is told what it got wrong."""

from __future__ import annotations

from collections.abc import Sequence

from reseed.interpretation.records import Asker, Example, Failure, Item, Latent, Score
from reseed.interpretation.refine.prompt import Mistake
from reseed.interpretation.scorers.detection import judged
from reseed.spec.interpretation import DetectionSpec


class Detector:
    """Scores explanations by detection and remembers which answers were wrong.

    Args:
        asker: judges.
        settings: how it is asked.
    """

    def __init__(self, asker: Asker, settings: DetectionSpec) -> None:
        self._asker, self._settings = asker, settings
        self._wrong: dict[tuple[Latent, str, Sequence[Example]], list[Mistake]] = {}

    def score(self, items: list[Item]) -> list[Score | Failure]:
        """A score for each item; see `reseed.interpretation.scorers.detection.score`."""
        found = judged(self._asker, items, self._settings)
        for item, one in zip(items, found, strict=True):
            wrong = [a for a in one.answers if a.yes is not a.case.fires]
            self._wrong[_key(item)] = [Mistake(a.case.example, a.yes) for a in wrong]
        return [one.score for one in found]

    def mistakes(self, item: Item) -> list[Mistake]:
        """Examples of an item that was scored about which its explanation was wrong."""
        return self._wrong.get(_key(item), [])


def _key(item: Item) -> tuple[Latent, str, Sequence[Example]]:
    assert item.explanation is not None
    return item.of, item.explanation.text, tuple(item.examples)
