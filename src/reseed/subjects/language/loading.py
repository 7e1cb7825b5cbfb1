"""What the transformers library loads for a language model: from a folder, a hub, or GGUF.

No code of a model is run, and no file outside its folder is read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from reseed.errors import ReseedError, SubjectError
from reseed.spec.subject import LanguageModelSpec, is_hub_name, package_file
from reseed.subjects.controls import seeded
from reseed.subjects.language.gguf import cached_model, is_cached
from reseed.subjects.language.tokenizer import quiet_transformers

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.float32}
"""What weights are loaded in; those of linear layers are rounded further for int8."""


def from_files(spec: LanguageModelSpec, kind: str, what: str = "model", **options: Any) -> Any:
    """What a class of transformers loads for a spec.

    Raises:
        SubjectError: if it cannot be found or loaded.
    """
    import transformers

    try:
        with quiet_transformers():
            where, hub = located(spec)
            _check_folder(Path(where))
            maker: Any = getattr(transformers, kind)
            return maker.from_pretrained(where, trust_remote_code=False, **hub, **options)
    except ReseedError:
        raise
    except Exception as error:  # noqa: BLE001  (files of others: anything may be raised)
        raise _unloadable(spec, what, error) from error


def _check_folder(folder: Path) -> None:
    """Refuse a list of weights that names files elsewhere."""
    for listing in sorted(folder.glob("*.index.json")) if folder.is_dir() else ():
        try:
            files = set(json.loads(listing.read_text("utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise SubjectError(
                f"{listing} is no list of weights ({error}); fetch it again"
            ) from None
        for file in files:
            if not isinstance(file, str) or Path(file).name != file:
                raise SubjectError(
                    f"{listing} names weights in {file!r}, which is no file of its own folder; "
                    "fetch the model again from where you trust it"
                )


def skeleton(spec: LanguageModelSpec) -> Any:
    """The body without weights, made of its settings alone; None if that cannot be done.

    Raises:
        SubjectError: if the settings cannot be read.
    """
    from transformers import AutoModel

    maker: Any = AutoModel
    config = from_files(spec, "AutoConfig")
    try:
        with quiet_transformers(), torch.device("meta"):
            return maker.from_config(config, trust_remote_code=False)
    except Exception:  # noqa: BLE001  (an architecture that computes where it is made)
        return None


def trained(spec: LanguageModelSpec, kind: str) -> tuple[Any, list[str]]:
    """A model with its trained weights, and the names of those that were missing."""
    model, report = from_files(spec, kind, dtype=_DTYPES[spec.dtype], output_loading_info=True)
    return model, sorted(report["missing_keys"]) + sorted(map(str, report["mismatched_keys"]))


def untrained(spec: LanguageModelSpec, seed: int) -> Any:
    """The body with weights as before any training, by the initialiser of its architecture.

    Like "step 0" in arXiv 2501.17727: embeddings are random as well.
    """
    from transformers import AutoModel

    config = from_files(spec, "AutoConfig")
    maker: Any = AutoModel
    try:
        with quiet_transformers(), seeded(seed):
            return maker.from_config(config, dtype=_DTYPES[spec.dtype], trust_remote_code=False)
    except Exception as error:  # noqa: BLE001  (settings of others: anything may be raised)
        raise _unloadable(spec, "model", error) from error


def check_weights(spec: LanguageModelSpec, missing: Sequence[str], step: str) -> None:
    """Refuse a model that lacks weights."""
    if missing:
        raise SubjectError(
            f"{spec.model}: {len(missing)} weights are missing or have another shape, the first is "
            f"{missing[0]}. {step}"
        )


def located(spec: LanguageModelSpec) -> tuple[str, dict[str, Any]]:
    """What to hand to transformers: a folder, or a hub name with its options."""
    name = spec.model
    path = _path(name)
    if _is_gguf(name, path):
        path = cached_model(path)
    if path.is_dir():
        return str(path), {"local_files_only": True}
    if path.exists() or not is_hub_name(name):
        raise SubjectError(
            f"model {name!r}: {path} is {'no folder' if path.exists() else 'not there'}. Give a "
            "folder with config.json and safetensors, a .gguf file, package:NAME/file.gguf, or the "
            "name of a model on the hub."
        )
    return name, {"revision": spec.revision} if spec.revision else {}


def opening(spec: LanguageModelSpec) -> str:
    """What to say before a model is opened, which takes a while the first time."""
    path = _path(spec.model)
    if _is_gguf(spec.model, path) and path.is_file() and not is_cached(path):
        size = path.stat().st_size / 1e9
        return (
            f"opening {spec.model}: {size:.2g} GB of GGUF are converted once into the cache, which "
            "takes some minutes for each GB"
        )
    return f"opening {spec.model}"


def _path(name: str) -> Path:
    package = name.startswith("package:")
    return package_file(name) if package else Path(os.path.expanduser(name))


def _is_gguf(name: str, path: Path) -> bool:
    return path.suffix == ".gguf" and (path.is_file() or not is_hub_name(name))


def _unloadable(spec: LanguageModelSpec, what: str, error: BaseException) -> SubjectError:
    """What to tell the person whose model, or its tokenizer, cannot be loaded."""
    path = Path(os.path.expanduser(spec.model))
    if spec.model.startswith("package:") or path.exists():
        tried = "its files are there, but cannot be loaded"
        step = "Check that it is a whole transformers model, or fetch it again."
    else:
        offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
        tried = "no such folder or file here, and the hub does not give it" + (
            ", since HF_HUB_OFFLINE is set: only models fetched before can be used"
            if offline
            else ""
        )
        step = "Check the name, or give a local folder, a .gguf file, or package:NAME/file.gguf."
    reason = " ".join(str(error).split())[:300]
    return SubjectError(f"{what} {spec.model!r}: {tried}. {step} ({reason})")
