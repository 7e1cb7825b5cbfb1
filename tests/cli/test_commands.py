"""The commands as a user runs them: exit codes, messages, and what they leave alone."""

import os
import re
import shutil
import signal
from importlib.metadata import version
from pathlib import Path

import pytest
from tests.processes import RESEED, child, until

from reseed.errors import Interrupted, SpecError
from reseed.events import Stop
from reseed.study import Study

COMMANDS = (
    "init", "keys", "run", "plan", "status", "report", "sites", "calibrate", "consensus", "predict",
    "export", "explain", "score", "select", "survive", "compare", "inspect", "convert",
    "architectures",
)  # fmt: skip


def said(done):
    """The message on stderr, as one line."""
    assert done.stderr.startswith("reseed: ")
    return " ".join(done.stderr.split())


@pytest.fixture
def copy(finished, tmp_path):
    """A finished study that may be changed: its TOML, with the folder beside it."""
    shutil.copytree(finished, tmp_path / "tiny")
    return shutil.copy(finished / "study.toml", tmp_path / "tiny.toml")


def test_from_nothing_to_a_report(cli, write_study):
    path = write_study()
    planned = cli("plan", path)
    assert planned.returncode == 0, planned.stderr
    assert "0 done, 2 missing, 0 failed" in planned.stdout
    assert not (path.with_suffix("") / "runs").exists()

    status = cli("status", path)
    assert status.returncode == 0
    assert len(re.findall(r"toy\.\S+ +missing", status.stdout)) == 2
    assert "not yet" in status.stdout

    done = cli("run", path)
    assert done.returncode == 0, done.stderr
    assert "topk 16" in done.stdout
    assert f"Report: {path.with_suffix('')}/report.html" in done.stdout
    assert "train: started" in done.stderr

    status = cli("status", path)
    assert status.returncode == 0
    assert len(re.findall(r"toy\.\S+ +done", status.stdout)) == 2

    planned = cli("plan", path)
    assert planned.returncode == 0
    assert "2 done, 0 missing" in planned.stdout


def test_as_a_process(python, tmp_path):
    done = python("-m", "reseed.cli", "run", tmp_path / "none.toml")
    assert done.returncode == 2
    assert "no file" in said(done)
    assert python("-m", "reseed.cli", "--help").returncode == 0


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help(cli, command):
    done = cli(*command.split(), "--help")
    assert done.returncode == 0
    assert done.stderr == ""
    words = COMMANDS if not command else ("Usage", command)
    assert all(word in done.stdout for word in words)
    assert cli(*command.split(), "-h").stdout == done.stdout
    if command == "architectures":  # square brackets are no markup
        assert '[[sae]] architecture = "NAME"' in done.stdout


def test_version(cli):
    done = cli("--version")
    assert done.returncode == 0
    assert done.stdout == f"reseed {version('reseed')}\n"


@pytest.mark.parametrize("command", ["run", "plan", "status", "report"])
def test_what_cannot_be_leaves_nothing(cli, write_study, tmp_path, command):
    path = write_study(sae=[{"latents": 8, "kk": 2}])
    done = cli(command, path)
    assert done.returncode == 2
    assert "did you mean 'k'" in said(done)
    assert done.stdout == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny.toml"]


@pytest.mark.parametrize("arguments", [["--nonsense"], [], ["a", "b", "c"]])
def test_wrong_usage(cli, arguments):
    done = cli("run", *arguments)
    assert done.returncode == 2
    assert "Usage" in done.stderr


def test_a_study_that_is_not_there(cli, tmp_path):
    done = cli("run", tmp_path / "none.toml")
    assert done.returncode == 2
    assert "no file" in said(done)
    assert list(tmp_path.iterdir()) == []


def test_reading_a_study_that_was_never_run_makes_nothing(cli, write_study):
    path = write_study()
    done = cli("report", path)
    assert done.returncode == 3
    assert "reseed run" in said(done)
    assert cli("status", path).returncode == 0
    assert not path.with_suffix("").exists()


