"""Many processes in one store: nothing is torn, the living are not swept, the fenced stay out."""

import errno
import multiprocessing
import os
import signal
import threading
import time

import pytest
from tests.processes import forks

import reseed
from reseed.errors import BusyError, Interrupted
from reseed.runs import run_name
from reseed.store import BUILDING, Store, alive, beside, claims, temporary, workers, working
from reseed.study import Study
from reseed.training.run_folder import TakenOverError
from reseed.training.work import Work

FORK = multiprocessing.get_context("fork")


def in_processes(*functions):
    """Run each in a process of its own; their exit codes."""
    with forks(*(FORK.Process(target=function) for function in functions)) as processes:
        for process in processes:
            process.join(240)
        return [process.exitcode for process in processes]


def make(store, name, letter, made_from="new"):
    with store.piece(name, made_from) as folder:
        (folder / "x").write_bytes(letter * 50_000)
        (folder / "y").write_bytes(letter * 1_000)


def test_sixty_pieces_each_made_by_two_at_once(tmp_path):
    barrier = FORK.Barrier(2)

    def work(letter):
        store = Store(tmp_path)
        for number in range(60):
            if letter == b"a" and number % 3 == 0:
                make(store, f"pieces/{number}", b"-", "old")
            barrier.wait()
            make(store, f"pieces/{number}", letter)

    assert in_processes(lambda: work(b"a"), lambda: work(b"b")) == [0, 0]
    store = Store(tmp_path)
    for number in range(60):
        first, second = (store.checked(f"pieces/{number}", file).read_bytes() for file in "xy")
        assert first[:1] == second[:1] != b"-"
        assert store.has(f"pieces/{number}", "new")
    assert sorted(path.name for path in store.path("pieces").iterdir()) == sorted(
        map(str, range(60))
    )


def test_the_first_of_the_same_stays(tmp_path):
    store = Store(tmp_path)
    with store.piece("p", "new") as folder:
        (folder / "x").write_bytes(b"late")
        make(Store(tmp_path), "p", b"e")
    assert store.checked("p", "x").read_bytes()[:1] == b"e"
    with store.piece("p", "another") as folder:
        (folder / "x").write_bytes(b"newer")
    assert store.checked("p", "x").read_bytes() == b"newer"


def test_what_the_living_build_is_not_swept(tmp_path):
    store, built, swept = Store(tmp_path), FORK.Event(), FORK.Event()

    def build():
        with Store(tmp_path).piece("p", "x") as folder:
            (folder / "x").write_bytes(b"1")
            built.set()
            assert swept.wait(120)

    with forks(FORK.Process(target=build)) as (process,):
        assert built.wait(120)
        dead = beside(store.path("q"), BUILDING)
        dead.mkdir()
        with store.lock("test"):
            store.open_for_writing()
        swept.set()
        process.join(120)
        assert process.exitcode == 0
    assert store.checked("p", "x").read_bytes() == b"1"
    assert not dead.exists()


def test_another_machines_leftovers_are_swept_after_a_day(tmp_path, monkeypatch):
    store = Store(tmp_path)
    with monkeypatch.context() as other:
        other.setattr(temporary, "this_machine", lambda: "0" * 8)
        left = beside(store.path("p"), BUILDING)
    left.mkdir(parents=True)
    monkeypatch.setattr(time, "time", lambda: 0.0)  # no clock of a machine matters
    for hours, there in ((1, True), (23, True), (25, False)):
        with store.lock("test"):
            now = temporary.now_at(tmp_path)
            if left.exists():
                os.utime(left, (now - hours * 3600, now - hours * 3600))
            store.open_for_writing()
        assert left.exists() is there


def test_where_folders_cannot_be_locked_age_decides(tmp_path, monkeypatch):
    """As on NFS: nothing of the living is taken for a leftover."""

    def refuse(handle, how):
        raise OSError(errno.EBADF, "no locks here")

    store = Store(tmp_path)
    with store.piece("p", "x") as folder, monkeypatch.context() as system:
        (folder / "x").write_bytes(b"1")
        system.setattr(temporary.fcntl, "flock", refuse)
        assert not temporary.take_out(folder, lambda: temporary.now_at(tmp_path), 60.0)
        old = beside(store.path("q"), BUILDING)
        old.mkdir()
        assert temporary.take_out(old, lambda: temporary.now_at(tmp_path) + 61.0, 60.0)
    assert store.has("p", "x")


def test_claims_are_kept_by_the_living(tmp_path):
    claimed, ended = FORK.Event(), FORK.Event()

    def claim():
        with working(tmp_path, stage="train") as process:
            assert process.claim("runs/a")
            claimed.set()
            ended.wait(240)

    with forks(FORK.Process(target=claim)) as (other,), working(tmp_path) as process:
        assert claimed.wait(120)
        assert not process.claim("runs/a")
        assert process.claim("runs/b")
        assert process.claim("runs/b")
        (known,) = [worker for worker in workers(tmp_path) if worker.id != process.id]
        assert known.alive
        assert known.about["stage"] == "train"
        assert known.about["process"] == other.pid
        os.kill(other.pid, signal.SIGKILL)
        other.join()
        assert not alive(tmp_path, known.id)
        assert process.claim("runs/a")
    assert not (tmp_path / "work/claims").exists()
    with Store(tmp_path).lock("test"):
        Store(tmp_path).open_for_writing()
    assert not workers(tmp_path)


