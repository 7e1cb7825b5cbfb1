"""Runs every command in broken surroundings, each in a copy of one process, which is cheap.

`python surroundings.py ARGUMENTS.json` takes command to its arguments for each of `BROKEN` and
prints a line of JSON for each: what was broken, the command, its exit code, its stderr.
"""

import importlib
import io
import json
import os
import resource
import signal
import sys
import tempfile

from tests.faults import HEAVY, forked


def full_disk():
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def closed():
    os.close(1)
    sys.stdout = None


def ascii_alone():
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w"), encoding="ascii", errors="strict")


def folder_gone():
    gone = tempfile.mkdtemp()
    os.chdir(gone)
    os.rmdir(gone)


def no_home():
    for name in ("HOME", "USER", "LOGNAME", "XDG_CACHE_HOME", "PATH", "TERM"):
        os.environ.pop(name, None)


def handles(more):
    def limit():
        used = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + more, used + more))

    return limit


def small_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))


def nothing():
    pass


BROKEN = {
    "full disk": full_disk,
    "closed": closed,
    "ascii": ascii_alone,
    "folder gone": folder_gone,
    "no home": no_home,
    "0 handles": handles(0),
    "2 handles": handles(2),
    "5 handles": handles(5),
    "small files": small_files,
    "no study": nothing,
    "damaged": nothing,
}


def command(name, arguments, spoil):
    from reseed.cli import main

    sys.argv = ["reseed", name, *arguments]
    signal.alarm(100)
    spoil()
    main()


def serve(given):
    for name in (*HEAVY, "reseed.cli.app", "reseed.pipeline.plan", "reseed.prediction.predict"):
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    out, silent = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    for broken, spoil in BROKEN.items():
        for name, arguments in given.get(broken, {}).items():
            with tempfile.TemporaryFile() as stderr:
                os.dup2(silent, 1)
                os.dup2(stderr.fileno(), 2)
                code = forked(lambda n=name, a=arguments, s=spoil: command(n, a, s))
                stderr.seek(0)
                text = stderr.read().decode(errors="replace")
            line = {"broken": broken, "command": name, "code": code, "stderr": text}
            os.write(out, (json.dumps(line) + "\n").encode())


if __name__ == "__main__":
    with open(sys.argv[1]) as handle:
        given = json.load(handle)
    serve(given)
