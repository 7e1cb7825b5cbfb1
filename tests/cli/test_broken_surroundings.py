"""Where the output, the terminal or the folder is broken: one sentence and an exit code."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest

from reseed import cli as commands
from reseed.errors import needs_train

CODE = "from reseed.cli import main; main()"
COMMANDS = ("--help", "status", "run", "inspect", "compare")
ASCII = {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii:strict", "LC_ALL": "C"}


@pytest.fixture(scope="module")
def arguments(finished, tmp_path_factory):
    """What is given to each command."""
    folder = tmp_path_factory.mktemp("saes")
    saes = []
    for name in "ab":
        saes.append(folder / f"{name}.npy")
        np.save(saes[-1], np.random.default_rng(ord(name)).normal(size=(16, 8)).astype(np.float32))
    run = next((finished / "runs").iterdir())
    return {
        "--help": [],
        "status": [finished],
        "run": [finished, "--quiet"],
        "inspect": [run],
        "compare": [*saes, "--out", folder / "out", "--quiet"],
    }


def start(command, arguments, **settings):
    env = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1", **settings.pop("env", {})}
    words = [sys.executable, "-c", CODE, command, *map(str, arguments[command])]
    done = subprocess.run(words, stderr=subprocess.PIPE, env=env, timeout=120, **settings)
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return done


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no disk that is always full")
@pytest.mark.parametrize("command", COMMANDS)
def test_output_to_a_full_disk(arguments, command):
    with open("/dev/full", "wb") as full:
        done = start(command, arguments, stdout=full)
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert b"No space left on device" in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_a_terminal_that_knows_ascii_alone(arguments, command):
    done = start(command, arguments, stdout=subprocess.PIPE, env=ASCII)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode("ascii")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_current_folder_that_is_gone(arguments, command, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    leave = f"import os; os.rmdir({str(gone)!r})\n"
    words = [sys.executable, "-c", leave + CODE, command, *map(str, arguments[command])]
    done = subprocess.run(words, capture_output=True, text=True, cwd=gone, timeout=120)
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 1)
    assert done.returncode == 0 or "current folder has been deleted" in done.stderr


def test_a_reader_that_has_gone(arguments):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as pipe:
        done = start("status", arguments, stdout=pipe)
    assert done.returncode == 1


def test_no_output_and_no_errors_can_be_written(arguments):
    words = f"exec {sys.executable} -c {CODE!r} --help >&- 2>&-"
    assert subprocess.run(["sh", "-c", words], timeout=120).returncode == 0


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError("8 GiB"), "not enough memory"),
        (RecursionError("maximum depth"), "nested too deeply"),
        (UnicodeEncodeError("ascii", "\u2013", 0, 1, "no such character"), "cannot be encoded"),
        (OSError(errno.EIO, "Input/output error", "x.npy"), "Input/output error (x.npy)"),
    ],
)
@pytest.mark.parametrize("debug", ["", "1"])
def test_an_error_is_one_sentence(cli, monkeypatch, error, words, debug):
    def fail():
        raise error

    monkeypatch.setattr(commands, "app", fail)
    monkeypatch.setenv("RESEED_DEBUG", debug)
    done = cli()
    assert done.returncode == 1
    assert words in done.stderr
    assert ("Traceback" in done.stderr) == bool(debug)
    assert debug or done.stderr.count("\n") == 1


def test_a_missing_extra_is_named_wherever_it_is_missed(cli, monkeypatch):
    def fail():
        with needs_train("reseed.compare with activations"):
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(commands, "app", fail)
    done = cli()
    assert done.returncode == 2
    assert "pip install 'reseed[train]'" in done.stderr
    assert "Traceback" not in done.stderr
