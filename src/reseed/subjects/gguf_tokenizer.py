"""The tokenizer inside a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_CONTROL, _USER_DEFINED = 3, 4  # of tokenizer.ggml.token_type
_REQUIRED = object()


def read_field(reader: Any, key: str, default: Any = _REQUIRED) -> Any:
    """The value of a metadata field.

    Raises:
        KeyError: if the file lacks it and there is no default.
    """
    field = reader.get_field(key)
    if field is not None:
        return field.contents()
    if default is _REQUIRED:
        raise KeyError(f"the file has no {key}")
    return default


def make_tokenizer(path: Path, reader: Any) -> Any:
    """The tokenizer of a GGUF file, as one of the transformers library.

    Byte-pair tokenizers of known families are built from the file itself; the others transformers
    builds, slowly.

    Args:
        path: the file.
        reader: a `gguf.GGUFReader` of it.
    """
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoTokenizer

    byte_level: Any = ByteLevel(add_prefix_space=False)
    splitters = {
        # Transformers forgets the digits of this family, which changes ids near numbers.
        "smollm": Sequence([Digits(individual_digits=True), byte_level]),
        "gpt-2": byte_level,
    }
    splitter = splitters.get(str(read_field(reader, "tokenizer.ggml.pre", "")))
    if read_field(reader, "tokenizer.ggml.model", "") == "gpt2" and splitter is not None:
        return _byte_pair_tokenizer(reader, splitter)
    maker: Any = AutoTokenizer
    return maker.from_pretrained(str(path.parent), gguf_file=path.name, local_files_only=True)


def _byte_pair_tokenizer(reader: Any, splitter: Any) -> Any:
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.decoders import ByteLevel
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    tokens: list[str] = read_field(reader, "tokenizer.ggml.tokens")
    kinds: list[int] = read_field(reader, "tokenizer.ggml.token_type", [1] * len(tokens))
    pairs = [tuple(pair.split(" ", 1)) for pair in read_field(reader, "tokenizer.ggml.merges")]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    model: Any = BPE(vocab=vocabulary, merges=pairs)
    backend = Tokenizer(model)
    maker: Any = backend
    maker.pre_tokenizer = splitter
    maker.decoder = ByteLevel()
    marked = zip(tokens, kinds, strict=True)
    for token, kind in [pair for pair in marked if pair[1] in (_CONTROL, _USER_DEFINED)]:
        special = kind == _CONTROL
        add = backend.add_special_tokens if special else backend.add_tokens
        add([AddedToken(token, normalized=False, special=special)])
    roles = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    ids = {
        r: read_field(reader, f"tokenizer.ggml.{key}_token_id", None) for r, key in roles.items()
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=read_field(reader, "tokenizer.chat_template", None),
        **{f"{role}_token": tokens[index] for role, index in ids.items() if index is not None},
    )
