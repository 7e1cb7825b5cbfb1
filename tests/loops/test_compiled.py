"""Pieces of work are all done, by threads whose products are their own."""

import os
import pickle
import threading

import numba
import pytest
import torch

from reseed.loops import compiled as workers


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_each_piece_is_done_once(threads):
    done = []
    workers.run(done.append, range(50), threads)
    assert sorted(done) == list(range(50))


def test_products_inside_take_one_thread_and_outside_as_many_as_before():
    before = torch.get_num_threads()
    both, inside = threading.Barrier(2), []

    def work(_):
        both.wait(timeout=60)
        inside.append(torch.get_num_threads())

    workers.run(work, range(2), 2)
    assert inside == [1, 1]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("threads", [1, 2])
def test_what_fails_is_raised(threads):
    def work(piece):
        if piece == 3:
            raise ValueError("three")

    with pytest.raises(ValueError, match="three"):
        workers.run(work, range(6), threads)


def test_without_a_folder_for_machine_code_loops_are_compiled_all_the_same(python, tmp_path):
    """As in a container, whose source and home cannot be written."""
    (tmp_path / "file").write_text("no folder")
    code = (
        f"import os; os.environ['NUMBA_CACHE_DIR'] = {str(tmp_path / 'file' / 'below')!r}\n"
        "from reseed.loops.compiled import compiled, reordered\n"
        "from reseed.loops import screen\n"
        "def twice(x):\n    return 2 * x\n"
        "print(reordered(compiled(twice).py_func)(21))"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["42"]


FULL = """
import os, resource, signal, sys
os.environ["NUMBA_CACHE_DIR"] = {folder!r}
import reseed.loops
from reseed.loops.compiled import compiled
reseed.loops.says = print
def twice(x):
    return 2 * x
def thrice(x):
    return 3 * x
loops = compiled(twice), compiled(thrice)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
if sys.argv[1]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
print(*(loop(7) for loop in loops))
"""


def test_a_disk_that_is_full_ends_nothing_and_compiling_is_told_once(python, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(FULL.format(folder=str(tmp_path / "kept")))
    for full, told in (("full", True), ("", True), ("", False)):
        done = python(script, full)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "14 21"
        assert ("compiling loops" in done.stdout) == told
        assert len(done.stdout.splitlines()) == 1 + told


def test_machine_code_that_cannot_be_read_is_made_anew(python, tmp_path):
    """A file that was damaged, and one of a version that had a name which is gone."""
    script = tmp_path / "script.py"
    script.write_text(FULL.format(folder=str(tmp_path / "kept")))
    version = pickle.dumps(numba.__version__)
    for content in (None, b"nothing of the kind", version + b"creseed.loops\nGone\n.", None):
        for index in (tmp_path / "kept").rglob("*.nbi") if content else ():
            index.write_bytes(content)
        done = python(script, "")
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "14 21"
    assert "compiling loops" not in done.stdout


MOUNTS = """\
22 1 259:2 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:50 / {shared} rw,relatime shared:2 - {kind} server:/export rw
"""


@pytest.mark.parametrize("kind", ["nfs4", "lustre", "fuse.glusterfs", "cifs"])
def test_machine_code_never_lies_where_other_machines_see_it(tmp_path, monkeypatch, kind):
    shared, local = tmp_path / "shared folder", tmp_path / "local"
    (shared / "checkout").mkdir(parents=True)
    local.mkdir()
    mounts = tmp_path / "mounts"
    name = str(shared).replace(" ", "\\040")
    mounts.write_text(MOUNTS.format(shared=name, kind=kind))
    monkeypatch.setattr(workers, "_MOUNTS", mounts)
    monkeypatch.setattr(workers.tempfile, "gettempdir", lambda: str(local))
    monkeypatch.setattr(workers.socket, "gethostname", lambda: "node7")
    monkeypatch.setenv("NUMBA_CPU_NAME", "haswell")
    monkeypatch.setenv("XDG_CACHE_HOME", str(local / "cache"))
    assert workers.kept_elsewhere(local) is None
    assert workers.kept_elsewhere(shared / "checkout") == (
        local / "cache" / "reseed" / "numba-node7-haswell"
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared / "home" / ".cache"))
    folder = workers.kept_elsewhere(shared / "checkout")
    assert folder == local / f"reseed-{os.getuid()}" / "numba-node7-haswell"
    assert folder.parent.stat().st_mode & 0o777 == 0o700
    assert not (shared / "home").exists()
    monkeypatch.setattr(workers.config, "CACHE_DIR", str(folder))
    loop = workers.compiled(kind_of_loop)
    assert loop(20) == 21
    assert list(folder.rglob("*.nbi"))


def kind_of_loop(x):
    return x + 1


def test_a_folder_of_another_is_not_trusted(tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(workers.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    monkeypatch.setattr(workers, "_seen_by_others", lambda path: "source" in path.name)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    own = tmp_path / "tmp" / f"reseed-{os.getuid()}"
    assert workers.kept_elsewhere(tmp_path / "source").parent == own
    own.chmod(0o777)
    assert workers.kept_elsewhere(tmp_path / "source") is None
    own.rmdir()
    own.symlink_to(tmp_path)
    assert workers.kept_elsewhere(tmp_path / "source") is None
    own.unlink()
    own.write_text("a file")
    assert workers.kept_elsewhere(tmp_path / "source") is None
