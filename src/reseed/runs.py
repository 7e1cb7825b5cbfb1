"""Which runs exist, are missing or failed. Read without torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import ValidationError

from reseed.errors import SpecError, StoreError, nearest, needs_train
from reseed.records import Spec
from reseed.sae.settings import ArchitectureSpec
from reseed.spec.training import RunSpec
from reseed.store import PIECE, Store, read_json, snapshot_folder

if TYPE_CHECKING:
    import polars as pl

    from reseed.sae.model import SAE


Pair = tuple[str, str]
"""Ids of two runs."""


def pairs_of(runs: Sequence[str]) -> list[Pair]:
    """Every two runs of a group, in the order given."""
    return list(combinations(runs, 2))


def _piece_of(kind: str) -> Callable[[str], str]:
    return lambda name: f"{kind}/{name}"


def _piece_of_pair(kind: str) -> Callable[[Pair], str]:
    return lambda pair: f"{kind}/{pair[0]}--{pair[1]}"


weights_name = _piece_of("weights")
"""Of a run: what its weights alone show."""
evidence_name = _piece_of("evidence")
"""Of a run: what its latents fire on, and held-out reconstruction."""
logits_name = _piece_of("logits")
"""Of a run: which tokens its decoder rows make likely."""
HELD_OUT_TEXT = "text"
"""What latents are shown on, to be searched."""
through_name = _piece_of("through")
"""Of a run: what its reconstructions do to the subject's predictions."""
pair_name = _piece_of_pair("matches")
"""Of two runs: which latent is which."""
structure_name = _piece_of_pair("structure")
"""Of two runs: what became of latents without a counterpart."""
cofiring_name = _piece_of_pair("cofiring")
"""Of two runs: how their matched latents fire together."""
compared_name = _piece_of_pair("pairs")
"""Of two SAEs, by name, that are compared outside a study."""
substitution_name = _piece_of("substitution")
"""Of a group: whether counterparts can stand in for each other."""
COMPARED_TEXTS = "texts"
"""What latents of SAEs that are compared outside a study fire on most."""
stability_name = _piece_of("stability")
"""Of a group: what its matches mean."""
calibration_name = _piece_of("calibration")
"""Of a group: what recurrence is worth, on known features."""
map_name = _piece_of("maps")
"""Of a group: its decoder rows laid out by `reseed umap`."""
explanations_name = _piece_of("explanations")
"""Of a group: its latents in words."""
scores_name = _piece_of("scores")
"""Of a group: how the explanations did."""
variant_name = _piece_of("variants")
"""Of another version of the subject: what was taken out of it."""
FACTORS = stability_name("factors")
"""The piece in which the groups of a study are compared."""