def test_running_again_does_nothing(cli, copy, tmp_path, tree):
    folder = tmp_path / "tiny"
    before = tree(folder)
    times = {p: p.stat().st_mtime_ns for p in folder.rglob("piece.json")}
    assert cli("run", copy, "--quiet").returncode == 0
    assert tree(folder) == before
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("piece.json")} == times
    names = {p.name for p in folder.iterdir()}
    assert names - {p.split("/")[0] for p in before} == {".lock", "events.jsonl", "report.html"}


def test_a_folder_of_results_is_a_study_too(cli, copy, tmp_path, tree):
    os.remove(copy)
    before = tree(tmp_path / "tiny")
    assert cli("run", tmp_path / "tiny", "--quiet").returncode == 0
    assert tree(tmp_path / "tiny") == before


def test_the_report_is_made_anew(cli, copy, tmp_path):
    page = tmp_path / "tiny" / "report.html"
    before = page.read_bytes()
    page.unlink()
    done = cli("report", copy)
    assert done.returncode == 0, done.stderr
    assert str(page) in done.stdout
    assert page.read_bytes() == before


@pytest.mark.parametrize("command", ["run", "plan", "status", "report"])
def test_results_of_another_spec_are_not_touched(cli, copy, tmp_path, tree, write_study, command):
    before = tree(tmp_path, skip=())
    other = write_study("other", subject={"seed": 5, "noise": 0.5}, activations={"tokens": 1344})
    before["other.toml"] = tree(tmp_path, skip=())["other.toml"]
    done = cli(command, other, "--out", tmp_path / "tiny")
    assert done.returncode == 3
    message = said(done)
    for line in ("subject.seed: there 0, now 5", "subject.noise: there 0.01, now 0.5",
                 "activations.tokens: there 1280, now 1344", "--out"):  # fmt: skip
        assert line in message
    assert tree(tmp_path, skip=()) == before


@pytest.mark.parametrize("mine", ["cat.jpg", "study.toml"])
@pytest.mark.parametrize("command", ["run", "plan", "status", "report"])
def test_a_folder_of_somebody_else_is_refused(cli, write_study, tmp_path, tree, command, mine):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / mine).write_bytes(b"# my notes")
    path = write_study()
    before = tree(tmp_path, skip=())
    done = cli(command, path, "--out", tmp_path / "photos")
    assert done.returncode == 3
    assert "is no study" in said(done)
    assert tree(tmp_path, skip=()) == before


def test_results_that_lie_elsewhere_find_what_their_toml_names(write_study, tmp_path):
    subject = {"kind": "arrays", "paths": {"x": "x.npy"}}
    path = write_study("a/there", subject=subject, activations={"sites": ["x"]})
    study = Study.load(path, tmp_path / "b" / "results")
    with study.locked("test"):
        pass
    assert Study.load(study.folder).base == path.parent
    path.parent.rename(tmp_path / "moved")
    assert Study.load(study.folder).base == tmp_path / "b"


def test_the_toml_that_lies_with_results_is_their_folder(finished):
    assert Study.load(finished / "study.toml").folder == finished
    assert Study.load(finished / "study.toml", "other").folder == Path("other")


def test_a_study_without_an_ending_needs_a_folder(write_study, tmp_path):
    path = write_study().rename(tmp_path / "v1.2")
    with pytest.raises(SpecError, match="has no such ending"):
        Study.load(path)
    assert Study.load(path, tmp_path / "out").folder == tmp_path / "out"


def test_an_empty_folder_is_taken(cli, write_study, tmp_path):
    (tmp_path / "empty").mkdir()
    assert cli("plan", write_study(), "--out", tmp_path / "empty").returncode == 0


def test_a_file_in_place_of_the_folder(cli, write_study, tmp_path):
    (tmp_path / "tiny").write_text("x")
    done = cli("run", write_study())
    assert done.returncode == 3
    assert "--out" in said(done)
    assert (tmp_path / "tiny").read_text() == "x"


