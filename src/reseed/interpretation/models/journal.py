"""An append-only journal of what was asked and answered: it makes every rerun free.

One JSON object a line, ASCII, with a checksum of the rest of the line. Two kinds of lines:

    {"sum": ..., "text": DIGEST, "content": "..."}                       a long message, once
    {"sum": ..., "key": DIGEST, "asked": {...}, "answer": {...}, ...}    a question and its answer

A line is handed to the system in one write before anybody sees the answer, so a killed process
loses nothing that it used. It is pushed to the disk (fsync) at least every second and at the end,
so a power cut loses the answers of about a second, which are asked again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from reseed.errors import BusyError, StoreError, explained
from reseed.seeds import digest

_SYNC_SECONDS = 1.0

_LONG = 200
"""Characters from which a message is written once and referred to: few-shot prompts repeat."""

_SUM = 16

_BEGIN = b'{"sum":"'


class Journal:
    """Answers by the key of their question, in one file, held by one process.

    Only the places of answers are in memory, about 200 bytes each. May be used from several
    threads.

    Args:
        path: the file; made if it is missing.

    Attributes:
        torn: bytes of an unfinished last line that were dropped on opening.
        damaged: whole lines whose checksum is wrong; they stay in the file and count as not asked.

    Raises:
        BusyError: if another process has it open.
        StoreError: if it cannot be written or is no journal.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.torn = self.damaged = 0
        self._lock = threading.Lock()
        self._places: dict[str, tuple[int, int]] = {}
        self._texts: set[str] = set()
        self._synced = time.monotonic()
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._hold()
            self._end = self._scan()
        except BaseException:
            os.close(self._file)
            raise
        self._open = True

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def answer(self, key: str) -> dict[str, Any] | None:
        """The answer to a question, or None if it was never answered.

        Raises:
            StoreError: if the file was changed under our hands.
        """
        with self._lock:
            place = self._places.get(key)
            line = os.pread(self._file, place[1], place[0]) if place and self._open else b""
        if place is None:
            return None
        record = _checked(line)
        if record is None or record.get("key") != key:
            raise StoreError(
                f"{self.path} was closed or changed while it was in use: the answer at byte "
                f"{place[0]} is gone. Run the same command again; what is missing is asked again."
            )
        return dict(record["answer"])

    def add(
        self,
        key: str,
        asked: Mapping[str, Any],
        answer: Mapping[str, Any],
        **about: Any,
    ) -> None:
        """Write down one answer; it is with the system when this returns.

        Args:
            key: of the question.
            asked: the question; long contents of its `messages` are written once.
            answer: JSON.
            about: further fields, e.g. `seconds`.

        Raises:
            StoreError: if the disk is full; the journal is as before.
        """
        with self._lock:
            texts, short = self._shortened(asked)
            record = {"key": key, "asked": short, "answer": answer, "time": _now(), **about}
            line = _line(record)
            before = b"".join(_line({"text": k, "content": v}) for k, v in texts.items())
            self._append(before + line)
            self._places[key] = (self._end - len(line), len(line) - 1)
            self._texts |= set(texts)
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

    def _scan(self) -> int:
        """Learn what is there; cut off what a killed process left half-written."""
        end = 0
        with open(self._file, "rb", closefd=False) as handle:
            for line in handle:
                record = _checked(line.rstrip(b"\n"))
                if end == 0 and not _BEGIN.startswith(line[: len(_BEGIN)]):
                    raise StoreError(
                        f"{self.path} is no journal: its first line is something else. Choose "
                        "another file; this one was left as it is."
                    )
                if not line.endswith(b"\n"):
                    self._mend(line, whole=record is not None)
                if record is None:
                    self.damaged += line.endswith(b"\n")
                else:
                    self._learn(record, end, len(line.rstrip(b"\n")))
                end += len(line)
        return os.fstat(self._file).st_size

    def _mend(self, line: bytes, whole: bool) -> None:
        """Finish a last line that lacks its end of line only, else take it away."""
        size = os.fstat(self._file).st_size
        with explained(self.path):
            if whole:
                os.pwrite(self._file, b"\n", size)
            else:
                os.ftruncate(self._file, size - len(line))
                self.torn = len(line)

    def _learn(self, record: dict[str, Any], start: int, length: int) -> None:
        if "text" in record:
            self._texts.add(str(record["text"]))
        elif "key" in record:
            self._places[str(record["key"])] = (start, length)

    def _shortened(self, asked: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
        texts: dict[str, str] = {}
        messages: list[Any] = []
        for message in asked.get("messages", ()):
            content = str(message["content"])
            if len(content) < _LONG:
                messages.append(message)
                continue
            name = digest(content, 24)
            if name not in self._texts:
                texts[name] = content
            messages.append({**message, "content": {"text": name}})
        return texts, {**asked, "messages": messages} if messages else dict(asked)

    def _append(self, data: bytes) -> None:
        if not self._open:
            raise StoreError(f"{self.path} is closed; nothing can be written to it")
        with explained(self.path):
            try:
                done = 0
                while done < len(data):
                    done += os.pwrite(self._file, data[done:], self._end + done)
            except BaseException:
                os.ftruncate(self._file, self._end)
                raise
        self._end += len(data)

    def _sync(self) -> None:
        with explained(self.path):
            os.fsync(self._file)
        self._synced = time.monotonic()


def entries(path: Path) -> Generator[dict[str, Any], None, None]:
    """Every question and answer of a journal, oldest first, with long messages put back.

    Reads only, so it may be used while another process writes; an unfinished last line is left out.

    Raises:
        StoreError: if there is no such file.
    """
    texts: dict[str, str] = {}
    try:
        handle = open(path, "rb")  # noqa: SIM115  (closed below)
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror})") from error
    with handle:
        for line in handle:
            record = _checked(line.rstrip(b"\n")) if line.endswith(b"\n") else None
            if record is None:
                continue
            if "text" in record:
                texts[str(record["text"])] = str(record["content"])
            elif "key" in record:
                yield {**record, "asked": _lengthened(record["asked"], texts)}


def _lengthened(asked: dict[str, Any], texts: Mapping[str, str]) -> dict[str, Any]:
    if "messages" not in asked:
        return asked
    messages: list[Any] = []
    for message in asked["messages"]:
        content = message["content"]
        if isinstance(content, dict):
            content = texts.get(str(content["text"]), "(this text was in a damaged line)")
        messages.append({**message, "content": content})
    return {**asked, "messages": messages}


def _line(record: Mapping[str, Any]) -> bytes:
    """With the checksum in front. ASCII, so that no character can break the line."""
    rest = json.dumps(record, separators=(",", ":"), ensure_ascii=True, allow_nan=False)[1:]
    return f'{{"sum":"{_sum(rest.encode())}",{rest}\n'.encode()


def _checked(line: bytes) -> dict[str, Any] | None:
    """The record of a line without its end, or None if its checksum is wrong."""
    head = len(_BEGIN) + _SUM
    rest = line[head + 2 :]  # after `",`
    if line[:head] != _BEGIN + _sum(rest).encode():
        return None
    return json.loads(b"{" + rest)


def _sum(rest: bytes) -> str:
    return hashlib.sha256(rest).hexdigest()[:_SUM]


def _now() -> float:
    return round(time.time(), 3)
