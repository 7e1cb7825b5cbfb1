"""GGUF files as folders that transformers loads in a second.

Transformers reads GGUF itself, but needs half a minute for a small model, each time. Here a file is
converted once, into a cache beside the user's other caches.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from reseed.errors import SubjectError
from reseed.records import Floats
from reseed.store import file_sha256, json_bytes, write_bytes
from reseed.subjects.language.tokenizer import quiet_transformers

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


CACHE_VARIABLE = "RESEED_CACHE"
"""Environment variable that names the cache folder; without it `~/.cache/reseed`."""

_CONVERSION = 1
"""Raised when the conversion changes, so that older folders are not taken for new ones."""

_ABANDONED_SECONDS = 3600.0

_LLAMA_ROOT = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}

_LLAMA_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

_BROKEN = (ValueError, KeyError, IndexError, TypeError, OverflowError, OSError, RuntimeError)
"""What readers of a damaged file raise."""


def cached_model(path: Path) -> Path:
    """The folder (config, safetensors, tokenizer) that a GGUF file was converted to.

    The first call converts; later ones only compute the checksum of the file. Two processes may
    call at the same time: both convert, one folder remains, and it is whole.

    Args:
        path: the `.gguf` file.

    Raises:
        SubjectError: if the file is missing, damaged, or of an architecture that transformers does
            not read either.
    """
    if not path.is_file():
        raise SubjectError(f"there is no file {path}; check the name of the model")
    models = _cache_folder() / "models"
    name = f"{path.stem}-{file_sha256(path)[:16]}-{_CONVERSION}"
    final = models / name
    if final.is_dir():
        return final
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

    try:
        reader = GGUFReader(path)
        _write_model(path, reader, folder)
        with quiet_transformers():
            make_tokenizer(path, reader).save_pretrained(folder)
    except _BROKEN as error:
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
    names = {t.name: _llama_name(t.name) for t in reader.tensors}
    scaled = any(".rope.scaling." in key for key in reader.fields)
    architecture = str(read_field(reader, "general.architecture"))
    if architecture != "llama" or None in names.values() or scaled:
        _write_by_transformers(path, architecture, folder)
        return
    heads = int(read_field(reader, "llama.attention.head_count"))
    kv_heads = int(read_field(reader, "llama.attention.head_count_kv", heads))
    tensors: dict[str, Floats] = {}
    for tensor in reader.tensors:
        weight = _dequantized(tensor)
        if ".attn_q." in tensor.name or ".attn_k." in tensor.name:
            weight = _unpermuted(weight, heads if ".attn_q." in tensor.name else kv_heads)
        tensors[str(names[tensor.name])] = weight
    config = _llama_config(reader, heads, kv_heads, tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config.save_pretrained(folder)


def _llama_name(name: str) -> str | None:
    """The name of a tensor in transformers, or None for tensors that a plain llama lacks."""
    if name in _LLAMA_ROOT:
        return _LLAMA_ROOT[name]
    parts = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if parts is None or parts[2] not in _LLAMA_LAYER:
        return None
    return f"model.layers.{parts[1]}.{_LLAMA_LAYER[parts[2]]}.weight"


def _dequantized(tensor: Any) -> Floats:
    from gguf.quants import dequantize

    shape = tuple(int(size) for size in reversed(tensor.shape))
    return np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32).reshape(shape)


def _unpermuted(weight: Floats, heads: int) -> Floats:
    """Undo the order of rows that llama.cpp wants for its rotary embedding.

    Source: `permute` in llama.cpp's convert_hf_to_gguf.py, reversed.
    """
    rows = weight.reshape(heads, weight.shape[0] // heads // 2, 2, *weight.shape[1:])
    return rows.swapaxes(2, 1).reshape(weight.shape)


def _llama_config(reader: Any, heads: int, kv_heads: int, tensors: dict[str, Floats]) -> Any:
    from transformers import LlamaConfig

    def number(key: str, default: float | None = None) -> Any:
        return read_field(reader, "llama." + key, default)

    vocabulary, width = tensors["model.embed_tokens.weight"].shape
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        dtype="float32",
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=int(number("feed_forward_length")),
        num_hidden_layers=int(number("block_count")),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=int(number("rope.dimension_count", width // heads)),
        max_position_embeddings=int(number("context_length")),
        rms_norm_eps=float(number("attention.layer_norm_rms_epsilon")),
        rope_parameters={
            "rope_type": "default",
            "rope_theta": float(number("rope.freq_base", 10000.0)),
        },
        tie_word_embeddings="lm_head.weight" not in tensors,
        bos_token_id=read_field(reader, "tokenizer.ggml.bos_token_id", None),
        eos_token_id=read_field(reader, "tokenizer.ggml.eos_token_id", None),
        pad_token_id=read_field(reader, "tokenizer.ggml.padding_token_id", None),
    )


def _write_by_transformers(path: Path, architecture: str, folder: Path) -> None:
    """Slow, but for every architecture that transformers reads."""
    import torch
    from transformers import AutoModelForCausalLM

    if importlib.util.find_spec("accelerate") is None:
        raise SubjectError(
            f"{path.name} is of the architecture {architecture!r} (or a llama with extras), which "
            "transformers converts, with the help of accelerate: pip install accelerate"
        )
    with quiet_transformers():
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
