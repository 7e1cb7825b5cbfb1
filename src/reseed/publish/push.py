"""A study on the Hugging Face hub."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reseed.errors import HubError, SpecError, extra_missing
from reseed.events import Events
from reseed.publish.parcel import Item, parcels
from reseed.screen import Screen
from reseed.study import Study

_PLACE = re.compile(r"hf:([A-Za-z0-9][\w-]*/[A-Za-z0-9][\w.-]*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A file, and whether it had to be sent."""

    name: str
    size: int
    """bytes"""
    already: bool
    """whether the hub had it with the same content"""


def push(
    study: Study,
    to: str,
    *,
    group: str | None = None,
    layout: str = "saelens",
    private: bool = False,
    dry_run: bool = False,
    progress: bool = True,
) -> list[Sent]:
    """Send a study's SAEs, latents, report and a model card to a repository of the hub.

    Each SAE is a commit, and what is there with the same content is left out; so a call that was
    stopped continues when it is made again. The token is that of the environment (`HF_TOKEN`) or of
    `hf auth login`; there is no other way to give one.

    Args:
        study: with results.
        to: `hf:OWNER/NAME`; the repository is made if it is not there.
        group: label or name of one group of runs; else all.
        layout: of the SAEs: `"saelens"`, `"sparsify"`, or `"reseed"`, which holds every SAE.
        private: whether a new repository is private.
        dry_run: only list what would go; asks the hub nothing.
        progress: whether to show it.

    Returns:
        All files, in the order in which they are sent.

    Raises:
        SpecError: if the place, a group or the layout is none, or cannot hold an SAE.
        StoreError: if the study has no results or is damaged.
        HubError: if the hub refuses or is not reached.
        ImportError: if huggingface_hub is not installed.
    """
    place = _PLACE.fullmatch(to)
    if place is None:
        raise SpecError(f"{to!r} is no repository of the hub; write hf:OWNER/NAME")
    groups = study.groups_named(group)
    runs = sum(len(g.runs) for g in groups)
    hub = None if dry_run else _Hub(place[1], private=private)
    sent: list[Sent] = []
    events = Events(console=Screen(stderr=True) if progress and not dry_run else None)
    with events.task("push", runs + 1, "parcels") as task:
        for items in parcels(study, groups, layout, place[1]):
            new = items if hub is None else hub.missing(items)
            if hub is not None and new:
                hub.send(new, _message(items, study))
            names = {item.name for item in new}
            sent += [
                Sent(name=item.name, size=len(item.data), already=item.name not in names)
                for item in items
            ]
            task.advance(1, items[0].name)
    return sent


def _message(items: Sequence[Item], study: Study) -> str:
    folder = items[0].name.rpartition("/")[0]
    return f"Add {folder}" if folder else f"Add what describes {study.folder.resolve().name}"


class _Hub:
    """A repository, through huggingface_hub."""

    def __init__(self, repo: str, *, private: bool) -> None:
        try:
            import huggingface_hub
            from huggingface_hub.utils import disable_progress_bars
        except ModuleNotFoundError as error:
            raise ImportError(extra_missing(error, "reseed.publish.push") or error) from error
        disable_progress_bars()  # ours says how far it is
        self._hub: Any = huggingface_hub
        self._api: Any = huggingface_hub.HfApi(library_name="reseed")
        self.repo = repo
        if huggingface_hub.get_token() is None:
            raise SpecError(
                "no token for the hub: set HF_TOKEN, or log in once with `hf auth login` "
                "(`--dry-run` lists the files without one)"
            )
        self._ask(self._api.create_repo, repo, private=private, exist_ok=True)

    def missing(self, items: Sequence[Item]) -> list[Item]:
        """Those that the hub does not have with the same content."""
        names = [item.name for item in items]
        known = {info.path: info for info in self._ask(self._api.get_paths_info, self.repo, names)}
        return [item for item in items if not _same(item, known.get(item.name))]

    def send(self, items: Sequence[Item], message: str) -> None:
        """One commit."""
        operations = [
            self._hub.CommitOperationAdd(path_in_repo=item.name, path_or_fileobj=item.data)
            for item in items
        ]
        with warnings.catch_warnings():
            # a table of latents belongs beside its SAEs, and not in a data set of its own
            warnings.filterwarnings("ignore", ".*commit a data file")
            self._ask(self._api.create_commit, self.repo, operations, commit_message=message)

    def _ask(self, call: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return call(*args, **kwargs)
        except (self._hub.errors.HfHubHTTPError, OSError, ValueError, RuntimeError) as error:
            why = f"{error} {error.__cause__ or ''}"
            reason = " ".join(why.split())[:300]
            raise HubError(
                f"hf:{self.repo}: the hub refused or was not reached ({type(error).__name__}: "
                f"{reason}). What was sent is kept; the same command goes on from there."
            ) from error


def _same(item: Item, info: Any) -> bool:
    if info is None or getattr(info, "blob_id", None) is None:
        return False
    if info.lfs is not None:
        return info.lfs.sha256 == item.sha256
    return info.blob_id == item.blob
