"""Processes that share a study end with the bytes of one alone, however often they are killed."""

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.processes import RESEED, children, until

import reseed
from reseed.cluster.engine import EngineSpec, read_engine
from reseed.errors import SpecError
from reseed.events import Events
from reseed.pipeline.parts import STAGES, Division, Part, read_share
from reseed.pipeline.work import work
from reseed.store import workers
from reseed.study import Study
from reseed.subjects.inputs import Inputs

SERVER = Path(__file__).parents[1] / "faults.py"


def ended(process):
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0, out
    assert "Traceback" not in out
    return out


def test_two_processes_make_what_one_makes(finished, tmp_path, same_pieces):
    study, out = finished / "study.toml", tmp_path / "tiny"
    work = (*RESEED, "work", study, "--out", out, "--share")
    with children((*work, "1/2"), (*work, "2/2")) as processes:
        for process in processes:
            ended(process)
    assert same_pieces(out, finished)
    assert reseed.Study.load(out).summary["groups"]
    assert not list((out / "work").glob("*.process"))


def beside_each_other(mode, numbers, study, out):
    """Exit statuses of processes, four at a time, each disturbed at its own change (0: never)."""
    command = map(str, [sys.executable, SERVER, study, out, mode, *numbers])
    done = subprocess.run([*command], capture_output=True, text=True, timeout=560)
    assert "Traceback" not in done.stderr, done.stderr
    return [int(status) for status in done.stdout.split()]


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_fifty_kills_over_four_processes(finished, tmp_path, same_pieces):
    draw = random.Random(0)
    numbers = [draw.randint(5, 60) for _ in range(60)] + [0] * 4
    statuses = beside_each_other("work", numbers, finished / "study.toml", tmp_path / "tiny")
    assert set(statuses) == {0, -9}
    assert statuses.count(-9) >= 50
    assert same_pieces(tmp_path / "tiny", finished)


@pytest.mark.slow
def test_a_full_disk_at_some_ends_those(finished, tmp_path, same_pieces):
    draw = random.Random(1)
    numbers = [draw.randint(5, 60) for _ in range(8)] + [0] * 2
    statuses = beside_each_other("full", numbers, finished / "study.toml", tmp_path / "tiny")
    assert set(statuses) == {0, 3}
    assert same_pieces(tmp_path / "tiny", finished)


@pytest.mark.slow
def test_run_on_this_machines_processes(finished, tmp_path, same_pieces, cli):
    done = cli(
        "run", finished / "study.toml", "--out", tmp_path / "tiny", "--on", "local", "--workers", 2
    )
    assert done.returncode == 0, done.stderr
    assert "train: 2 parts on local, 2 workers" in done.stderr
    assert same_pieces(tmp_path / "tiny", finished)
    again = cli("run", tmp_path / "tiny", "--on", "local")
    assert again.returncode == 0
    assert "parts" not in again.stderr


@pytest.mark.parametrize("text", ["train 0/2", "train 3/2", "train", "sleep 1/2", "train 1/x"])
def test_a_part_that_is_none(text):
    with pytest.raises(SpecError, match="share|part of a stage"):
        Part.read(text)
    assert str(Part.read("co-firing 2/3")) == "co-firing 2/3"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("engine = 3", "engine = 3 is no table; write .engine."),
        ("[engine]\nworkers = 0", "workers: it must be at least 1"),
        ("workers = -1", "workers: it must be at least 1"),
        ("cpus = 0", "cpus: it must be at least 1"),
        ("ranks = 0", "ranks: it must be at least 1"),
        ("minutes = 0", "minutes: it must be at least 1"),
        ("gpus = -1", "gpus: it must be at least 0"),
        ("subject_ranks = -1", "subject_ranks: it must be at least 0"),
        ("gib = 0", "gib: it must be greater than 0"),
        ("price = -1", "price: it must be at least 0"),
    ],
)
def test_an_engine_that_cannot_be(tmp_path, text, words):
    (tmp_path / "engine.toml").write_text(text)
    with pytest.raises(SpecError, match=words):
        read_engine(tmp_path / "engine.toml")


def test_shares():
    assert read_share("3/16") == (3, 16)


