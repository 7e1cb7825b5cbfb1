"""The rules of the store where two clients of a network file system see one folder."""

import multiprocessing
import os
import signal
import time

import pytest
from tests.processes import RESEED, children, forks, until

from reseed.errors import BusyError
from reseed.store import Store, alive, workers, working

FORK = multiprocessing.get_context("fork")

pytestmark = pytest.mark.slow


def make(store, name, letter, made_from="new"):
    with store.piece(name, made_from) as folder:
        (folder / "x").write_bytes(letter * 50_000)
        (folder / "y").write_bytes(letter * 1_000)


def test_sixty_pieces_each_made_by_both_clients_at_once(mounts):
    barrier = FORK.Barrier(2)

    def work(mount, letter):
        store = Store(mount / "pieces")
        for number in range(60):
            if letter == b"a" and number % 3 == 0:
                make(store, f"{number}", b"-", "old")
            barrier.wait()
            make(store, f"{number}", letter)

    args = zip(mounts, (b"a", b"b"), strict=True)
    with forks(*(FORK.Process(target=work, args=both) for both in args)) as processes:
        for process in processes:
            process.join(120)
        assert [process.exitcode for process in processes] == [0, 0]
    for store in (Store(mount / "pieces") for mount in mounts):
        for number in range(60):
            first, second = (store.checked(f"{number}", file).read_bytes() for file in "xy")
            assert first[:1] == second[:1] != b"-"
        assert len(list(store.root.iterdir())) == 60


def test_a_claim_and_its_end_are_seen_by_the_other(mounts):
    claimed = FORK.Event()
    for mount in mounts:
        (mount / "claims").mkdir(exist_ok=True)

    def claim():
        with working(mounts[0] / "claims") as process:
            assert process.claim("a")
            claimed.set()
            time.sleep(600)

    root = mounts[1] / "claims"
    with forks(FORK.Process(target=claim)) as (other,), working(root) as process:
        assert claimed.wait(120)
        assert not process.claim("a")
        (known,) = [worker for worker in workers(root) if worker.id != process.id]
        os.kill(other.pid, signal.SIGKILL)
        other.join()
        until(lambda: not alive(root, known.id))
        assert process.claim("a")


def test_the_lock_of_a_study_is_seen_by_the_other(mounts):
    here, there = (Store(mount / "locked").lock(str(mount)) for mount in mounts)
    with here, pytest.raises(BusyError, match=f"in use by `{mounts[0]}"), there:
        pass
    with Store(mounts[1] / "locked").lock("there"):
        pass


def test_two_machines_share_a_study(mounts, finished, same_pieces):
    work = (*RESEED, "work", finished / "study.toml", "--out")
    both = ((*work, mount / "tiny", "--share", f"{i}/2") for i, mount in enumerate(mounts, 1))
    with children(*both) as processes:
        for process in processes:
            out, _ = process.communicate(timeout=240)
            assert process.returncode == 0, out
    assert same_pieces(mounts[0] / "tiny", finished)
    assert same_pieces(mounts[1] / "tiny", finished)
