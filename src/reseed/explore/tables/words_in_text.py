"""Which latents of which run are shown on words: by the place where they stand in the text.

The held-out text is searched once, not each context that shows a piece of it. Where a study keeps
none (it is older, or the folder is of a comparison) each context is searched, which takes seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reseed.evidence.display.held_out_text import ABOUT, FILE, HeldOutText
from reseed.runs import HELD_OUT_TEXT
from reseed.store import Store

Integers = NDArray[np.int64]


class TextSearch:
    """The held-out text of a study, in memory from the first search on.

    Args:
        store: of the study; its piece must be there.
        contexts: run to its contexts: latent, block, position, `[n]` each.
    """

    def __init__(self, store: Store, contexts: Mapping[str, Mapping[str, Any]]) -> None:
        about = store.document(HELD_OUT_TEXT, ABOUT)
        self._text = HeldOutText(store.table(HELD_OUT_TEXT, FILE), **about)
        self._shown: dict[str, tuple[Integers, Integers, Integers]] = {
            run: (table["latent"], *self._text.windows(table["block"], table["position"]))
            for run, table in contexts.items()
        }

    def latents(self, words: str) -> dict[str, Integers]:
        """Run to the latents that have a context with these words; letter case does not matter."""
        reached = self._text.reached(words)
        return {
            run: latent[reached[first] < behind]
            for run, (latent, first, behind) in self._shown.items()
        }
