"""A study that is killed at any moment and run again ends bit-identical to one never stopped.

The work is done by `faults.py`: it kills itself at the n-th change of the file system, so that
every stage is hit, in the middle of what it writes.
"""

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import reseed
from reseed.runs import OWNED
from reseed.study import Study

SERVER = Path(__file__).parent / "faults.py"


@pytest.fixture
def undisturbed(finished, tree):
    return tree(finished, skip=(".lock", "events.jsonl"))


@pytest.fixture
def attack(finished, tmp_path):
    """Runs the study once for each number, killed at that change; gives exit statuses."""

    def run(mode, numbers, folder="tiny", study=finished / "study.toml"):
        command = [sys.executable, SERVER, study, tmp_path / folder, mode]
        done = subprocess.run(
            [*map(str, command), *map(str, numbers)], capture_output=True, text=True, timeout=280
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        assert "Warning" not in done.stderr, done.stderr
        return [int(line) for line in done.stdout.split()]

    return run


SIGNALS = [("term", 143), ("int", 130)]


def draws(seed, count, low, high):
    draw = random.Random(seed)
    return [draw.randint(low, high) for _ in range(count)]


@pytest.mark.parametrize(
    ("mode", "code"),
    [("kill", -9), *(pytest.param(*signal, marks=pytest.mark.slow) for signal in SIGNALS)],
)
def test_killed_again_and_again(attack, undisturbed, tree, tmp_path, mode, code):
    """Each start goes on where the last one was killed, until one comes through."""
    statuses = attack(mode, [*draws(0, 10, 5, 130), 0])
    assert set(statuses) <= {code, 0}
    assert statuses.count(code) >= 5
    assert statuses[-1] == 0
    assert tree(tmp_path / "tiny", skip=(".lock", "events.jsonl")) == undisturbed


@pytest.mark.slow
def test_controls_killed_again_and_again(attack, write_study, tree, tmp_path):
    """Made-up activations, their moments and rows held in place go on as they were."""
    kinds = ["gaussian", "shuffled", "soft_frozen_decoder"]
    path = write_study("controls", controls={"kinds": kinds})
    study = Study.load(path)
    reseed.run(study, progress=False)
    statuses = attack("kill", [*draws(3, 10, 20, 150), 0], study=path)
    assert statuses.count(-9) >= 5
    assert statuses[-1] == 0
    skip = (".lock", "events.jsonl", "summary.json", "report.html")  # these say the folder's name
    assert tree(tmp_path / "tiny", skip=skip) == tree(study.folder, skip=skip)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_killed_very_often(attack, undisturbed, tree, tmp_path, seed):
    statuses = attack("kill", [*draws(seed + 1, 40, 1, 60), 0])
    assert statuses.count(-9) >= 15
    assert statuses[-1] == 0
    assert tree(tmp_path / "tiny", skip=(".lock", "events.jsonl")) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["kill", "term"])
def test_killed_once_at_every_change(attack, undisturbed, tree, tmp_path, mode):
    """Every seventh, from a fresh start each time; then one undisturbed start must do."""
    numbers = range(1, 210, 7)
    statuses = attack(mode, [n for number in numbers for n in (number, 0, -1)])
    assert statuses[0] != 0
    assert set(statuses[1::3]) == set(statuses[2::3]) == {0}
    for place in range(1, 3 * len(numbers), 3):
        left = tree(tmp_path / f"tiny.{place}", skip=(".lock", "events.jsonl"))
        assert left == undisturbed, place


def test_what_is_left_can_be_read(attack, tmp_path):
    """After a kill at any time `status` and the readers work on what there is."""
    numbers = (1, 3, 30, 90, 110, 130, 150)
    attack("kill", numbers)
    seen = set()
    for place in range(len(numbers)):
        folder = tmp_path / f"tiny.{place}"
        if not (folder / "study.toml").exists():
            continue
        study = Study.load(folder)
        study.check_folder()
        seen |= {run.state.state for run in study.runs}
        done = [run for run in study.runs if run.state.state == "done"]
        assert all(run.metrics().height == 40 for run in done)
        assert all(match.table().height > 0 for match in study.matches)
    assert seen == {"missing", "done"}


