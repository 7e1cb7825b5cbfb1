"""The toy study on a real Slurm of two nodes ends with the bytes of one process."""

import os
import signal
import subprocess
import threading
import time

import pytest

import reseed
from reseed.cluster.engine import EngineSpec
from reseed.errors import StoreError
from reseed.store import workers
from reseed.study import Study

pytest.importorskip("submitit", reason="Slurm needs submitit")

ENGINE = EngineSpec(on="slurm", workers=2, gib=1.0, minutes=30)


def squeue(*words):
    return subprocess.run(["squeue", "-h", *words], capture_output=True, text=True).stdout.split()


def jobs_of_training(study):
    """Processes that train, once some do."""
    for _ in range(1200):
        if (study.folder / "work").is_dir():
            there = [
                w for w in workers(study.folder) if w.about.get("part", "").startswith("train")
            ]
            if there and all(w.alive for w in there):
                return [w.about["process"] for w in there]
        time.sleep(0.05)
    raise AssertionError("nobody trains")


def run_disturbed(study, disturb):
    """Run on Slurm while something happens beside it."""
    failed = []

    def beside():
        try:
            disturb()
        except BaseException as error:  # noqa: BLE001  (shown by the test itself)
            failed.append(error)

    thread = threading.Thread(target=beside)
    thread.start()
    outcome = reseed.run(study, progress=False, engine=ENGINE)
    thread.join()
    assert not failed
    return outcome


@pytest.fixture
def longer(write_study):
    """A study whose training takes some seconds, and one like it that is never disturbed."""
    text = {"tokens": 256_000, "checkpoint_tokens": 6_400}
    alone = Study.load(write_study("alone/tiny", training=text))
    reseed.run(alone, progress=False)
    return Study.load(write_study("shared/tiny", training=text)), alone


def test_an_array_makes_what_one_process_makes(slurm, finished, tmp_path, same_pieces):
    study = Study.load(finished / "study.toml", tmp_path / "tiny")
    assert reseed.run(study, progress=False, engine=ENGINE).failed == []
    assert same_pieces(tmp_path / "tiny", finished)
    assert not squeue("-o", "%i")


@pytest.mark.slow
def test_warned_before_the_time_limit_a_job_goes_on_from_its_checkpoint(slurm, longer, same_pieces):
    study, alone = longer

    def warn():
        jobs_of_training(study)
        time.sleep(1.0)
        job = squeue("-o", "%A")[0]
        subprocess.run(["scancel", "--signal=USR2", job], check=True)

    run_disturbed(study, warn)
    assert same_pieces(study.folder, alone.folder)
    logs = [path.read_text() for path in (study.folder / "work/logs").glob("*.[eo][ru][rt]")]
    assert any("requeue" in text.lower() for text in logs)


@pytest.mark.slow
def test_a_job_that_is_killed_is_started_again(slurm, longer, same_pieces):
    study, alone = longer
    run_disturbed(study, lambda: os.kill(jobs_of_training(study)[0], signal.SIGKILL))
    assert same_pieces(study.folder, alone.folder)


@pytest.mark.slow
def test_a_node_that_dies(slurm, longer, same_pieces):
    """Its slurmd, what it had started and the part: done again on the other node."""
    study, alone = longer

    def kill():
        process = jobs_of_training(study)[0]
        os.kill(int((slurm / "slurmd-n1.pid").read_text()), signal.SIGKILL)
        subprocess.run(["pkill", "-KILL", "slurmstepd"], check=False)
        os.kill(process, signal.SIGKILL)

    try:
        run_disturbed(study, kill)
    finally:
        subprocess.run(["slurmd", "-N", "n1"], check=False)
    assert same_pieces(study.folder, alone.folder)


def test_what_slurm_does_not_take_is_said(slurm, finished, tmp_path):
    study = Study.load(finished / "study.toml", tmp_path / "tiny")
    engine = ENGINE.model_copy(update={"partition": "nowhere"})
    with pytest.raises(StoreError, match="Slurm takes no jobs.*nvalid partition"):
        reseed.run(study, progress=False, engine=engine)


def test_without_slurm_it_is_said_at_once(write_study, cli, monkeypatch):
    monkeypatch.setattr("reseed.cluster.slurm.which", lambda name: None)
    done = cli("run", write_study(), "--on", "slurm")
    assert done.returncode == 2
    assert "no `sbatch` here" in done.stderr
