"""GGUF files as folders that transformers loads in a second.

Transformers reads GGUF itself, but needs a quarter of a minute for a small model, each time. Here
it does so once, and what it read is kept in a cache beside the user's other caches. Byte-pair
tokenizers of known families are built here: transformers takes longer, and makes errors.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import io
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from reseed.errors import SubjectError
from reseed.store import checked_sha256, json_bytes, write_bytes
from reseed.subjects.language.gguf_header import check_header
from reseed.subjects.language.tokenizer import quiet_transformers

_CONTROL, _USER_DEFINED = 3, 4  # of tokenizer.ggml.token_type

CACHE_VARIABLE = "RESEED_CACHE"
"""Environment variable that names the cache folder; without it `~/.cache/reseed`."""

_CONVERSION = 1
"""Raised when the conversion changes, so that older folders are not taken for new ones."""

_ABANDONED_SECONDS = 3600.0


def cached_model(path: Path) -> Path:
    """The folder (config, safetensors, tokenizer) that a GGUF file was converted to.

    The first call converts; later ones only compute the checksum of the file. Two processes may
    call at the same time: both convert, one folder remains, and it is whole.
    """
    if not path.is_file():
        raise SubjectError(f"there is no file {path}; check the name of the model")
    models, content = _cache_folder() / "models", _content(path)
    if there := _cached(models, content):
        return there
    name = f"{path.stem}-{content}"
    final = models / name
    try:
        models.mkdir(parents=True, exist_ok=True)
        _sweep(models, name)
        building = Path(tempfile.mkdtemp(prefix=name + ".building-", dir=models))
    except OSError as error:
        raise SubjectError(
            f"the cache {models} cannot be written ({error.strerror}); {path.name} is converted "
            f"there once. Set {CACHE_VARIABLE} to a folder of yours."
        ) from error
    try:
        _convert(path, building)
        _rename(building, final)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return final


def is_cached(path: Path) -> bool:
    """Whether this file, under whatever name, was converted already."""
    return _cached(_cache_folder() / "models", _content(path)) is not None


def _cached(models: Path, content: str) -> Path | None:
    known = sorted(folder for folder in models.glob(f"*-{content}") if folder.is_dir())
    return known[0] if known else None


def _content(path: Path) -> str:
    return f"{checked_sha256(path.resolve())[:16]}-{_CONVERSION}"


def _cache_folder() -> Path:
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "reseed"


def _sweep(models: Path, name: str) -> None:
    """Delete what killed conversions left, but not what another process is working on."""
    for folder in models.glob(name + ".building-*"):
        newest = max((p.stat().st_mtime for p in [folder, *folder.glob("*")]), default=0.0)
        if time.time() - newest > _ABANDONED_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def _rename(building: Path, final: Path) -> None:
    try:
        for file in building.iterdir():
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
        building.chmod(0o755)
        os.rename(building, final)
    except OSError as error:
        # Another process was faster; its folder holds the same bytes.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def _convert(path: Path, folder: Path) -> None:
    from gguf import GGUFReader

    check_header(path)
    try:
        reader = GGUFReader(path)
        # transformers shows a bar of its own, whatever its settings say
        with quiet_transformers(), contextlib.redirect_stderr(io.StringIO()):
            _write_model(path, reader, folder)
            _tokenizer(path, reader).save_pretrained(folder)
    except SubjectError:
        raise
    except Exception as error:  # noqa: BLE001  (files of others: anything may be raised)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SubjectError(
                f"no space left in {folder.parent} for the converted {path.name}. Free some, or "
                f"set {CACHE_VARIABLE} to a folder on another disk."
            ) from error
        raise SubjectError(
            f"{path} cannot be converted: {type(error).__name__}: {error}. The file is damaged or "
            "cut short (fetch it again), or its architecture is not supported by transformers."
        ) from error
    write_bytes(folder / "source.json", json_bytes({"file": path.name, "format": _CONVERSION}))


def _write_model(path: Path, reader: Any, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    if importlib.util.find_spec("accelerate") is None:
        raise SubjectError(
            f"{path.name} (architecture {_field(reader, 'general.architecture', 'unknown')!r}) is "
            "converted by transformers with the help of accelerate: pip install accelerate"
        )
    kind: Any = AutoModelForCausalLM
    model = kind.from_pretrained(
        str(path.parent), gguf_file=path.name, dtype=torch.float32, local_files_only=True
    )
    # A model that came from GGUF refuses to be saved; a fresh one with its weights does not.
    plain = model.config.to_dict()
    plain.pop("quantization_config", None)
    plain.pop("_name_or_path", None)
    fresh = type(model)(type(model.config).from_dict(plain))
    fresh.load_state_dict(model.state_dict())
    fresh.save_pretrained(folder)


def _field(reader: Any, key: str, default: Any) -> Any:
    field = reader.get_field(key)
    return default if field is None else field.contents()


def _tokenizer(path: Path, reader: Any) -> Any:
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoTokenizer

    byte_level: Any = ByteLevel(add_prefix_space=False)
    splitters = {
        # Transformers forgets the digits of this family, which changes ids near numbers.
        "smollm": Sequence([Digits(individual_digits=True), byte_level]),
        "gpt-2": byte_level,
    }
    splitter = splitters.get(str(_field(reader, "tokenizer.ggml.pre", "")))
    if _field(reader, "tokenizer.ggml.model", "") == "gpt2" and splitter is not None:
        return _byte_pair_tokenizer(reader, splitter)
    maker: Any = AutoTokenizer
    return maker.from_pretrained(str(path.parent), gguf_file=path.name, local_files_only=True)


def _byte_pair_tokenizer(reader: Any, splitter: Any) -> Any:
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.decoders import ByteLevel
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    tokens: list[str] = _field(reader, "tokenizer.ggml.tokens", [])
    kinds: list[int] = _field(reader, "tokenizer.ggml.token_type", [1] * len(tokens))
    pairs = [tuple(pair.split(" ", 1)) for pair in _field(reader, "tokenizer.ggml.merges", [])]
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
    ids = {r: _field(reader, f"tokenizer.ggml.{key}_token_id", None) for r, key in roles.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=_field(reader, "tokenizer.chat_template", None),
        **{f"{role}_token": tokens[index] for role, index in ids.items() if index is not None},
    )
