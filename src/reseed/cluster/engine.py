"""What an engine is: it starts parts of the work somewhere and comes back when none is under way.

Nothing but names travels. Whether a part was done is asked of the store, never of an engine: a
machine that is lost may still have written everything, and one that says it is done may not.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, cast

from pydantic import Field

from reseed.errors import SpecError, StoreError
from reseed.events import Events
from reseed.records import Spec
from reseed.spec.refusals import read_spec

TRIES = 3
"""How often parts that are still missing are started."""

Door = Callable[[str, str, str, int], None]
"""Makes one part: folder of the study, name of the part, device, ranks that make it together."""


Count = Annotated[int, Field(ge=1)]


class EngineSpec(Spec):
    """Where parts run and what each may take: an `engine.toml`, or options of `reseed run`.

    It is no part of a study and changes no result.
    """

    on: Literal["local", "slurm", "ray"] = "local"
    workers: Count = 2
    """parts at a time"""
    cpus: Count = 1
    """for each worker"""
    gpus: Annotated[int, Field(ge=0)] = 0
    """for each worker"""
    ranks: Count = 1
    """processes of each worker that share a run whose `blocks` is above 1, docs/sharding.md"""
    subject_ranks: Annotated[int, Field(ge=0)] = 0
    """processes of each worker that hold the subject together in the harvest, where it is too large
    for one GPU; 0 for one on each of its GPUs"""
    gpu_gib: Annotated[float, Field(gt=0)] | None = None
    """memory of each GPU, for `reseed plan`"""
    gib: Annotated[float, Field(gt=0)] = 4.0
    """memory of each worker"""
    minutes: Count = 240
    """after which a worker is stopped; it saves before, and is started again"""
    partition: str | None = None
    account: str | None = None
    constraint: str | None = None
    """features that nodes must have, such as one model of GPU or CPU"""
    setup: tuple[str, ...] = ()
    """lines of shell before each worker on Slurm: modules, a container's activation"""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    """variables of each worker"""
    instructions: Literal["native", "avx2"] = "native"
    """that workers use; those of AVX2 are the same on processors that have more"""
    address: str = "auto"
    """of the Ray cluster"""
    price: Annotated[float, Field(ge=0)] | None = None
    """of one worker for an hour, for `reseed plan`"""

    def holders(self, device: str) -> int:
        """Processes that hold the subject together, where a device was asked for."""
        return self.subject_ranks or (1 if device == "cpu" else max(1, self.gpus))


_AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_CBWR": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+sse4.2,+popcnt,"
    "-avx512f,-avx512bw,-avx512vl,-avx512dq",
    "OPENBLAS_CORETYPE": "Haswell",
    # names before NumPy 2.4 and since; it leaves alone those that it does not know
    "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL "
    "AVX512_SPR X86_V4",
}
"""For torch, MKL, oneDNN, numba, OpenBLAS, NumPy: each of them looks at the processor itself."""


def variables(spec: EngineSpec) -> dict[str, str]:
    """Environment of a worker: what pins the instruction set, then what the user says."""
    return {**(_AVX2 if spec.instructions == "avx2" else {}), **spec.environment}


@dataclass(frozen=True, slots=True)
class Needs:
    """What one part may take."""

    device: str = "cpu"
    gpus: int = 0
    ranks: int = 1
    """processes that make it together"""


class Engine(Protocol):
    """Starts parts and waits."""

    def run(
        self, door: Door, folder: Path, parts: Sequence[str], needs: Needs, events: Events
    ) -> None:
        """Come back when none of these parts is under way any more.

        Raises:
            Interrupted: after a signal; everything that was started has been told to stop.
            ReseedError: what a part raised that trying again will not change.
        """
        ...


def read_engine(file: Path | None, **options: Any) -> EngineSpec:
    """The settings of an `engine.toml`, options that are not None in their place.

    Raises:
        SpecError: if the file cannot be read, or has unknown keys or wrong values.
    """
    table: dict[str, Any] = {}
    if file is not None:
        try:
            table = tomllib.loads(file.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise SpecError(f"{file} cannot be read as TOML ({error})") from error
        told: Any = table.get("engine", table)
        if not isinstance(told, dict):
            raise SpecError(f"{file}: engine = {told!r} is no table; write [engine] above its keys")
        table = cast("dict[str, Any]", told)
    table |= {name: value for name, value in options.items() if value is not None}
    return read_spec(EngineSpec, table, "engine" if file is None else str(file))


def fan_out(
    engine: Engine,
    door: Door,
    folder: Path,
    parts: Callable[[], Sequence[str]],
    needs: Needs,
    events: Events,
) -> None:
    """Let an engine make parts until none is missing.

    Args:
        engine: where.
        door: makes a part, or finds it made.
        folder: of the study.
        parts: gives the names of those that are missing.
        needs: of each part.
        events: progress.

    Raises:
        StoreError: if parts are missing after `TRIES` attempts.
        Interrupted: after a signal.
    """
    for _ in range(TRIES):
        missing = parts()
        if not missing:
            return
        engine.run(door, folder, missing, needs, events)
    if missing := parts():
        raise StoreError(
            f"{len(missing)} parts are still missing after {TRIES} attempts, e.g. {missing[0]}; "
            f"{folder / 'work' / 'logs'} has what the workers printed. What was made is kept: run "
            "the same command again."
        )