def sae_folder(run: str, step: int, store: Store) -> str:
    """Folder, in the piece of a run, of its SAE after a step; the last one is the run itself."""
    inner = snapshot_folder(step)
    return inner if store.holds(f"runs/{run}", f"{inner}/cfg.json") else "."


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Finished runs that differ in nothing but their seeds."""

    name: str
    label: str
    runs: Sequence[str]
    steps: Sequence[int]
    """snapshots; the first is the start of training, the last its end"""
    batch: int


def group_of(runs: Sequence[RunSpec], asked: Iterable[ArchitectureSpec]) -> Group:
    """The group of finished runs that differ in nothing but their seeds.

    Where its label would be that of another `[[sae]]`, what they differ in is added.
    """
    first = runs[0]
    label = " ".join([f"{first.site} · {first.sae.label}", *_apart(first.sae, asked)])
    if first.control is not None:
        label += f" · {first.control.replace('_', ' ')}"
    return Group(
        name=first.group,
        label=label,
        runs=[run.id for run in runs],
        steps=first.training.snapshot_steps,
        batch=first.training.batch,
    )


def _apart(sae: ArchitectureSpec, asked: Iterable[ArchitectureSpec]) -> Iterator[str]:
    """A word for each setting that another `[[sae]]` of the same label has otherwise."""
    mine = sae.model_dump() | {"lr": sae.peak_lr}
    alike = [other for other in asked if other.label == sae.label]
    others = [other.model_dump() | {"lr": other.peak_lr} for other in alike]
    for name, value in mine.items():
        if any(other[name] != value for other in others):
            yield f"{name}{value:g}" if isinstance(value, float) else f"{name} {value}"


def group_called(name: str, groups: Sequence[Group]) -> Group:
    """The one group of this name or label, or with a label that holds it.

    Cases and all but letters and digits do not matter: `layers.6.mlp topk 8` is in the label
    `layers.6.mlp · topk 8 k2`.

    Raises:
        SpecError: if it fits none or several.
    """
    exact = [group for group in groups if name in (group.name, group.label)]
    part = _typed(name)
    hits = exact or [group for group in groups if part and part in _typed(group.label)]
    hits = [group for group in hits if _typed(group.label) == part] or hits
    if len(hits) == 1:
        return hits[0]
    labels = [group.label for group in hits or groups]
    which = f"it is in {len(hits)} labels: {', '.join(labels)}"
    raise SpecError(f"no group {name!r}; {which if hits else nearest(name, labels, 0.4)}")


def _typed(label: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", label.lower()))


@dataclass(frozen=True, slots=True)
class Run:
    """One training of a study."""

    spec: RunSpec
    state: RunState
    _store: Store

    @property
    def id(self) -> str:
        """Name, and name of its folder below `runs/`."""
        return self.spec.id

    def sae(self) -> SAE:
        """The trained SAE. Needs torch."""
        from reseed.formats import own

        with needs_train("Run.sae"):
            from reseed.sae.model import from_arrays

        return from_arrays(own.read_run(self._store, run_name(self.spec)))

    def metrics(self) -> pl.DataFrame:
        """step, tokens, fvu, l0, dead of every step."""
        return self._store.table(run_name(self.spec), "metrics.parquet")


@dataclass(frozen=True, slots=True)
class PairMatch:
    """What two runs of a study have in common."""

    a: str
    b: str
    steps: tuple[int, ...]
    _store: Store = field(repr=False)

    def table(self, step: int | None = None) -> pl.DataFrame:
        """One row for each latent of each side; columns as in `reseed.matching.match`.

        Args:
            step: a snapshot; the end of training if left out.
        """
        at = self.steps[-1] if step is None else step
        return self._store.table(pair_name((self.a, self.b)), f"{at:08d}.parquet")

    def certificates(self) -> dict[str, Any]:
        """primal, dual, gap and whether optimal, of both assignments at every snapshot."""
        return self._store.document(pair_name((self.a, self.b)), "certificates.json")

    def activations(self) -> pl.DataFrame:
        """How the latents matched by decoder rows fire together on held-out tokens.

        latent_a, latent_b, act_corr, act_jaccard, null_corr, null_jaccard; docs/matching.md.
        """
        return self._store.table(cofiring_name((self.a, self.b)), "matched.parquet")


class Done(Spec):
    """The run is there."""

    state: Literal["done"] = "done"


class Missing(Spec):
    """The run has not been started or not been finished."""

    state: Literal["missing"] = "missing"
    tokens_done: int = 0
    """At the last checkpoint."""


class Damaged(Spec):
    """The run is there, without a file that it had; it is not trained again unasked."""

    state: Literal["damaged"] = "damaged"
    reason: str


class Failed(Spec):
    """The run stopped by itself; it is not tried again unless asked for."""

    state: Literal["failed"] = "failed"
    step: int
    reason: str


class Progress(Spec):
    """How far a run in work has come at its last checkpoint; for people, nothing depends on it."""

    step: int
    tokens: int


T = TypeVar("T", bound=Spec)

RunState = Done | Missing | Failed | Damaged


def run_name(run: RunSpec | str) -> str:
    """Name of the piece of a finished run, given its spec or its id."""
    return f"runs/{run if isinstance(run, str) else run.id}"


OWNED = "owned"
"""File that marks the folder of a process that moves a run on."""


def part_folder(run: RunSpec, store: Store) -> Path:
    """Where a run in work lies, in a folder named after the process that moves it on."""
    return store.path(f"{run_name(run)}.part")


def attempts(run: RunSpec, store: Store) -> list[Path]:
    """The folders of processes that have begun a run: none, or one unless two began at once."""
    part = part_folder(run, store)
    marked = [folder for folder in part.glob("*/") if (folder / OWNED).exists()]
    return marked or [folder for folder in part.glob("*/") if (folder / PIECE).exists()]


def failure_file(run: RunSpec | str) -> str:
    """Where the reason of a failed run lies."""
    return f"{run_name(run)}.failed.json"


def run_state(run: RunSpec, store: Store) -> RunState:
    """Whether a run is done, missing or failed."""
    if store.has(run_name(run)):
        try:
            lacks = store.lacks(run_name(run))
        except StoreError as error:  # another run in its place, or a card that cannot be read
            lacks = str(error)
        return Done() if lacks is None else Damaged(reason=lacks)
    failure = store.path(failure_file(run))
    if failure.exists():
        return _read(Failed, failure)
    told = [folder / "progress.json" for folder in attempts(run, store)]
    tokens = [_read(Progress, progress).tokens for progress in told if progress.exists()]
    return Missing(tokens_done=max(tokens, default=0))


def _read(kind: type[T], path: Path) -> T:
    try:
        return kind.model_validate(read_json(path))
    except ValidationError as error:
        raise StoreError(f"{path} cannot be read. Delete it and run again.") from error


def forget_failure(run: RunSpec, store: Store) -> None:
    """Let a failed run be tried again."""
    store.path(failure_file(run)).unlink(missing_ok=True)