def test_a_busy_study(cli, copy, tmp_path):
    import reseed

    study = reseed.Study.load(copy)
    with study.store.lock("reseed run in another window"):
        for command in ("run", "plan", "report"):
            done = cli(command, copy)
            assert done.returncode == 3
            assert "reseed run in another window" in said(done)
            assert f"process {os.getpid()}" in said(done)
        assert cli("status", copy).returncode == 0


def test_architectures_are_listed_with_a_line_each(cli):
    from reseed.sae.architectures import ARCHITECTURES

    done = cli("architectures")
    assert done.returncode == 0
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == list(ARCHITECTURES)
    assert all(len(line[1]) > 30 for line in lines)


def test_sites(cli, write_study, tmp_path):
    path = write_study()
    assert cli("sites", path).stdout == "toy\n"
    assert cli("sites", path, "t*").stdout == "toy\n"
    done = cli("sites", path, "tyo")
    assert done.returncode == 2
    assert "did you mean 'toy'" in said(done)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny.toml"]
    for typo in ("tiyn.toml", "net.py", "models/tiny.gguf", "./tiny"):
        done = cli("sites", typo)
        assert done.returncode == 2, "no hub is asked for what is no name of a model"
        assert typo in said(done)


def test_markup_in_names_is_shown_as_it_is(cli, tmp_path):
    done = cli("run", tmp_path / "[bold]x[", "--out", "[/red]")
    assert done.returncode == 2
    assert "[bold]x[" in said(done)


# -- signals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_at_a_checkpoint(cli, write_study, signum, code):
    path = write_study(training={"tokens": 64_000_000, "checkpoint_tokens": 64_000_000})
    events = path.with_suffix("") / "events.jsonl"
    with child(*RESEED, "run", path, "--quiet") as process:
        until(lambda: events.exists() and '"metrics"' in events.read_text(), process)
        process.send_signal(signum)
        message, _ = process.communicate(timeout=120)
    assert process.returncode == code
    assert "the same command continues" in message
    assert "Traceback" not in message
    status = cli("status", path).stdout
    assert len(re.findall(r"[1-9][\d,]* of 64,000,000 tokens", status)) == 2
    assert (path.with_suffix("") / ".lock").read_text() == ""


def test_a_signal_in_a_deferred_block_ends_it_at_the_latest():
    done = []

    def work():
        with stop.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("all")

    with Stop().listening() as stop, pytest.raises(Interrupted) as caught:
        work()
    assert done == ["all"]
    assert caught.value.exit_code == 143


def test_a_second_signal_is_not_deferred():
    done = []

    def work():
        with stop.deferred():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("some")
            os.kill(os.getpid(), signal.SIGINT)
            done.append("all")

    with Stop().listening() as stop, pytest.raises(Interrupted):
        work()
    assert done == ["some"]


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with Stop().listening():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


# -- small things ----------------------------------------------------------------------------------


def test_a_run_without_its_weights_is_damaged_and_not_done(cli, copy, tmp_path, tree):
    before = tree(tmp_path / "tiny")
    run = sorted((tmp_path / "tiny" / "runs").iterdir())[0]
    (run / "sae.safetensors").unlink()
    status = cli("status", copy)
    assert status.returncode == 0
    assert re.search(rf"{run.name}\s+damaged", status.stdout)
    done = cli("run", copy, "--quiet")
    assert done.returncode == 3
    assert f"{run} is damaged: sae.safetensors is missing. Delete that folder" in said(done)
    shutil.rmtree(run)
    assert cli("run", copy, "--quiet").returncode == 0
    assert tree(tmp_path / "tiny") == before


def test_an_export_of_nothing_says_so(cli, finished, tmp_path):
    done = cli("export", finished, "--out", tmp_path / "x.csv", "--where", "firing_rate > 2")
    assert done.returncode == 0
    assert "none of 48 latents fits 'firing_rate > 2'" in done.stderr


def test_records_show_themselves_shortly():
    import numpy as np

    import reseed

    rows = np.random.default_rng(0).normal(size=(300, 8))
    text = repr(reseed.match(rows, rows))
    assert text.startswith("Match(300 pairs, similarity mean 1.000, median 1.000, proven optimal)")
    assert reseed.__version__ == version("reseed")
