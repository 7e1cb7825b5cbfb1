"""Where the output, the terminal or the folder is broken: one sentence and an exit code."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.cli.surroundings import BROKEN

from reseed.cli import app as commands
from reseed.cli.app import app
from reseed.errors import needs_train

HOME = Path(__file__).parent.parent.parent

CODE = "from reseed.cli import main; main()"
ASCII = {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii:strict", "LC_ALL": "C"}
ENDS = {0, 1, 2, 3, 130, 143}
"""The exit codes that the help names; whatever is broken, there is no other end."""


@pytest.fixture(scope="module")
def arguments(finished, tmp_path_factory):
    """What is given to each command; all of them have something to do."""
    folder = tmp_path_factory.mktemp("saes")
    saes = []
    for name in "ab":
        saes.append(folder / f"{name}.npy")
        np.save(saes[-1], np.random.default_rng(ord(name)).normal(size=(16, 8)).astype(np.float32))
    run = next((finished / "runs").iterdir())
    return {
        "--help": [],
        "--version": [],
        "run": [finished, "--quiet"],
        "plan": [finished],
        "status": [finished],
        "report": [finished],
        "sites": [finished / "study.toml"],
        "keys": [],
        "init": ["--out", folder / "new.toml", "--subject", "toy"],
        "calibrate": ["small", "--toml"],
        "consensus": [finished, "--group", "topk 16", "--found-in", "1", "--k", "2", "-q"],
        "predict": [finished, "--group", "topk 16"],
        "export": [finished, "--out", folder / "latents.csv", "--overwrite"],
        "push": [finished, "hf:me/features", "--dry-run"],
        "work": [finished, "--quiet"],
        "cancel": [finished],
        "cache": [folder],
        "explore": [run, "--no-browser"],  # a folder that is no study, so nothing is served
        "umap": [finished, "--quiet"],
        "demo": ["--out", run],  # a folder that is no study, so nothing is trained
        "explain": [finished, "--dry"],
        "score": [finished],
        "select": [finished, "--run", "toy"],
        "survive": [finished, "--quiet"],  # which names no variant
        "compare": [*saes, "--out", folder / "out", "--quiet"],
        "inspect": [run],
        "convert": [run, folder / "converted", "--to", "sparsify"],
        "architectures": [],
    }


WORKS = (
    "--help", "--version", "run", "status", "report", "sites", "export", "compare", "inspect",
    "architectures", "calibrate",
)  # fmt: skip
"""Commands that print something and end well on the tiny study."""


@pytest.fixture(scope="module")
def ends(arguments, finished, tmp_path_factory):
    """(what is broken, command) to exit code and stderr, of every command."""
    folder = tmp_path_factory.mktemp("broken")
    given = {broken: dict(arguments) for broken in BROKEN}
    for broken in ("no study", "damaged"):
        shutil.copytree(finished, folder / broken)
        study, run = folder / broken, next((folder / broken / "runs").iterdir())
        known = {finished: study, finished / "study.toml": study / "study.toml"}
        known |= {next((finished / "runs").iterdir()): run}
        given[broken] = {
            name: [known.get(word, word) for word in words] for name, words in arguments.items()
        }
        if broken == "no study":
            (study / "study.toml").unlink()
            (study / "study.toml").mkdir()
        for path in [*study.rglob("*.parquet"), *study.rglob("*.safetensors")]:
            path.write_bytes(path.read_bytes()[:20] if broken == "damaged" else path.read_bytes())
    words = {
        broken: {name: [str(word) for word in words] for name, words in each.items()}
        for broken, each in given.items()
    }
    (folder / "given.json").write_text(json.dumps(words))
    code = "tests.cli.surroundings"
    env = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", code, folder / "given.json"],
        capture_output=True, text=True, env=env, cwd=HOME, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = map(json.loads, done.stdout.splitlines())
    return {(line["broken"], line["command"]): (line["code"], line["stderr"]) for line in lines}


def test_every_command_is_tried(arguments):
    assert {info.callback.__name__ for info in app.registered_commands} <= set(arguments)


@pytest.mark.slow
@pytest.mark.timeout(1000)
@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="counts open files in /proc")
@pytest.mark.parametrize("broken", BROKEN)
def test_every_command_ends_with_a_sentence_and_a_known_code(ends, arguments, broken):
    for command in arguments:
        code, stderr = ends[broken, command]
        assert code in ENDS, (command, code, stderr)
        assert "Traceback" not in stderr, (command, stderr)
        assert "fault of reseed" not in stderr or broken.endswith("handles"), (command, stderr)
        assert code in (0, 1) or stderr.strip(), command


def start(command, arguments, **settings):
    env = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1", **settings.pop("env", {})}
    words = [sys.executable, "-c", CODE, command, *map(str, arguments[command])]
    done = subprocess.run(words, stderr=subprocess.PIPE, env=env, timeout=120, **settings)
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return done


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no disk that is always full")
@pytest.mark.parametrize("command", WORKS)
def test_output_to_a_full_disk(arguments, command):
    with open("/dev/full", "wb") as full:
        done = start(command, arguments, stdout=full)
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert b"No space left on device" in done.stderr


@pytest.mark.parametrize("command", WORKS)
def test_a_terminal_that_knows_ascii_alone(arguments, command):
    done = start(command, arguments, stdout=subprocess.PIPE, env=ASCII)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode("ascii")


@pytest.mark.parametrize("command", WORKS)
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
        (ZeroDivisionError("by zero"), "ZeroDivisionError: by zero. This is a fault of reseed"),
        (type("PanicException", (BaseException,), {})("Os { code: 24 }"), "PanicException: Os {"),
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
    assert "pip install 'reseed[train] @ file:///" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("raised", "code"), [("KeyboardInterrupt", 130), ("os.kill(os.getpid(), signal.SIGTERM)", 143)]
)
def test_a_signal_while_modules_are_loaded(tmp_path, raised, code):
    """Importing what the commands need takes seconds, in which people press Ctrl-C."""
    act = f"raise {raised}" if code == 130 else raised
    finder = (
        "import os, signal, sys\n"
        "class Finder:\n    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == 'typer': {act}\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    words = [sys.executable, "-c", finder + CODE]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == code
    assert "the same command continues" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["inspect", "run", "status", "export"])
def test_a_path_of_more_letters_than_there_can_be(cli, command, tmp_path):
    more = ["--out", tmp_path / "x.csv"] if command == "export" else []
    done = cli(command, "a/" * 2500, *more)
    assert done.returncode in (1, 2, 3)
    assert len(done.stderr) < 8000
    assert "too long" in done.stderr
    assert done.stderr.count("\n") == 1
