"""The tokenizer of a language model, reduced to what reseed needs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging as standard_logging
import warnings
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

from reseed.errors import SubjectError


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


_METASPACE = "\N{LOWER ONE EIGHTH BLOCK}"
_PARTIAL = "\ufffd"


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """Text to ids and back.

    The spelling of a special token inside a text is encoded as ordinary text, so special ids occur
    only where reseed puts them, unless `encode` is told to parse it.
    """

    name: str
    """of the model it belongs to"""
    digest: str
    """SHA-256 of everything that decides the ids, in hex"""
    bos: int | None
    """id that begins a sequence (CLS where there is no BOS)"""
    eos: int | None
    """id that ends a document (SEP where there is no EOS)"""
    pad: int | None
    """id of padding"""
    _encode: Callable[[list[str]], list[list[int]]] = field(repr=False)
    _piece: Callable[[tuple[int, ...]], str] = field(repr=False)
    vocabulary: int | None = None
    """ids that there are, from 0; of a model, those that its embedding has"""
    _parse: Callable[[list[str]], list[list[int]]] | None = field(default=None, repr=False)
    _chat: Callable[[list[dict[str, Any]]], str] | None = field(default=None, repr=False)
    unknown: int | None = None
    """id of whatever it does not know; None where it knows all, as one of bytes does"""

    def encode(self, texts: Sequence[str], *, parse: bool = False) -> list[list[int]]:
        """Ids of each text; no special tokens are added, nothing is cut.

        With `parse` the spelling of a special token is that token.
        """
        return (self._parse if parse and self._parse else self._encode)(list(texts))

    def chat(self, messages: list[dict[str, Any]]) -> str:
        """What the chat template makes of messages; to be parsed for special tokens.

        Raises:
            SubjectError: if there is no template, or it refuses these messages.
        """
        try:
            if self._chat is None:
                raise ValueError("it has none")
            return self._chat(messages)
        except Exception as error:  # noqa: BLE001  (a template is a program of its own)
            raise SubjectError(
                f"the chat template of {self.name} gives no text of {len(messages)} messages "
                f"({error}). Join the messages to a text before, or take a model for chats."
            ) from None

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text of each token, as shown to people.

        A character that is spread over several tokens stands at the last of them, and the others
        are empty; what is left incomplete at the end is `\ufffd`.
        """
        out: list[str] = []
        pending: tuple[int, ...] = ()
        for id_ in ids:
            text = self._piece((*pending, int(id_)))
            pending = (*pending, int(id_)) if _PARTIAL in text and len(pending) < 3 else ()
            out.append("" if pending else text)
        if pending:
            out[-1] = _PARTIAL
        return out

    @classmethod
    def of(cls, wrapped: Any, name: str) -> Tokenizer:
        """From a tokenizer of the transformers library."""

        def role(*names: str) -> int | None:
            ids = (getattr(wrapped, name + "_token_id", None) for name in names)
            return next((int(id_) for id_ in ids if id_ is not None), None)

        bos, eos, pad = role("bos", "cls"), role("eos", "sep"), role("pad")
        encode, parse, content = _encoders(wrapped)
        decisive = json.dumps([content, bos, eos, pad])
        digest = hashlib.sha256(decisive.encode()).hexdigest()

        @lru_cache(maxsize=1 << 17)
        def piece(ids: tuple[int, ...]) -> str:
            return _shown(wrapped, ids)

        def chat(messages: list[dict[str, Any]]) -> str:
            return wrapped.apply_chat_template(messages, tokenize=False)

        vocabulary = 1 + max(wrapped.get_vocab().values(), default=-1)
        # one of bytes names its end of text as unknown, and gives it for nothing that it reads
        unknown = role("unk")
        unknown = None if unknown in (bos, eos, pad) else unknown
        return cls(name, digest, bos, eos, pad, encode, piece, vocabulary, parse, chat, unknown)


_Encode = Callable[[list[str]], list[list[int]]]


def _encoders(wrapped: Any) -> tuple[_Encode, _Encode, str]:
    """Special spellings as text, and parsed; and a text that decides the ids."""
    if not wrapped.is_fast:
        cut = _ordinary_pieces(wrapped)

        def one_by_one(texts: list[str], split: bool = True) -> list[list[int]]:
            options = {"add_special_tokens": False, "split_special_tokens": split}
            return [
                [
                    id_
                    for piece in (cut(text) if split else [text])
                    for id_ in wrapped.encode(piece, **options)
                ]
                for text in texts
            ]

        content = json.dumps(wrapped.get_vocab(), sort_keys=True)
        return one_by_one, partial(one_by_one, split=False), content
    # A copy: truncation, padding and special spellings are switched off for us alone.
    from tokenizers import Tokenizer as Backend

    backend = Backend.from_str(wrapped.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    content = backend.to_str()

    def batch(texts: list[str], spelled: bool = True) -> list[list[int]]:
        backend.encode_special_tokens = spelled
        encoded = backend.encode_batch_fast(texts, add_special_tokens=False)
        return [list(text.ids) for text in encoded]

    return batch, partial(batch, spelled=False), content


def _ordinary_pieces(wrapped: Any) -> Callable[[str], list[str]]:
    """Cuts a text at the ordinary tokens that a tokenizer keeps among its special ones.

    Those of ESM keep the letters of all amino acids there: left whole, a protein would be one
    unknown word.
    """
    ordinary = set(getattr(wrapped, "unique_no_split_tokens", ())) - set(wrapped.all_special_tokens)
    if not ordinary:
        return lambda text: [text]
    trie = type(wrapped.tokens_trie)()
    for token in ordinary:
        trie.add(token)
    return trie.split


def _shown(wrapped: Any, ids: tuple[int, ...]) -> str:
    text = str(wrapped.decode(list(ids), clean_up_tokenization_spaces=False))
    raw = wrapped.convert_ids_to_tokens(ids[0])
    # Decoders of SentencePiece drop the space before the first word of what they are given.
    if isinstance(raw, str) and raw.startswith(_METASPACE) and not text.startswith(" "):
        return " " + text
    return text
