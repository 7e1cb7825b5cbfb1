"""Texts as unit vectors, to compare explanations and examples.

N texts, d dimensions of an embedding.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reseed.errors import ModelError, SpecError, SubjectError
from reseed.interpretation.models import Embedder
from reseed.interpretation.models.limits import quoted
from reseed.interpretation.models.server import Refused, Server
from reseed.interpretation.records import Failure
from reseed.records import Floats
from reseed.seeds import digest
from reseed.spec.llm import EmbedderSpec, SentenceModelSpec, ServerEmbedderSpec
from reseed.spec.subject import LanguageModelSpec

_LONGEST = 256
"""Tokens of a text that a sentence model reads, if its folder does not say."""


def open_embedder(spec: EmbedderSpec) -> Embedder:
    """What a spec names to embed texts with; a local model is loaded here."""
    if isinstance(spec, ServerEmbedderSpec):
        return ServerEmbedder(spec)
    if isinstance(spec, SentenceModelSpec):
        return SentenceModel(spec)
    return HashedWords(spec.dimensions)


class HashedWords:
    """Bags of words without any model: each word adds 1 or -1 at a place that its hash names.

    Words are runs of letters and digits in lower case; a word that comes n times counts
    1 + log(n). It sees shared words, not meaning: "cat" and "feline" are at a right angle. Feature
    hashing: Weinberger et al., arXiv 0902.2206.

    Args:
        dimensions: d; a text without words is the unit vector of the first.
    """

    def __init__(self, dimensions: int = 4096) -> None:
        self._dimensions = dimensions

    @property
    def name(self) -> str:
        """The method, as written into results."""
        return f"words-{self._dimensions}"

    def embed(self, texts: Sequence[str]) -> Floats:
        """See `Embedder.embed`."""
        out = np.zeros((len(texts), self._dimensions), np.float64)
        for row, text in zip(out, texts, strict=True):
            words, counts = np.unique(re.findall(r"[^\W_]+", text.lower()), return_counts=True)
            for word, count in zip(words, counts, strict=True):
                number = int(digest(["word", str(word)], 16), 16)
                place = 1 + (number >> 1) % (self._dimensions - 1)
                row[place] += (1.0 if number & 1 else -1.0) * (1.0 + np.log(count))
            if not row.any():
                row[0] = 1.0
        return unit_rows(out, self.name)


class ServerEmbedder(Server[ServerEmbedderSpec]):
    """Embeddings from `POST base_url/embeddings` of an OpenAI-compatible server."""

    def embed(self, texts: Sequence[str]) -> Floats:
        """See `Embedder`; as many vectors of one length as texts, else a `ModelError`."""
        size = self.spec.batch
        parts = [self._batch(texts[i : i + size]) for i in range(0, len(texts), size)]
        if len({part.shape[1] for part in parts}) > 1:
            raise ModelError(f"{self.name} gives vectors of different lengths; take another model")
        return np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)

    def _batch(self, texts: Sequence[str]) -> Floats:
        # Servers refuse an empty text.
        payload = {"model": self.name, "input": [text or " " for text in texts]}
        came = self.post("/embeddings", payload)
        if isinstance(came, Refused | Failure):
            why = f"HTTP {came.status}" if isinstance(came, Refused) else came.reason
            raise ModelError(f"no embeddings from {self.name}: {why}.{quoted(came.text)}")
        try:
            rows = sorted(came["data"], key=lambda row: int(row["index"]))
            vectors = np.array([row["embedding"] for row in rows], np.float64)
            complete = [int(row["index"]) for row in rows] == list(range(len(texts)))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            raise ModelError(f"the embeddings from {self.name} cannot be read") from None
        if not complete or vectors.ndim != 2:
            raise ModelError(f"{self.name} gives {len(rows)} vectors for {len(texts)} texts")
        return unit_rows(vectors, self.name)


class SentenceModel:
    """A sentence model of the transformers library: states pooled over tokens, made unit.

    The folder says how to pool (`1_Pooling/config.json`: mean or CLS) and how many tokens are read
    (`sentence_bert_config.json`), as the sentence-transformers library writes them; without,
    the mean over at most 256 tokens. arXiv 1908.10084, section 3.

    Args:
        spec: which model.

    Raises:
        SpecError: if the folder asks for another way of pooling.
        SubjectError: if the model cannot be loaded.
    """

    def __init__(self, spec: SentenceModelSpec) -> None:
        from reseed.subjects.language.loading import from_files, located

        self._spec = spec
        subject = LanguageModelSpec(model=spec.model)
        self._cls, self._longest = _pooling(Path(located(subject)[0]), spec.model)
        self._tokenizer = from_files(subject, "AutoTokenizer", "sentence model")
        self._model = from_files(subject, "AutoModel", "sentence model").eval().to(spec.device)

    @property
    def name(self) -> str:
        """The model, as written into results."""
        return self._spec.model

    def embed(self, texts: Sequence[str]) -> Floats:
        """See `Embedder.embed`; texts of similar length share a forward pass."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        out: list[NDArray[np.float64]] = [np.zeros(0)] * len(texts)
        for start in range(0, len(order), self._spec.batch):
            batch = order[start : start + self._spec.batch]
            for index, row in zip(batch, self._pass([texts[i] for i in batch]), strict=True):
                out[index] = row
        if not out:
            return np.zeros((0, int(self._model.config.hidden_size)), np.float32)
        return unit_rows(np.stack(out), self.name)

    def _pass(self, texts: Sequence[str]) -> NDArray[np.float64]:
        import torch

        inputs = self._tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self._longest,
            return_tensors="pt",
        ).to(self._spec.device)
        with torch.inference_mode():
            states = self._model(**inputs).last_hidden_state.to("cpu", torch.float64)
        mask = inputs["attention_mask"].to("cpu", torch.float64)[:, :, None]
        pooled = states[:, 0] if self._cls else (states * mask).sum(1) / mask.sum(1).clamp(min=1.0)
        return pooled.numpy()


def unit_rows(rows: NDArray[np.float64], name: str) -> Floats:
    """Rows divided by their length, in float32; a `SubjectError` if that cannot be done."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if bad.size:
        raise SubjectError(f"{name}: the embedding of text {bad[0]} is zero, NaN or infinite")
    return (rows / lengths).astype(np.float32)


def _pooling(folder: Path, name: str) -> tuple[bool, int]:
    """Whether the first token stands for the text, and how many tokens are read."""
    pooling = _settings(folder / "1_Pooling" / "config.json")
    ways = [key for key, on in pooling.items() if key.startswith("pooling_mode_") and on is True]
    if ways and ways not in (["pooling_mode_mean_tokens"], ["pooling_mode_cls_token"]):
        raise SpecError(f"{name}: pools by {', '.join(ways)}; only mean and CLS are done here")
    longest = _settings(folder / "sentence_bert_config.json").get("max_seq_length") or _LONGEST
    return ways == ["pooling_mode_cls_token"], int(longest)


def _settings(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
