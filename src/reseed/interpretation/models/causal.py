"""A causal language model in this process: loading it, writing with it, how likely a text is to it.

B texts, L tokens of a text, V tokens of the vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reseed.errors import SpecError, SubjectError
from reseed.spec.llm import LocalSpec
from reseed.spec.subject import LanguageModelSpec, SubjectSpec
from reseed.subjects.language.model import CausalModel, load_causal

Logprobs = NDArray[np.float64]
"""natural logarithm"""


def load_local(spec: LocalSpec) -> CausalModel:
    """The model that a spec names; errors are those of `load_causal`."""
    subject = LanguageModelSpec(model=spec.model, revision=spec.revision, dtype=spec.dtype)
    return load_causal(subject, spec.device)


def subject_with_head(subject: SubjectSpec) -> CausalModel:
    """The subject of a study as it writes text; a `SpecError` if it is no language model."""
    if not isinstance(subject, LanguageModelSpec):
        raise SpecError(
            f"a subject of kind {subject.kind!r} writes no text; take `intervention` out of the "
            "scorers and set top_logits to false"
        )
    return load_causal(subject)


def write(
    model: nn.Module,
    ids: Sequence[int],
    pick: Callable[[Tensor], int | None],
    limit: int,
    past: Any = None,
) -> tuple[list[int], Any]:
    """Write token by token.

    Args:
        model: of the transformers library, with head.
        ids: of the text so far; of what comes after `past`, if that is given.
        pick: from the [V] scores of the next token to its id; None ends the text.
        limit: tokens at the most.
        past: keys and values of what stands before.

    Returns:
        the ids that the model has read, and keys and values with theirs.
    """
    some = {"logits_to_keep": 1} if _keeps_some(model) else {}
    read, step, device = list[int](), list(ids), device_of(model)
    for _ in range(limit):
        tokens = torch.tensor([step], dtype=torch.int64, device=device)
        out: Any = model(input_ids=tokens, past_key_values=past, use_cache=True, **some)
        past, read = out.past_key_values, read + step
        token = pick(out.logits[0, -1])
        if token is None:
            break
        step = [token]
    return read, past


def _keeps_some(model: nn.Module) -> bool:
    """Whether the model can leave out the scores of early positions."""
    return "logits_to_keep" in inspect.signature(model.forward).parameters


def device_of(model: nn.Module) -> torch.device:
    """Where a model computes."""
    return next(model.parameters()).device


class LocalLikelihood:
    """A `Likelihood` of the transformers library.

    A sequence begins with the BOS token (EOS where there is no BOS), so that the first token of
    the text has a probability even after an empty prefix. Exact prompts of a served model would do
    as well, but servers differ in whether and how they give them, and some are off by one token.

    Args:
        causal: the model.
        batch_tokens: tokens in one forward pass, padding included; a longer sequence is one alone.

    Raises:
        SubjectError: if the tokenizer has neither BOS nor EOS.
    """

    def __init__(self, causal: CausalModel, batch_tokens: int = 4096) -> None:
        begin = causal.tokenizer.bos
        begin = causal.tokenizer.eos if begin is None else begin
        if begin is None:
            raise SubjectError(
                f"{causal.name}: its tokenizer has neither a BOS nor an EOS token, so nothing can "
                "stand before a first token and its probability is unknown. Take another model."
            )
        self._causal, self._begin, self._batch = causal, begin, batch_tokens
        self._some_logits = _keeps_some(causal.model)

    @classmethod
    def load(cls, spec: LocalSpec) -> LocalLikelihood:
        """Load a model; errors are those of `load_causal`."""
        return cls(load_local(spec))

    @property
    def name(self) -> str:
        """The model, as written into results."""
        return self._causal.name

    def logprobs(self, prefix: str, text: str) -> Logprobs:
        """See `Likelihood`."""
        return self.many([(prefix, text)])[0]

    def many(self, pairs: Sequence[tuple[str, str]]) -> list[Logprobs]:
        """See `Likelihood`; sequences of similar length share a forward pass."""
        encode = self._causal.tokenizer.encode
        prefixes = encode([prefix for prefix, _ in pairs])
        texts = encode([text for _, text in pairs])
        out: list[Logprobs] = [np.zeros(0)] * len(pairs)
        rows = [[self._begin, *a, *b] for a, b in zip(prefixes, texts, strict=True)]
        self._check(rows)
        order = sorted((i for i in range(len(pairs)) if texts[i]), key=lambda i: len(rows[i]))
        for batch in self._batches(order, [len(row) for row in rows]):
            logprobs = self._pass([rows[i] for i in batch], [len(texts[i]) for i in batch])
            for index, values in zip(batch, logprobs, strict=True):
                out[index] = values
        return out

    def _check(self, rows: Sequence[Sequence[int]]) -> None:
        longest, context = max(map(len, rows), default=0), self._causal.context
        if context is not None and longest > context:
            raise SubjectError(
                f"{self.name} takes {context} tokens, but a prefix with its text has {longest}. "
                "Shorten the prefix (fewer examples) or the windows of text."
            )

    def _batches(self, order: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
        batches: list[list[int]] = []
        for index in order:  # shortest first, so the last one decides the padding
            if batches and (len(batches[-1]) + 1) * lengths[index] <= self._batch:
                batches[-1].append(index)
            else:
                batches.append([index])
        return batches

    def _pass(self, rows: Sequence[Sequence[int]], counts: Sequence[int]) -> list[Logprobs]:
        """Log-probabilities of the last `count` ids of each row.

        Rows are padded on the right, where a causal model does not look back from.
        """
        length = max(map(len, rows))
        ids = torch.full((len(rows), length), self._begin)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        first = min(len(row) - count for row, count in zip(rows, counts, strict=True)) - 1
        logits = self._logits(ids, mask, first)
        out: list[Logprobs] = []
        for i, (row, count) in enumerate(zip(rows, counts, strict=True)):
            start = len(row) - count - 1 - first
            scores = torch.log_softmax(logits[i, start : start + count].to(torch.float32), -1)
            targets = torch.tensor(row[-count:], device=scores.device)[:, None]
            logprobs = scores.gather(1, targets)[:, 0].to("cpu", torch.float64).numpy()
            if not np.isfinite(logprobs).all():
                raise SubjectError(
                    f"{self.name} gives NaN or infinity for a text of {count} tokens"
                )
            out.append(logprobs)
        return out

    def _logits(self, ids: Tensor, mask: Tensor, first: int) -> Tensor:
        """[B, L - first, V] scores at the positions from `first` on."""
        model: Any = self._causal.model
        device = device_of(self._causal.model)
        some = {"logits_to_keep": ids.shape[1] - first} if self._some_logits else {}
        with torch.inference_mode():
            logits: Tensor = model(
                input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False, **some
            ).logits
        return logits if self._some_logits else logits[:, first:]