def test_a_process_of_another_machine_is_dead_when_it_is_silent(tmp_path, monkeypatch):
    with monkeypatch.context() as other:
        other.setattr(claims, "this_machine", lambda: "0" * 8)
        far = claims.Process(tmp_path)
        assert far.claim("runs/a")
    file = tmp_path / "work" / f"{far.id}.process"
    with working(tmp_path) as process:
        for seconds, mine in ((30, False), (590, False), (610, True)):
            now = temporary.now_at(tmp_path)
            os.utime(file, (now - seconds, now - seconds))
            assert process.claim("runs/a") is mine
    far.end()


def stopped(write_study, monkeypatch, name):
    """A study stopped at its second checkpoint."""
    study, count = Study.load(write_study(name)), [0]
    checkpoint = Work.checkpoint

    def stop(self):
        checkpoint(self)
        count[0] += 1
        if count[0] == 2:
            raise Interrupted(15)

    monkeypatch.setattr(Work, "checkpoint", stop)
    with pytest.raises(Interrupted):
        reseed.run(study, progress=False)
    monkeypatch.undo()
    return study


def test_an_owner_that_wakes_up_after_it_was_fenced(write_study, monkeypatch, tree):
    """It writes nothing more into the run that another has taken over."""
    undisturbed = Study.load(write_study("undisturbed/tiny"))
    reseed.run(undisturbed, progress=False)
    study = stopped(write_study, monkeypatch, "fenced/tiny")
    store, run = study.store, study.runs[0].spec
    from reseed.training.run_folder import RunFolder

    late = RunFolder(run, store, claims.Process(study.folder))
    RunFolder(run, store, claims.Process(study.folder))
    for write in (lambda: late.checkpoint({}, {}), lambda: late.finish(None, None)):
        with pytest.raises(TakenOverError, match="taken over by another process"):
            write()
    assert not late.path.exists()
    for process in workers(study.folder):
        (study.folder / "work" / f"{process.id}.process").unlink()
    assert [run.state.tokens_done for run in study.runs] == [640, 640]
    reseed.run(study, progress=False)
    skip = (".lock", "events.jsonl")
    assert tree(study.folder, skip=skip) == tree(undisturbed.folder, skip=skip)


def test_run_says_who_is_at_a_run(write_study, monkeypatch):
    study = stopped(write_study, monkeypatch, "tiny")
    name, ready, ended = run_name(study.runs[0].spec), FORK.Event(), FORK.Event()

    def claim():
        with working(study.folder, stage="train") as process:
            assert process.claim(name)
            ready.set()
            ended.wait(240)

    with forks(FORK.Process(target=claim)) as (other,):
        assert ready.wait(120)
        said = rf"{study.runs[0].id} is being .* by process {other.pid}"
        with pytest.raises(BusyError, match=said):
            reseed.run(study, progress=False)
        assert [run.state.state for run in study.runs] == ["missing", "done"]
        ended.set()
        other.join(120)
    assert reseed.run(study, progress=False).failed == []


def test_whoever_asked_and_was_killed_stops_nobody_later(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "_ASKED_EVERY", 0.01)
    asked = tmp_path / "work" / "stop"
    heard = threading.Event()
    with working(tmp_path, heard.set):
        asked.touch()
        os.utime(asked, (0, 0))
        assert not heard.wait(0.2)
        asked.touch()
        assert heard.wait(20)


def test_of_many_that_come_at_once_one_has_a_claim(tmp_path):
    """Also where the one that had it is dead; and none is swept while it enters."""
    dead = claims.Process(tmp_path)
    assert all(dead.claim(f"of the dead {number}") for number in range(12))
    dead.end = None
    os.close(dead._handle)
    barrier = FORK.Barrier(4)

    def take(me):
        barrier.wait(60)
        with working(tmp_path) as process:
            store = Store(tmp_path)
            for number in range(12):
                barrier.wait(60)
                claims.sweep(tmp_path)
                for part in (f"of the dead {number}", f"new {number}"):
                    if process.claim(part):
                        store.write(f"taken/{part} by {me}.json", [])
                with store.piece(f"pieces/{me}-{number}") as folder:
                    (folder / "x").touch()
            barrier.wait(60)

    assert in_processes(*(lambda me=me: take(me) for me in range(4))) == [0] * 4
    taken = [path.name.partition(" by ")[0] for path in (tmp_path / "taken").iterdir()]
    assert sorted(taken) == sorted(
        f"{kind} {n}" for kind in ("new", "of the dead") for n in range(12)
    )
