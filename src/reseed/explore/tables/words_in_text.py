"""Which latents of which run are shown on words: by the place where they stand in the text.

The held-out text is searched once, not each context that shows a piece of it. Where a study keeps
none (it is older, or the folder is of a comparison) each context is searched, which takes seconds.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reseed.evidence.display.held_out_text import ABOUT, FILE, HeldOutText, shows
from reseed.runs import HELD_OUT_TEXT
from reseed.store import Store

Windows = tuple[NDArray[np.int64], NDArray[np.int64]]


class TextSearch:
    """The held-out text of a study, in memory from the first search on.

    Args:
        store: of the study; its piece must be there.
        contexts: run to its contexts: latent, block, position, `[n]` each.
    """

    def __init__(self, store: Store, contexts: Mapping[str, Mapping[str, Any]]) -> None:
        about = store.document(HELD_OUT_TEXT, ABOUT)
        self._text = HeldOutText(store.table(HELD_OUT_TEXT, FILE), **about)
        self._lock = threading.Lock()
        self._shown: dict[str, tuple[NDArray[np.int64], Windows]] = {
            run: (table["latent"], self._text.windows(table["block"], table["position"]))
            for run, table in contexts.items()
        }

    def latents(self, words: str) -> dict[str, NDArray[np.int64]]:
        """Run to the latents that have a context with these words, each once; case aside."""
        places = self._text.places(words)
        return {
            run: np.unique(latent[shows(windows, places)])
            for run, (latent, windows) in self._shown.items()
        }
