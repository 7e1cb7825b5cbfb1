"""The journal: whatever kills a process, what was written is there and nothing else is."""

import json
import subprocess
import sys

import pytest
from tests.processes import child

from reseed.errors import BusyError, StoreError
from reseed.interpretation.models.journal import Journal, entries

LONG = "few-shot examples " * 20


def asked(text):
    return {"messages": [{"role": "system", "content": LONG}, {"role": "user", "content": text}]}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "journal.jsonl"


@pytest.fixture
def three(path):
    """The bytes of a journal with answers to a, b and c, and where each line begins."""
    with Journal(path) as journal:
        for key in "abc":
            journal.add(key, asked(f"{key} é \n \u2028"), answer={"text": key.upper()}, seconds=1.5)
    data = path.read_bytes()
    starts = [0] + [i + 1 for i, byte in enumerate(data) if byte == 10]
    return data, starts


def keys(path):
    with Journal(path) as journal:
        return {key for key in "abcd" if journal.answer(key) == {"text": key.upper()}}


def test_answers_are_given_back(path, three):
    with Journal(path) as journal:
        assert len(journal) == 3
        assert "a" in journal
        assert journal.answer("b") == {"text": "B"}
        assert journal.answer("z") is None
        assert journal.torn == 0


def test_lines_are_json(path, three):
    lines = [json.loads(line) for line in path.read_text("ascii").splitlines()]
    assert lines == list(entries(path))
    assert [line["key"] for line in lines] == list("abc")
    assert lines[2]["asked"] == asked("c é \n \u2028")
    assert lines[0]["seconds"] == 1.5


def test_failures_are_written_and_asked_again(path, three):
    with Journal(path) as journal:
        journal.add("d", asked("d"), failure={"reason": "no choices"})
        assert journal.answer("d") is None
    with Journal(path) as journal:
        assert "d" not in journal
        journal.add("d", asked("d"), answer={"text": "D"})
    assert keys(path) == set("abcd")
    assert [row["key"] for row in entries(path)] == list("abcdd")


def test_cut_at_every_byte(path, three):
    data, starts = three
    whole = {starts[i + 1] - 1: set("abc"[: i + 1]) for i in range(3)}
    every = set(range(starts[2] - 2, len(data) + 1))
    for cut in sorted(every | set(range(0, len(data), 9))):
        path.write_bytes(data[:cut])
        want = max((keys for at, keys in whole.items() if at <= cut), key=len, default=set())
        with Journal(path) as journal:
            assert {key for key in "abc" if journal.answer(key)} == want, cut
            journal.add("d", asked("d"), answer={"text": "D"})
            assert journal.answer("d") == {"text": "D"}
        found = list(entries(path))
        assert {entry["key"] for entry in found} == want | {"d"}, cut
        assert found[-1]["asked"] == asked("d")
        assert path.read_bytes().count(b"\n") == len(path.read_bytes().splitlines())


def test_a_torn_line_is_reported(path, three):
    data, starts = three
    path.write_bytes(data[:-7])
    with Journal(path) as journal:
        assert journal.torn == len(data) - 7 - starts[2]


@pytest.mark.parametrize("line", [2, 3])
def test_a_damaged_line_is_named(path, three, line):
    """Wherever a line is broken; the file is left, and goes on without the line."""
    data, starts = three
    lines = data.splitlines(keepends=True)
    for broken in (
        b"\n",
        lines[line - 1][9:],
        lines[line - 1][:40] + b"\n",
        b"[1]\n",
        bytes(40) + b"\n",
    ):
        changed = b"".join([*lines[: line - 1], broken, *lines[line:]])
        path.write_bytes(changed)
        with pytest.raises(StoreError, match=f"line {line} is damaged"):
            Journal(path)
        with pytest.raises(StoreError, match=f"line {line} is damaged"):
            list(entries(path))
        assert path.read_bytes() == changed
    path.write_bytes(b"".join([*lines[: line - 1], *lines[line:]]))
    assert len(keys(path)) == 2
    path.write_bytes(data + bytes(300))  # what a power cut may leave
    assert keys(path) == set("abc")


@pytest.mark.parametrize("content", [b"hello", b"hello\n", b'{"a": 1}\n', b"\x00" * 50])
def test_another_file_is_refused_and_left(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(StoreError, match="is no journal"):
        Journal(path)
    assert path.read_bytes() == content


def test_one_process_at_a_time(path, three):
    code = (
        "import sys; from pathlib import Path\n"
        "from reseed.interpretation.models.journal import Journal\n"
        "Journal(Path(sys.argv[1])); print('open', flush=True); sys.stdin.read()"
    )
    with child(sys.executable, "-c", code, path, stdin=subprocess.PIPE, stderr=None) as other:
        assert other.stdout.readline() == "open\n"
        with pytest.raises(BusyError, match=r"journal.jsonl is in use"):
            Journal(path)
        assert [entry["key"] for entry in entries(path)] == list("abc")  # reading needs no lock
        other.kill()
    assert keys(path) == set("abc")


def test_a_full_disk_leaves_the_journal_as_it_was(path, three, monkeypatch):
    import errno
    import os

    data, _ = three
    real = os.write
    with Journal(path) as journal:

        def full(file, some):
            if len(some) > 10:
                return real(file, some[:10])
            raise OSError(errno.ENOSPC, "no space")

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(StoreError, match="no space left"):
            journal.add("d", asked("d"), answer={"text": "D" * 15})
        monkeypatch.setattr(os, "write", real)
        assert "d" not in journal
        assert path.read_bytes() == data
        journal.add("d", asked("d"), answer={"text": "D"})
    assert keys(path) == set("abcd")


def test_a_closed_journal_says_so(path):
    journal = Journal(path)
    journal.close()
    journal.close()
    with pytest.raises(StoreError, match="closed"):
        journal.add("a", {}, answer={})
    with pytest.raises(StoreError, match="cannot be read"):
        next(entries(path.with_name("other")))


def test_what_is_not_json_is_not_written(path):
    with Journal(path) as journal:
        with pytest.raises(ValueError, match="JSON"):
            journal.add("a", {}, answer={"x": float("nan")})
        assert path.read_bytes() == b""
