"""From a reference to the files it names, here or on the Hugging Face hub.

`hf:OWNER/REPO`, `hf:OWNER/REPO/PATH/IN/REPO`, each with `@REVISION` behind. Files come through
huggingface_hub, so its cache, its token and its offline switch (`HF_HUB_OFFLINE=1`) hold.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from reseed.errors import SpecError

_SETTINGS = ("cfg.json", "config.json", "hyperparams.json")

_WEIGHTS = (
    "sae.safetensors",
    "sae_weights.safetensors",
    "params.safetensors",
    "params.npz",
    "ae.pt",
    "sae.pt",
)

_BESIDE = ("activation_scaler.json", "activation_whitening.safetensors")

_HUB_LIKE = re.compile(r"[A-Za-z0-9][\w-]*/[A-Za-z0-9][\w.-]*(/[\w.-]+)*(@[\w.-]+)?")
"""OWNER/REPO/PATH without `hf:`; a path that is not there can look like it."""

_LEFT_OUT = (
    "*optimizer*",
    "*lr_scheduler*",
    "*rank_*_state*",
    "*trainer.pt",
    "*trainer_state.pt",
    "*store_state*",
)
"""What a training leaves beside its SAE and is never read; `*` stands for `/` too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Files on this machine, and where they came from."""

    path: Path
    name: str
    """the reference as given"""
    revision: str | None = None
    """the commit on the hub that the files are of"""


def resolve(reference: str | Path) -> Place:
    """The files of a reference, fetched from the hub if they are there and not in its cache.

    Raises:
        SpecError: if the reference is malformed, or cannot be fetched: it says what to download.
    """
    name = str(reference)
    if "\0" in name:
        raise SpecError(f"{name!r} is no path: it has a NUL in it, which no file name can have")
    if page := re.match(r"https?://(?:www\.)?huggingface\.co/([^?#]+)", name):
        place = re.sub(r"/(tree|blob|resolve)/([^/]+)/?(.*)", r"/\3@\2", page[1]).replace("/@", "@")
        raise SpecError(f"{name} is the address of a page; write hf:{place}")
    if not name.startswith("hf:"):
        if _HUB_LIKE.fullmatch(name) and not Path(name).exists():
            raise SpecError(
                f"{name} does not exist here. If it is a repository of the Hugging Face hub, write "
                f"hf:{name}"
            )
        return Place(path=Path(reference), name=name)
    owner, repo, inner, revision = _parts(name)
    folder = _fetched(f"{owner}/{repo}", inner, revision, name)
    path = folder / inner if inner else folder
    if not path.exists():
        raise SpecError(f"{name}: the repository has no {inner} at this revision")
    commit = folder.name if re.fullmatch(r"[0-9a-f]{40}", folder.name) else revision
    return Place(path=path, name=name, revision=commit)


def _parts(name: str) -> tuple[str, str, str, str | None]:
    rest, mark, revision = name.removeprefix("hf:").partition("@")
    parts = PurePosixPath(rest).parts
    if len(parts) < 2 or parts[0] == "/" or ".." in parts or (mark and not revision):
        raise SpecError(
            f"{name!r} is no place on the hub; write hf:OWNER/REPO/PATH@REVISION, for instance "
            "hf:EleutherAI/sae-pythia-160m-32k/layers.6.mlp"
        )
    return parts[0], parts[1], "/".join(parts[2:]), revision or None


def _wanted(inner: str) -> list[str]:
    """Patterns of the files of an SAE; without a path those of the top only, not the whole."""
    top = [*_SETTINGS, *_WEIGHTS, *_BESIDE]
    if not inner:
        return top
    parents = [parent.as_posix() for parent in PurePosixPath(inner).parents][:2]
    beside = [name if up == "." else f"{up}/{name}" for up in parents for name in _SETTINGS]
    return [inner, f"{inner}/*", *beside]


def _fetched(repo: str, inner: str, revision: str | None, name: str) -> Path:
    try:
        import huggingface_hub
    except ModuleNotFoundError:
        raise SpecError(
            f"{name} is on the Hugging Face hub, and huggingface_hub is not installed: "
            f"pip install huggingface_hub. {_by_hand(repo, inner, revision)}"
        ) from None
    fetch: Any = huggingface_hub.snapshot_download
    try:
        folder = fetch(
            repo,
            revision=revision,
            allow_patterns=_wanted(inner),
            ignore_patterns=list(_LEFT_OUT),
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise SpecError(
            f"{name} could not be fetched ({type(error).__name__}: {reason}). "
            f"{_by_hand(repo, inner, revision)}"
        ) from error
    return Path(folder)


def _by_hand(repo: str, inner: str, revision: str | None) -> str:
    """What to download, and what to do with it."""
    tree = f"https://huggingface.co/{repo}/tree/{revision or 'main'}/{inner}".rstrip("/")
    return (
        f"Or download {tree} (settings and weights, e.g. cfg.json and *.safetensors) to a folder "
        "and give that folder; or fetch it where there is a network and copy the hub's cache "
        "(HF_HOME) here."
    )