def test_a_stage_that_is_none(finished):
    with pytest.raises(SpecError, match="no stage 'sleep'; stages are harvest, train"):
        work(Study.load(finished), stage="sleep")


def test_parts_hold_every_piece_once(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "tiny")
    study = Study.load(tmp_path / "tiny")
    inputs = Inputs(study, Events())
    inputs.decide()
    for count in (1, 2, 3, 100):
        parts = Division(study, inputs, count)
        for stage in STAGES:
            assert all(not parts.lacks(part) for part in parts.of(stage))
    for folder in ("runs", "matches", "weights", "evidence", "cofiring", "structure"):
        shutil.rmtree(study.folder / folder)
    for count in (1, 2, 3, 100):
        parts = Division(study, inputs, count)
        for stage in ("train", "match", "evidence", "structure"):
            names = [name for part in parts.of(stage) for name in parts.lacks(part)]
            assert len(names) == len(set(names)) > 0
            assert len(parts.of(stage)) <= 4 * count


def test_minutes_end_it(write_study):
    path = write_study(
        "long", training={"tokens": 2560 * 400, "checkpoint_tokens": 640, "snapshots": []}
    )
    with children((*RESEED, "work", path, "--minutes", 0.15)) as (process,):
        assert "The time is up and all is saved" in ended(process)
    study = Study.load(path)
    assert {run.state.state for run in study.runs} == {"missing"}


def test_cancel_reaches_every_process(write_study, cli):
    path = write_study("long", training={"tokens": 2560 * 4000, "checkpoint_tokens": 6400})
    study, work = Study.load(path), (*RESEED, "work", path, "--share")

    def both_train():
        parts = [worker.about["part"] for worker in workers(study.folder)]
        return sorted(parts) == ["train 1/2", "train 2/2"]

    with children((*work, "1/2"), (*work, "2/2")) as processes:
        until(both_train, *processes)
        shown = cli("status", path).stdout
        done = cli("cancel", path)
        said = [process.communicate(timeout=120)[0] for process in processes]
    assert "working now: 2 processes that share it" in shown
    assert all(f"{process.pid}" in shown for process in processes)
    assert done.returncode == 0, done.stderr
    assert "Nobody works at it any more" in done.stdout
    assert [process.returncode for process in processes] == [143, 143], said


@pytest.mark.parametrize("how", [(), ("--on", "local", "--workers", "1")])
def test_cancel_reaches_a_plain_run_and_what_starts_workers(write_study, cli, how):
    path = write_study("long", training={"tokens": 2560 * 4000, "checkpoint_tokens": 6400})
    folder = Study.load(path).folder

    def trains():
        return any(folder.glob("runs/*.part"))

    with children((*RESEED, "run", path, "-q", *how)) as (process,):
        until(trains, process)
        done = cli("cancel", path)
        said = process.communicate(timeout=120)[0]
    assert done.returncode == 0, done.stderr
    assert "Nobody works at it any more" in done.stdout
    assert process.returncode == 143, said
    assert not [worker for worker in workers(folder) if worker.alive]


@pytest.mark.slow
def test_ranks_of_a_worker_share_a_run(write_study, tmp_path, same_pieces):
    sae = [{"latents": 16, "k": 2, "lr": 3e-3, "blocks": 4}]
    alone = Study.load(write_study("alone/tiny", sae=sae))
    reseed.run(alone, progress=False)
    together = Study.load(write_study("together/tiny", sae=sae))
    engine = EngineSpec(on="local", workers=1, ranks=2)
    reseed.run(together, progress=False, engine=engine)
    assert same_pieces(alone.folder, together.folder)


def test_a_plan_on_many_workers(write_study, cli, tmp_path):
    engine = tmp_path / "engine.toml"
    engine.write_text("workers = 8\nprice = 2.5\n")
    shown = cli("plan", write_study(), "--engine", engine).stdout
    assert "on 8 workers: about" in shown
    assert "at 2.5 an hour" in shown
    engine.write_text("wrokers = 8\n")
    done = cli("plan", write_study(), "--engine", engine)
    assert done.returncode == 2
    assert "did you mean 'workers'?" in done.stderr
