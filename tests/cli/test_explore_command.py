"""`reseed explore` as a user runs it, and what it says where it cannot."""

import socket
import sys
from urllib.request import urlopen

import pytest
from tests.processes import child

FORBID = """
import importlib.abc, sys
class Forbid(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name.partition(".")[0])
sys.meta_path.insert(0, Forbid())
sys.argv = ["reseed", "explore", {study!r}, "--no-browser", "--port", "0"]
from reseed.cli import main; main()
"""


@pytest.mark.parametrize("missing", ["duckdb", "starlette", "uvicorn", "jinja2"])
def test_without_the_extra_its_name_is_said(python, write_study, missing):
    done = python("-c", FORBID.format(missing=missing, study=str(write_study())))
    assert done.returncode == 2
    assert "reseed[explore]" in done.stderr
    assert missing in done.stderr


def test_it_needs_no_torch(write_study):
    pytest.importorskip("duckdb")
    code = FORBID.format(missing="torch", study=str(write_study()))
    with child(sys.executable, "-c", code, stderr=None) as server:
        line = server.stdout.readline()
        address = line.split()[1]
        with urlopen(f"{address}tiny/latents") as answer:
            assert "reseed run" in answer.read().decode()
        server.send_signal(2)
        assert server.wait(60) == 0


def test_what_is_no_study_is_said(cli, tmp_path):
    done = cli("explore", tmp_path / "nothing.toml", "--no-browser")
    assert (done.returncode, "no file" in done.stderr) == (2, True)
    pytest.importorskip("duckdb")
    (tmp_path / "comparison.json").write_text("nothing")
    done = cli("explore", tmp_path, "--no-browser")
    assert done.returncode == 3
    assert "cannot be read" in done.stderr


def test_a_taken_port_is_said(cli, write_study):
    pytest.importorskip("duckdb")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = cli("explore", write_study(), "--no-browser", "--port", taken.getsockname()[1])
    assert done.returncode == 2
    assert "--port 0" in done.stderr
