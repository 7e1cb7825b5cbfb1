"""How several processes become the ranks of one run. Read without torch.

`torchrun` starts the same command as often as there are to be ranks. The first does it; the others
serve it: they wait for orders, and hold their part of every run whose `blocks` is above 1.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from collections.abc import Generator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from reseed.errors import StoreError, SubjectError, TrainingError, needs_train

if TYPE_CHECKING:
    from reseed.subjects.over_ranks.spread import SpreadModel
    from reseed.training.shards.learner import BlockLearner
    from reseed.training.shards.ranks import RankGroup

_PATIENCE = timedelta(days=30)
"""For which a rank waits: the first one does much between two orders, such as a harvest."""
_LEFT_TO_THE_FIRST = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


_TOLD = ("RANK", "WORLD_SIZE", "MASTER_ADDR")
"""What `torchrun` tells each process of the others."""
_joined: list[RankGroup] = []
"""what this process has joined, while it has"""


def world_size() -> int:
    """How many processes share runs: those that were started together with this one."""
    if _joined:
        return _joined[-1].size
    return int(os.environ["WORLD_SIZE"]) if all(name in os.environ for name in _TOLD) else 1


def joined() -> RankGroup | None:
    """The ranks that this process is one of; None if it was started alone."""
    return _joined[-1] if _joined else None


def command(count: int, arguments: Sequence[str]) -> list[str]:
    """What starts `reseed ARGUMENTS` as so many ranks on this machine."""
    start = "--standalone", "--nproc-per-node", str(count), "-m", "reseed.cli"
    return [sys.executable, "-m", "torch.distributed.run", *start, *arguments]


@contextlib.contextmanager
def ranks() -> Generator[bool, None, None]:
    """Join the ranks that were started together; whether this is the first, which does the work.

    On the others the block begins when the first one is done with it, and there is nothing to do.
    A process that was started alone is the first.

    Raises:
        TrainingError: if another rank is gone.
    """
    if world_size() == 1:
        yield True
        return
    with needs_train("several ranks"):
        import torch.distributed as dist

    dist.init_process_group(_backend(), timeout=_PATIENCE)
    from reseed.training.shards.ranks import RankGroup

    all_ranks = RankGroup()
    _joined.append(all_ranks)
    for name in _TOLD:  # what this process starts is no rank
        del os.environ[name]
    try:
        if all_ranks.rank == 0:
            try:
                yield True
            except RuntimeError as error:
                raise _lost(all_ranks, error) if "gloo" in str(error) else error from error
            finally:
                with contextlib.suppress(RuntimeError):  # there may be no one left
                    all_ranks.order(do="end")
        else:
            serve(all_ranks)
            yield False
    finally:
        _joined.clear()
        gc.collect()  # spread models hold groups in cycles; freed at exit, gloo's threads abort
        dist.destroy_process_group()


def _backend() -> str:
    """For tensors of the CPU gloo; where there are GPUs, NCCL for theirs."""
    import torch

    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


def serve(all_ranks: RankGroup) -> None:
    """Do what the first rank asks for until it says that this was all.

    Raises:
        TrainingError: if it is gone.
    """
    for number in _LEFT_TO_THE_FIRST:  # it saves everything first, and then says so
        signal.signal(number, signal.SIG_IGN)
    learners: dict[int, BlockLearner] = {}
    looks: dict[int, Any] = {}
    held: SpreadModel | None = None
    while True:
        try:
            order = all_ranks.order()
            if order["do"] == "end":
                return
            if "learner" in order:
                _obey(order, learners, looks, all_ranks)
            else:
                held = _hold(order, held, all_ranks)
        except RuntimeError as error:
            raise _lost(all_ranks, error) from error


def _hold(
    order: Mapping[str, Any], held: SpreadModel | None, all_ranks: RankGroup
) -> SpreadModel | None:
    """Hold a part of a subject, or make a pass of it."""
    from reseed.subjects.over_ranks.spread import follow

    if order["do"] == "pass":
        return follow(order, held, all_ranks)
    with contextlib.suppress(SubjectError):  # which the first one raises too
        held = follow(order, held, all_ranks)
    return held


def _lost(all_ranks: RankGroup, error: Exception) -> TrainingError:
    cause = " ".join(str(error).split())[:200]
    return TrainingError(
        f"rank {all_ranks.rank} of {all_ranks.size} has lost the others ({cause}): one of them has "
        "ended, look at what it said. Start all again; runs go on at their last checkpoint"
    )


def _obey(
    order: Mapping[str, Any],
    learners: dict[int, BlockLearner],
    looks: dict[int, Any],
    all_ranks: RankGroup,
) -> None:
    """Do the part of this rank; what the first one raises too is its to say."""
    import torch

    from reseed.training.shards.learner import BlockLearner

    number = order["learner"]
    if order["do"] == "begin":
        for done in [n for n, learner in learners.items() if learner.over]:
            del learners[done]
        learners[number] = BlockLearner.follow(order, all_ranks)
        return
    learner = learners[number]
    with contextlib.suppress(StoreError, TrainingError):
        match order["do"]:
            case "look":
                x = torch.empty(order["rows"], len(learner.parameters["b_dec"]))
                looks[number] = learner.look_too(x)
            case "apply":
                learner.apply_too(looks.pop(number), order["rows"])
            case "collect":
                learner.collect()
            case "check":
                learner.check_too()
            case "write":
                learner.write(order["folder"])
            case "read":
                learner.read(order["folder"], order["step"])
            case what:
                raise RuntimeError(f"{what!r} is no order")