def test_a_sealed_run_is_moved_not_made_again(finished, tmp_path, tree):
    """Killed between the seal and the move: nothing of the run is left to do."""
    shutil.copytree(finished, tmp_path / "tiny")
    study = Study.load(tmp_path / "tiny")
    before = tree(study.folder)
    run = study.runs[0]
    folder = study.folder / "runs" / run.id
    other = study.folder / "runs" / study.runs[1].id
    part = folder.with_name(f"{run.id}.part")
    part.mkdir()
    folder.rename(part / "of a process that is gone")
    shutil.rmtree(other)
    reseed.run(study, progress=False)
    assert tree(study.folder) == before


def test_a_damaged_checkpoint(write_study, tree, faults, monkeypatch):
    """The message says which folder to delete; then only that run starts over."""
    from reseed.errors import Interrupted
    from reseed.training.work import Work

    whole = Study.load(write_study("whole/tiny"))
    reseed.run(whole, progress=False)
    study = Study.load(write_study("harmed/tiny"))
    checkpoint, count = Work.checkpoint, [0]

    def stop(self):
        checkpoint(self)
        count[0] += 1
        if count[0] == 2:
            raise Interrupted(15)

    monkeypatch.setattr(Work, "checkpoint", stop)
    with pytest.raises(Interrupted):
        reseed.run(study, progress=False)
    monkeypatch.undo()
    assert [run.state.tokens_done for run in study.runs] == [640, 640]
    part = study.folder / "runs" / f"{study.runs[0].id}.part"
    (checkpoint,) = part.glob("*/checkpoint.safetensors")
    for harm in (b"", b"garbage", checkpoint.read_bytes()[:-10]):
        (checkpoint,) = part.glob("*/checkpoint.safetensors")
        checkpoint.write_bytes(harm)
        with pytest.raises(reseed.StoreError, match=r"checkpoint\.safetensors.*Delete .*\.part"):
            reseed.run(study, progress=False)
    shutil.rmtree(part)
    assert [run.state.tokens_done for run in study.runs] == [0, 640]
    reseed.run(study, progress=False)
    assert tree(study.folder) == tree(whole.folder)


@pytest.mark.parametrize("text", ["{", "[]", "{}", ""])
def test_a_damaged_progress_file(write_study, finished, tmp_path, text):
    """It is for people; a bad one is named like any other file."""
    path = write_study()
    study = Study.load(path)
    reseed.plan(study)
    part = study.folder / "runs" / f"{study.runs[0].id}.part" / "of a process that is gone"
    part.mkdir(parents=True)
    (part / OWNED).touch()
    (part / "progress.json").write_text(text)
    with pytest.raises(reseed.StoreError, match=r"progress\.json.*Delete it"):
        _ = study.runs
    (part / "progress.json").unlink()
    assert reseed.run(study, progress=False).failed == []


def test_runs_trained_together_killed_again_and_again(attack, write_study, tree, tmp_path):
    """One checkpoint for all of them: they are never at different steps."""
    mutual = {"alpha": 0.5, "refresh": 3, "restart_above": 1.5, "restarts": 2}
    path = write_study("mutual", sae=[{"latents": 16, "k": 2, "lr": 3e-3, "mutual": mutual}])
    study = Study.load(path)
    reseed.run(study, progress=False)
    statuses = attack("kill", [*draws(5, 10, 5, 100), 0], study=path)
    assert statuses.count(-9) >= 5
    assert statuses[-1] == 0
    skip = (".lock", "events.jsonl", "summary.json", "report.html")  # these say the folder's name
    assert tree(tmp_path / "tiny", skip=skip) == tree(study.folder, skip=skip)
