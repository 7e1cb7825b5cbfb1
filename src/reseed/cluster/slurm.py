"""Parts as one Slurm array, through submitit.

Job states are not asked for: without accounting they stay unknown for ever. `squeue` says whether
anything is under way, and the store what was made.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from shutil import which
from typing import Any

from reseed.cluster.engine import Door, EngineSpec, Needs, variables
from reseed.errors import Interrupted, ReseedError, SpecError, StoreError
from reseed.events import Events

_WARNING_SECONDS = 120
"""How long before its time limit a job is told to save."""

_REQUEUES = 1000
"""How often a job that was stopped is put back into the queue."""

_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class SavedTask:
    """What a job of the array runs; submitit asks `checkpoint` what to run after a requeue."""

    door: Door
    folder: str
    device: str
    ranks: int

    def __call__(self, part: str) -> None:
        """Make a part; one that was stopped before its time limit goes back into the queue.

        Slurm does not requeue a job that ends within its grace period after SIGTERM: then the part
        is missing, and the driver starts it again.
        """
        requeue = signal.getsignal(signal.SIGUSR2)
        warned: list[int] = []

        def hear(signum: int, _frame: Any) -> None:
            warned.append(signum)
            signal.raise_signal(signal.SIGTERM)  # which the part takes as any other

        signal.signal(signal.SIGUSR2, hear)
        try:
            self.door(self.folder, part, self.device, self.ranks)
        except Interrupted:
            if warned:
                signal.signal(signal.SIGUSR2, requeue)
                signal.raise_signal(signal.SIGUSR2)
        finally:
            signal.signal(signal.SIGUSR2, requeue)

    def checkpoint(self, part: str) -> Any:
        """The same again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, part)


class Slurm:
    """Arrays of up to `workers` jobs at a time.

    Args:
        spec: of the engine.
        logs: folder for the scripts and what the jobs print; on the shared file system.

    Raises:
        SpecError: if submitit is not installed, or there is no Slurm here.
    """

    def __init__(self, spec: EngineSpec, logs: Path) -> None:
        try:
            import submitit  # noqa: F401  # pyright: ignore[reportUnusedImport]
        except ImportError as error:
            raise SpecError(
                "Slurm needs submitit, which is not installed: pip install 'reseed[slurm]'"
            ) from error
        for command in ("sbatch", "squeue"):
            if which(command) is None:
                raise SpecError(
                    f"there is no `{command}` here; start this on a login node of Slurm"
                )
        self._spec, self._logs = spec, logs

    def run(
        self, door: Door, folder: Path, parts: Sequence[str], needs: Needs, events: Events
    ) -> None:
        """See `Engine.run`."""
        executor = self._executor(needs)
        task = SavedTask(door, str(folder.absolute()), needs.device, needs.ranks)
        try:
            jobs = executor.map_array(task, list(parts))
        except Exception as error:
            raise StoreError(f"Slurm takes no jobs: {error}") from error
        array = jobs[0].job_id.partition("_")[0]
        events.emit("submitted", engine="slurm", job=array, parts=len(parts))
        with _cancelled_at_an_error(array):
            while _under_way(array):
                time.sleep(_POLL_SECONDS)
        for job, part in zip(jobs, parts, strict=True):
            if not job.paths.result_pickle.exists():
                events.say(
                    f"part {part!r} of job {job.job_id} left no word; see {job.paths.stderr}"
                )
            elif (error := job.exception()) is not None:
                raise _of_ours(error, part, job.paths.stderr)

    def _executor(self, needs: Needs) -> Any:
        import submitit

        spec = self._spec
        more = {
            "slurm_partition": spec.partition,
            "slurm_account": spec.account,
            "slurm_constraint": spec.constraint,
            "gpus_per_node": needs.gpus or None,
        }
        exports = [f"export {name}={quote(value)}" for name, value in variables(spec).items()]
        executor = submitit.AutoExecutor(
            self._logs, cluster="slurm", slurm_max_num_timeout=_REQUEUES
        )
        executor.update_parameters(
            name="reseed",
            timeout_min=spec.minutes,
            cpus_per_task=spec.cpus,
            mem_gb=spec.gib,
            slurm_array_parallelism=spec.workers,
            slurm_signal_delay_s=min(_WARNING_SECONDS, 30 * spec.minutes),
            slurm_setup=[*spec.setup, *exports],
            **{name: value for name, value in more.items() if value is not None},
        )
        return executor


def _under_way(array: str) -> bool:
    asked = subprocess.run(
        ["squeue", "-h", "-o", "%i", "-j", array], capture_output=True, text=True, check=False
    )
    # a job that Slurm has forgotten is an error of squeue; a controller that does not answer is not
    return bool(asked.stdout.strip()) or "Unable to contact" in asked.stderr


@contextlib.contextmanager
def _cancelled_at_an_error(array: str) -> Generator[None, None, None]:
    try:
        yield
    except BaseException:
        subprocess.run(["scancel", array], capture_output=True, check=False)
        raise


def _of_ours(error: Exception, part: str, log: Path) -> ReseedError:
    lines = str(error).strip().splitlines()
    return StoreError(f"part {part!r} failed: {lines[-1] if lines else error!r} (see {log})")
