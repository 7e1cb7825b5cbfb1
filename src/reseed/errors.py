"""What can go wrong, as a tree.

    ReseedError
    ├── SpecError      what was asked for cannot be done as written; nothing was started
    ├── SubjectError   the subject, its sites or its text cannot be read or give NaN
    ├── TrainingError  a run stopped: NaN or infinity in its loss or weights
    ├── ModelError     the model that is asked refuses or is gone; no further question is put to it
    ├── HubError       the hub refuses or is not reached; what was sent is kept
    ├── BudgetError    a budget of calls, tokens or money is spent; what was answered is kept
    └── StoreError     the study folder is damaged, full, read-only or made by another spec
        └── BusyError  another process works in the study

Every message names the object, the numbers, the likely cause and the next step.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Generator, Iterable
from pathlib import Path


class ReseedError(Exception):
    """Base of every error that reseed raises on purpose; the message is written for a person."""

    exit_code = 1


class SpecError(ReseedError):
    """What was asked for cannot be done as written; no work was started."""

    exit_code = 2


class SubjectError(ReseedError):
    """The subject, one of its sites or its text cannot be read, or gives NaN."""

    exit_code = 2


class TrainingError(ReseedError):
    """A run stopped: NaN or infinity in its loss or its weights."""


class ModelError(ReseedError):
    """A server refuses the key, lacks the model, or answers nobody; asking on would be useless."""

    exit_code = 2


class HubError(ReseedError):
    """The hub refuses or is not reached. What was sent is kept; the same command goes on."""


class BudgetError(ReseedError):
    """A budget of calls, tokens or money is spent. Replies are kept; a larger one goes on."""


class StoreError(ReseedError):
    """The study folder is damaged, full, read-only, or was made by another spec."""

    exit_code = 3


class BusyError(StoreError):
    """Another process works in the study."""

    exit_code = 3


class Interrupted(ReseedError):  # noqa: N818  (it is an ending, not an error)
    """SIGINT or SIGTERM arrived; everything is saved and the same command continues."""

    def __init__(self, signum: int) -> None:
        super().__init__("stopped by a signal; what was done is saved, the same command continues")
        self.exit_code = 128 + signum


@contextlib.contextmanager
def needs_train(what: str) -> Generator[None, None, None]:
    """Say what to install if the block fails because torch or its kin is missing.

    Args:
        what: that needs it, e.g. `"reseed.load"`.

    Raises:
        ImportError: naming the extra.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        message = extra_missing(error, what)
        if message is None:
            raise
        raise ImportError(message) from error


_EXTRAS = {
    "torch": "train",
    "transformers": "train",
    "tokenizers": "train",
    "gguf": "train",
    "httpx": "llm",
    "duckdb": "explore",
    "starlette": "explore",
    "uvicorn": "explore",
    "jinja2": "explore",
    "pandas": "notebook",
    "pyarrow": "notebook",
    "huggingface_hub": "publish",
    "umap": "map",
}
"""Module to the extra that installs it."""


def extra_missing(error: ModuleNotFoundError, what: str) -> str | None:
    """What to install if the missing module belongs to an extra; None for any other module."""
    extra = _EXTRAS.get(error.name or "")
    if extra is None:
        return None
    return f"{what} needs {error.name}, which is not installed: {installing(extra)}"


def installing(extra: str) -> str:
    """The command that installs an extra, from where the package itself came."""
    from importlib import metadata

    url = ""
    with contextlib.suppress(metadata.PackageNotFoundError, ValueError, TypeError):
        known = metadata.distribution("reseed").read_text("direct_url.json")
        url = json.loads(known or "{}").get("url", "")
    return f"pip install 'reseed[{extra}] @ {url}'" if url else f"pip install 'reseed[{extra}]'"


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """A hint that names the known word nearest to a misspelt one, or lists what there is.

    Example:
        >>> nearest("latent", ["latents", "k"])
        "did you mean 'latents'?"
    """
    import difflib

    known = list(known)
    hits = difflib.get_close_matches(word, known, n=1, cutoff=cutoff)
    if hits:
        return f"did you mean {hits[0]!r}?"
    shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
    return f"known are: {shown}" if known else "nothing is known here"


_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def explained(path: Path) -> Generator[None, None, None]:
    """Turn the operating system's refusals to write into messages for a person.

    Args:
        path: what was to be written.

    Raises:
        StoreError: in place of an `OSError`.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise StoreError(
                f"no space left on the disk of {path}, or a quota is reached. What was done is "
                "kept; free some space and run the same command again (`reseed plan` says how much "
                "is needed)."
            ) from error
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise StoreError(
                f"too many open files while writing {path}. What was done is kept; raise the limit "
                "(`ulimit -n 1024`) and run the same command again."
            ) from error
        if error.errno == errno.ELOOP:
            raise StoreError(
                f"{path} is a link. Files of a study are never written through links, since what "
                "they point to may be somebody else's; delete the link."
            ) from error
        raise StoreError(
            f"{path} cannot be written ({error.strerror or error}). Make it writable or choose "
            "another folder with `--out`."
        ) from error


def no_link(path: str, flags: int) -> int:
    """Opener for `open` that refuses to follow a link."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)
