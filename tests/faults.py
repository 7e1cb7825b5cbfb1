"""Faults at the n-th change of the file system, and a server that forks studies to be killed.

`python faults.py STUDY OUT MODE N [N ...]` runs the study once for each N in a process of its own;
at the N-th change (0: never) the process is killed (`kill`) or gets a signal (`term`, `int`). It
prints the exit status of each; a status below 0 is the signal that killed it. What each one left
is kept as `OUT.0`, `OUT.1`, ... With the modes `work` and `full` four at a time share the study
(`reseed work`), each killed at its own change, or without space from there on. Importing torch once
for all of them makes many kills cheap.
"""

import contextlib
import errno
import importlib
import os
import shutil
import signal
import sys
import traceback
from functools import partial

HEAVY = (
    "reseed.subjects.shards",
    "reseed.evidence.function",
    "reseed.evidence.stage",
    "reseed.pipeline.run",
    "reseed.subjects.subject",
    "reseed.training.step.fast",  # numba tries its cache folder for each loop, which would count
    "reseed.training.stage",
    "torch._dynamo",  # the first optimiser step would import it, in every copy anew
)
CALLS = ("fsync", "rename", "replace", "unlink", "rmdir", "mkdir")


@contextlib.contextmanager
def at_call(number, act, onwards=False):
    """Call `act(name, args)` before the n-th change (and all later ones); yields their count."""
    count, before = [0], {name: getattr(os, name) for name in CALLS}

    def wrap(name):
        def call(*args, **kwargs):
            count[0] += 1
            if count[0] == number or (onwards and count[0] > number):
                act(name, args)
            return before[name](*args, **kwargs)

        return call

    for name in CALLS:
        setattr(os, name, wrap(name))
    try:
        yield count
    finally:
        for name, original in before.items():
            setattr(os, name, original)


def die(name, args):
    """SIGKILL; half of what was not synced yet is lost."""
    if name == "fsync":
        with contextlib.suppress(OSError):
            os.ftruncate(args[0], os.fstat(args[0]).st_size // 2)
    os.kill(os.getpid(), signal.SIGKILL)


def no_space(_name, _args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def interrupt(signum):
    return lambda _name, _args: os.kill(os.getpid(), signum)


def forked(work):
    """Exit status of a copy of this process that does the work."""
    return os.waitstatus_to_exitcode(os.waitpid(fork(work), 0)[1])


def fork(work):
    """Process of a copy that does the work."""
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            status = work() or 0
        except SystemExit as error:
            status = error.code or 0
        except BaseException:  # noqa: BLE001  (a copy must not go on as the original)
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def beside_each_other(works, most=4):
    """Exit statuses of copies, up to four at a time, in the order in which they end."""
    waiting, under_way, statuses = list(works), 0, []
    while waiting or under_way:
        while waiting and under_way < most:
            fork(waiting.pop(0))
            under_way += 1
        statuses.append(os.waitstatus_to_exitcode(os.wait()[1]))
        under_way -= 1
    return statuses


def serve(study, out, mode, numbers):
    for name in HEAVY:
        importlib.import_module(name)
    import torch

    from reseed.cli import main

    torch.set_num_threads(1)
    act = {
        "kill": die,
        "term": interrupt(signal.SIGTERM),
        "int": interrupt(signal.SIGINT),
        "work": die,
        "full": no_space,
    }[mode]
    shared = mode in ("work", "full")
    command = "work" if shared else "run"

    def run(number):
        if number < 0:
            shutil.rmtree(out)
            sys.exit()
        sys.argv = ["reseed", command, study, "--out", out, "--quiet"]
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        with at_call(number, act, onwards=mode == "full" and number > 0):
            main()

    if shared:
        print(*beside_each_other([partial(run, number) for number in numbers]))  # noqa: T201
        return
    for place, number in enumerate(numbers):
        print(forked(partial(run, number)), flush=True)  # noqa: T201
        if os.path.isdir(out):
            shutil.copytree(out, f"{out}.{place}")


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], sys.argv[3], [int(n) for n in sys.argv[4:]])
