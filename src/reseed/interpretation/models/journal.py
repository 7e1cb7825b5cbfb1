"""An append-only journal of what was asked and answered: it makes every rerun free.

One JSON object a line: `key` (digest of the question), `asked`, `answer` or `failure`, and what
belongs to them. A line is handed to the system in one write before anybody sees the answer, so a
killed process loses nothing that it used. It is pushed to the disk (fsync) at least every second
and at the end, so a power cut loses the answers of about a second, which are asked again.
"""

from __future__ import annotations

import fcntl
import glob
import json
import os
import threading
import time
from collections.abc import Generator, Mapping
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

from reseed.errors import BusyError, StoreError, explained
from reseed.interpretation.models.limits import Spent
from reseed.interpretation.records import Reply, Request, TokenChoice
from reseed.seeds import digest

_SYNC_SECONDS = 1.0

_BEGIN = b'{"key":"'


class Journal:
    """Answers by the key of their question, in one file, held by one process.

    Those in the files beside it (`explain.jsonl`, `explain.PROCESS.jsonl`: the same word before the
    first dot) are read once, when it is opened. May be used from several threads.

    Args:
        path: the file; made if it is missing.

    Attributes:
        torn: bytes of an unfinished last line that were dropped on opening.

    Raises:
        BusyError: if another process has it open.
        StoreError: if it cannot be written, is no journal, or has a damaged line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.torn = 0
        self._lock = threading.Lock()
        self._answers: dict[str, dict[str, Any]] = {}
        self._spent: dict[str, Spent] = {}
        self._synced = time.monotonic()
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            self._hold()
            self._mend()
            for row in chain(entries(path), *map(entries, _beside(path))):
                self._learn(row)
        except BaseException:
            os.close(self._file)
            raise
        self._open = True

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._answers)

    def __contains__(self, key: str) -> bool:
        return key in self._answers

    def answer(self, key: str) -> dict[str, Any] | None:
        """The answer to a question, or None if it was never answered."""
        return self._answers.get(key)

    def spent(self, model: str) -> Spent:
        """What the answers of a model have cost, unusable ones too."""
        return self._spent.get(model, Spent())

    def add(self, key: str, question: Mapping[str, Any], **about: Any) -> None:
        """Write down one answer; it is with the system when this returns.

        Args:
            key: of the question.
            question: JSON.
            about: `answer`, or `failure` for one that could not be used and is to be asked again;
                further fields, e.g. `seconds`. JSON.
        """
        row = {"key": key, "asked": question, **about, "time": round(time.time(), 3)}
        # ASCII, so that no character can break the line
        line = json.dumps(row, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
        with self._lock:
            self._append(line.encode() + b"\n")
            self._learn(row)
            if time.monotonic() - self._synced >= _SYNC_SECONDS:
                self._sync()

    def close(self) -> None:
        """Push everything to the disk and let go of the file."""
        with self._lock:
            if self._open:
                self._sync()
                self._open = False
                os.close(self._file)

    # -- inside ------------------------------------------------------------------------------------

    def _hold(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(
                f"{self.path} is in use by another process. Wait for it to end or stop it; two "
                "would ask the same questions twice."
            ) from None

    def _mend(self) -> None:
        """Finish a last line that lacks its end of line only; cut off one that is half-written."""
        data = self.path.read_bytes()
        if not _BEGIN.startswith(data[: len(_BEGIN)]):
            raise StoreError(
                f"{self.path} is no journal: its first line is something else. Choose another "
                "file; this one was left as it is."
            )
        last = data[data.rfind(b"\n") + 1 :]
        with explained(self.path):
            if last and _row(last) is not None:
                os.write(self._file, b"\n")
            elif last:
                os.ftruncate(self._file, len(data) - len(last))
                self.torn = len(last)

    def _learn(self, row: Mapping[str, Any]) -> None:
        if row.get("answer") is not None:
            self._answers[str(row["key"])] = row["answer"]
        paid, model = row.get("answer") or row.get("failure") or {}, str(row.get("model"))
        tokens = paid.get("prompt_tokens", 0) + paid.get("reply_tokens", 0)
        cost = Spent(calls=1, tokens=tokens, cost=paid.get("cost", 0.0))
        self._spent[model] = self.spent(model).plus(cost)

    def _append(self, line: bytes) -> None:
        if not self._open:
            raise StoreError(f"{self.path} is closed; nothing can be written to it")
        end = os.fstat(self._file).st_size
        with explained(self.path):
            try:
                while line:
                    line = line[os.write(self._file, line) :]
            except BaseException:
                os.ftruncate(self._file, end)
                raise

    def _sync(self) -> None:
        with explained(self.path):
            os.fsync(self._file)
        self._synced = time.monotonic()


def _beside(path: Path) -> list[Path]:
    every = path.parent.glob(f"{glob.escape(path.name.partition('.')[0])}.*jsonl")
    return sorted(other for other in every if other.name != path.name)


def entries(path: Path) -> Generator[dict[str, Any], None, None]:
    """Every line of a journal, oldest first.

    Reads only, so it may be used while another process writes; an unfinished last line is left out.

    Raises:
        StoreError: if there is no such file, or a line of it is damaged.
    """
    try:
        handle = open(path, "rb")  # noqa: SIM115  (closed below)
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror})") from error
    with handle:
        for number, line in enumerate(handle, 1):
            if not line.endswith(b"\n"):
                return
            row = _row(line)
            if row is None:
                raise StoreError(
                    f"{path}: line {number} is damaged. Take the file back from a copy, or remove "
                    f"the line (sed -i {number}d FILE): what it held is asked again."
                )
            yield row


def _row(line: bytes) -> dict[str, Any] | None:
    """What a line says, or None if it is none of ours."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and {"key", "asked", "time"} <= row.keys() else None


# -- questions and answers as JSON -----------------------------------------------------------------


def question_key(model: str, request: Request) -> str:
    """The key of a question in a journal: everything that decides the reply, and the model.

    The purpose does not, nor does the seed at temperature 0.
    """
    seed = request.seed if request.temperature else 0
    return digest({"model": model, **question_record(request), "seed": seed}, 32)


def question_record(request: Request) -> dict[str, Any]:
    """A question as JSON, without its purpose."""
    record = asdict(request)
    del record["purpose"]
    return {**record, "temperature": float(request.temperature)}


def reply_from(record: Mapping[str, Any]) -> Reply:
    """The reply that `asdict` made a record of."""
    fields = dict(record)
    fields["choices"] = tuple(TokenChoice(**choice) for choice in record["choices"])
    return Reply(**fields)
