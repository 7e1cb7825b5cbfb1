"""Silence for the transformers library, whose warnings and bars are not for our readers."""

from __future__ import annotations

import contextlib
import logging as standard_logging
import warnings
from collections.abc import Generator


@contextlib.contextmanager
def quiet_transformers() -> Generator[None, None, None]:
    """No warnings, no progress bars inside; everything is as before afterwards.

    What matters of it (missing weights, missing files) reseed checks and says itself.
    """
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    hub_bars = not are_progress_bars_disabled()
    logging.set_verbosity(standard_logging.CRITICAL)
    logging.disable_progress_bar()
    disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
        if hub_bars:
            enable_progress_bars()
