"""Log-probabilities of a few continuations at many places of one text, by a transformers model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reseed.errors import SpecError


class ModelChooser:
    """A `Chooser` that needs one forward pass a text.

    Args:
        model: of transformers, with head; put into eval mode.
        tokenizer: that belongs to it.
        name: as written into results.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str) -> None:
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._name = name

    @property
    def name(self) -> str:
        """The model, as written into results."""
        return self._name

    @torch.no_grad()
    def choices(self, parts: Sequence[str], options: Sequence[str]) -> NDArray[np.floating]:
        """[N, C]; see `Chooser.choices`. Parts are tokenised one by one.

        Raises:
            SpecError: if an option is not one token, or the text is longer than the model takes.
        """
        ids: list[int] = []
        ends: list[int] = []
        for number, part in enumerate(parts):
            ids += self._tokenizer(part, add_special_tokens=number == 0)["input_ids"]
            ends.append(len(ids) - 1)
        limit = getattr(self._model.config, "max_position_embeddings", None)
        if limit is not None and len(ids) > limit:
            raise SpecError(f"{self._name} takes {limit:,} tokens; the text has {len(ids):,}")
        device = next(self._model.parameters()).device
        logits = self._model(input_ids=torch.tensor([ids], device=device)).logits[0, ends]
        logprobs = torch.log_softmax(logits.to(torch.float64), dim=-1)
        out: NDArray[np.floating] = logprobs[:, self._tokens(options)].cpu().numpy()
        return out

    def _tokens(self, options: Sequence[str]) -> list[int]:
        """The token of each option."""
        found: list[int] = []
        for option in options:
            ids = self._tokenizer(option, add_special_tokens=False)["input_ids"]
            if len(ids) != 1:
                raise SpecError(
                    f"{self._name}: the option {option!r} is {len(ids)} tokens; each must be one. "
                    "Ask the model for a list of numbers instead."
                )
            found.append(ids[0])
        return found
