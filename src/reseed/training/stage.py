"""The door of training: makes the missing runs of a study, all of a data seed in one pass.

Where they do not fit into memory together, they are split over passes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

import torch

from reseed.errors import BusyError
from reseed.events import Events, Stop
from reseed.formats.starts.checksums import read_start
from reseed.runs import Missing, run_name, run_state
from reseed.sae.architectures.baselines import Fitted
from reseed.spec.training import Control, RunSpec
from reseed.store import Process, Store, working
from reseed.study import SUBJECT, Study
from reseed.subjects.inputs import Inputs
from reseed.subjects.source import Stream
from reseed.training.device import free_memory, passes, units
from reseed.training.run_folder import RunFolder
from reseed.training.scale import BatchStream, centres_of, scales_of
from reseed.training.shards.learner import learners_of, refuse_device
from reseed.training.through import block_streams, check_sites
from reseed.training.work import Work, train_all


def stage(
    study: Study,
    events: Events,
    inputs: Inputs,
    stop: Stop | None = None,
    device: str = "cpu",
    only: Collection[str] | None = None,
) -> None:
    """Train the runs of a study that are missing.

    Args:
        study: of the runs.
        events: progress.
        inputs: the activations.
        stop: asked between steps; everything is saved before it raises.
        device: as `device.chosen` gave it.
        only: names of the pieces that may be made; those that another process is at are left to it.

    Raises:
        BusyError: if another process is at a run, and all are to be made.
        Interrupted: after a signal.
        SpecError: if the subject cannot be trained through.
        SubjectError: if the activations are NaN or infinite.
        StoreError: if the disk is full or a checkpoint damaged.
    """
    missing = _missing((run.spec for run in study.runs), study.store)
    if only is not None:
        missing = [run for run in missing if run_name(run) in only]
    for run in missing:
        refuse_device(run, device)
    refuse_starts(missing, study.store)
    if any(run.reads == "random_subject" for run in missing):
        inputs.check_random_subject()  # before the others have taken their time
    through = [run for run in missing if run.sae.end_to_end is not None]
    if through:
        check_sites(inputs, through)
    by_activations: dict[Control | None, list[RunSpec]] = {}
    for run in missing:
        if run.sae.end_to_end is None:
            by_activations.setdefault(run.reads, []).append(run)
    for reads, runs in by_activations.items():
        train_missing(
            runs, rows_of(study, inputs, events, reads), study.store, events, stop, device
        )
    if through:
        blocks = block_streams(inputs, through, study.spec.training.batch)
        scales = scales_of(study, inputs, events)

        def stream_of(data_seed: int) -> BatchStream:
            return BatchStream(blocks(data_seed), scales)

        train_missing(through, stream_of, study.store, events, stop, device)
    if only is None:
        _refuse_others(missing, study.store)


def refuse_starts(runs: Iterable[RunSpec], store: Store) -> None:
    """Refuse what does not fit these sites, before activations are read: widths, and starts."""
    about = store.document(SUBJECT, "subject.json")
    sizes = about["read"] | about["sites"]
    for sae, site, target in {(r.sae, r.site, r.target) for r in runs}:
        sae.check_width(sizes[site])
        if sae.published:
            read_start(sae, (sizes[site], sizes[target]))


def _refuse_others(runs: Sequence[RunSpec], store: Store) -> None:
    """Say of runs that another process is still at that nothing can be said of them yet."""
    for run in _missing(runs, store):
        process = store.owner_of(run_name(run))
        raise BusyError(
            f"run {run.id} is being trained by {process or 'another process'}. Wait for it or stop "
            "it (`reseed status` shows it), then run this again; what is done is kept."
        )


def rows_of(
    study: Study, inputs: Inputs, events: Events, control: Control | None = None
) -> Callable[[int], BatchStream]:
    """Data seed to the rows that runs of a study learn from, or runs of a kind of control."""
    data, spec = inputs.data(control), study.spec
    scales = scales_of(study, inputs, events, control)
    centres = centres_of(study, inputs, events, control)

    def stream_of(data_seed: int) -> BatchStream:
        stream = Stream(
            data.source,
            data.training,
            data_seed=data_seed,
            batch=spec.training.batch,
            mix=spec.activations.mix_blocks,
            ahead=data.on_disk,
        )
        return BatchStream(stream, scales, centres)

    return stream_of


def _missing(runs: Iterable[RunSpec], store: Store) -> list[RunSpec]:
    return [run for run in runs if isinstance(run_state(run, store), Missing)]


def train_missing(
    runs: Sequence[RunSpec],
    stream_of: Callable[[int], BatchStream],
    store: Store,
    events: Events,
    stop: Stop | None = None,
    device: str = "cpu",
) -> None:
    """Train those of these runs that are missing; all learn from the same activations.

    `stream_of` gives the batches of a data seed; the rest is as `stage` has it.
    """
    missing = _missing(runs, store)
    with working(store.root, stop and stop.end, part="train") as process:
        _train(missing, stream_of, store, process, events, stop, device)


def _train(
    missing: Sequence[RunSpec],
    stream_of: Callable[[int], BatchStream],
    store: Store,
    process: Process,
    events: Events,
    stop: Stop | None,
    device: str,
) -> None:
    for data_seed in sorted({run.data_seed for run in missing}):
        of_seed = [run for run in missing if run.data_seed == data_seed]
        stream = stream_of(data_seed)
        dimensions = {site: x.shape[1] for site, x in stream.batch(0).items()}
        groups = passes(of_seed, dimensions, _free(device))
        if len(groups) > 1:
            events.say(
                f"{len(of_seed)} runs do not fit into the free memory together; "
                f"they are trained in {len(groups)} passes"
            )
        for together in groups:
            work = work_of(together, stream, store, process, device)
            for sae in dict.fromkeys(w.run.sae for w in work if w.step == 0):
                if isinstance(sae, Fitted):
                    events.say(sae.found_from(together[0].training.tokens))
            train_all(work, stream.batch, events, through=stream.through, stop=stop, device=device)


def work_of(
    runs: Sequence[RunSpec],
    stream: BatchStream,
    store: Store,
    process: Process,
    device: str = "cpu",
) -> list[Work]:
    """What is to be moved on for these runs of one data seed, all missing, ensembles whole.

    Those already sealed are put in place; those that another process is at are left to it.
    """
    out: list[Work] = []
    for unit in units(runs):
        seeds = unit[0].ensemble or (unit[0].init_seed,)
        if not process.claim(run_name(unit[-1])):
            continue
        if len(unit) > len(_missing(unit, store)):
            continue  # finished by another while this one looked
        folders = {
            seeds.index(run.init_seed): RunFolder(run, store, process, device) for run in unit
        }
        out.append(Work(learners_of(unit[0], seeds, stream, device), folders))
    return [work for work in out if work.alive]


def _free(device: str) -> int | None:
    if torch.device(device).type == "cpu":
        return free_memory()
    return torch.cuda.mem_get_info(device)[0]
