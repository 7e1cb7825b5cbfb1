"""JSON to an OpenAI-compatible server and back, however it behaves.

What may pass is tried again; what will not ends the work with a `ModelError`; all else is a
`Failure` of that one question. The key is read from the environment for each request and is in no
object, message or log of ours.

How long to wait before asking a server again: what it says, else longer and longer.

The clock and the sleep are arguments, so that tests need neither.
"""

from __future__ import annotations

import json
import math
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from reseed.errors import ModelError, SpecError, extra_missing
from reseed.interpretation.records import Failure
from reseed.seeds import digest, generator
from reseed.spec.llm import Connection

if TYPE_CHECKING:
    import httpx


_FIRST_SECONDS, _LONGEST_SECONDS = 0.5, 60.0

_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

_PIECE = r"(\d+(?:\.\d+)?)(ms|s|m|h|d)"


def backoff(attempt: int, key: str) -> float:
    """Seconds before attempt number `attempt` + 1: doubling, with jitter from the question's key.

    Between half and all of 0.5, 1, 2, ... 60 s. Questions that failed together come back apart.
    """
    longest = min(_FIRST_SECONDS * 2.0**attempt, _LONGEST_SECONDS)
    return longest * float(generator("backoff", key, attempt).uniform(0.5, 1.0))


def asked_to_wait(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that a refusal asks for, or None.

    `Retry-After` (seconds or a date) and `retry-after-ms` count first, then whatever limit of
    `x-ratelimit-*` has nothing left.

    Args:
        headers: with lower-case names.
        now: seconds since 1970.
    """
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1e3
    after = headers.get("retry-after", "").strip()
    seconds = _number(after)
    if seconds is None and after:
        try:
            seconds = max(parsedate_to_datetime(after).timestamp() - now, 0.0)
        except (ValueError, TypeError, OverflowError):
            seconds = None
    return used_up(headers, now) if seconds is None else seconds


def used_up(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds until a limit with nothing left is reset, by `x-ratelimit-*`; None if none is.

    Understands OpenAI's pairs (`x-ratelimit-remaining-requests`, `-tokens` with durations like
    `6m0s` in `x-ratelimit-reset-...`) and the single one of others (`x-ratelimit-remaining` and
    `-reset` as seconds, or as a time in seconds or milliseconds since 1970).
    """
    waits: list[float] = []
    for what in ("", "-requests", "-tokens"):
        remaining = _number(headers.get(f"x-ratelimit-remaining{what}", ""))
        reset = _duration(headers.get(f"x-ratelimit-reset{what}", ""), now)
        if remaining is not None and remaining <= 0 and reset is not None:
            waits.append(reset)
    return max(waits, default=None)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _duration(text: str, now: float) -> float | None:
    value = _number(text)
    if value is not None:
        if value > 1e11:  # milliseconds since 1970
            return max(value / 1e3 - now, 0.0)
        return max(value - now, 0.0) if value > 1e8 else value
    if not re.fullmatch(f"(?:{_PIECE})+", text.strip()):
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in re.findall(_PIECE, text))


class Gate:
    """Holds all threads back until a time that a server named.

    Args:
        sleep: takes seconds.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.sleep, self._clock = sleep, clock
        self._lock = threading.Lock()
        self._until = 0.0

    def close(self, seconds: float) -> None:
        """Let nobody through for so long."""
        with self._lock:
            self._until = max(self._until, self._clock() + seconds)

    def wait(self) -> None:
        """Return when the gate is open."""
        while True:
            with self._lock:
                left = self._until - self._clock()
            if left <= 0:
                return
            self.sleep(left)


_REFUSED = frozenset({401, 402, 405, 407})

_REFUSED_AT_FIRST = frozenset({403, 404})
"""After an answer these are about the question: a filter of contents, an option nobody serves."""

_MAY_PASS = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})

_GIVE_UP = 8
"""Questions in a row that no attempt got through before the server counts as gone."""

_SHOWN = 300

_KEPT = 20_000
"""Characters of an unusable answer that are kept with its failure."""

_LONG_KEY = 12
"""Shorter keys (`EMPTY`, `none`) are no secret, and may be words of a reply."""

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A request that the server will not take as it is written (400, 422, ...)."""

    status: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Again:
    """An attempt that failed in a way that may pass."""

    reason: str
    text: str | None = None
    wait: float | None = None
    """seconds that the server asks for"""


class Server:
    """One server. May be used from several threads.

    Args:
        spec: where it is and how patient to be.
        transport: of httpx, in place of the network.
        gate: holds requests back; for tests.

    Raises:
        ImportError: naming the extra, if httpx is missing.
        SpecError: if the variable with the key is not set, or holds what cannot be a key.
    """

    def __init__(
        self,
        spec: Connection,
        *,
        transport: httpx.BaseTransport | None = None,
        gate: Gate | None = None,
    ) -> None:
        try:
            import httpx
        except ModuleNotFoundError as error:
            raise ImportError(extra_missing(error, "a model behind a server")) from error
        self.spec = spec
        self._key()
        # A proxy of the environment is for other machines.
        local = urlsplit(spec.base_url).hostname in _LOOPBACK
        self._client = httpx.Client(
            timeout=httpx.Timeout(spec.timeout, connect=min(spec.timeout, 20.0), pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
            headers={"content-type": "application/json", "accept-encoding": "identity"},
            trust_env=not local,
            transport=transport,
        )
        self._gate = gate or Gate()
        self._lock = threading.Lock()
        self._lost, self._ever = 0, False

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def post(self, path: str, payload: Mapping[str, Any]) -> dict[str, Any] | Failure | Refused:
        """Send JSON, with retries, and give the JSON object that comes back.

        Args:
            path: after the base URL, e.g. `"/chat/completions"`.
            payload: JSON.

        Raises:
            ModelError: if the server refuses the key or the model, is gone, or asks to wait longer
                than `max_wait`.
        """
        body = json.dumps(payload, ensure_ascii=True, allow_nan=False).encode()
        key = digest(payload, 16)
        last = _Again(reason="not tried")
        for attempt in range(self.spec.retries + 1):
            if attempt:
                self._pause(last, attempt - 1, key)
            self._gate.wait()
            came = self._attempt(path, body)
            if not isinstance(came, _Again):
                with self._lock:
                    self._lost, self._ever = 0, True
                return came
            last = came
        return self._given_up(last)

    def _pause(self, last: _Again, attempt: int, key: str) -> None:
        own = backoff(attempt, key)
        if last.wait is None:
            self._gate.sleep(own)
            return
        if last.wait > self.spec.max_wait:
            raise ModelError(
                f"{self._name()} asks to wait {last.wait:.0f} s ({last.reason}), longer than "
                f"max_wait = {self.spec.max_wait:g} s. All answers are kept: run the same command "
                "again later, or raise max_wait."
            )
        self._gate.close(last.wait)
        self._gate.sleep(own)

    def _given_up(self, last: _Again) -> Failure:
        tries = self.spec.retries + 1
        reason = f"no usable answer in {tries} attempts, last: {last.reason}"
        with self._lock:
            self._lost += 1
            gone = self._lost >= _GIVE_UP or not self._ever
        if gone:
            raise ModelError(
                f"{self._name()}: {reason}. "
                f"{f'{self._lost} questions in a row' if self._ever else 'The first question'} "
                "got nowhere, so no more are asked. See whether the server runs; all answers are "
                f"kept, the same command continues.{_told(last.text)}"
            )
        return Failure(reason=reason, text=last.text)

    # -- one attempt -------------------------------------------------------------------------------

    def _attempt(self, path: str, body: bytes) -> dict[str, Any] | Failure | Refused | _Again:
        import httpx

        key = self._key()
        headers = {"authorization": f"Bearer {key}"} if key else {}
        url = self.spec.base_url + path
        try:
            with self._client.stream("POST", url, content=body, headers=headers) as response:
                raw = self._body(response)
        except httpx.TimeoutException:
            return _Again(reason=f"nothing came for {self.spec.timeout:g} s")
        except httpx.HTTPError as error:
            return _Again(reason=self._hidden(f"{type(error).__name__}: {error}", key))
        if raw is None:
            return Failure(
                reason=f"the answer is longer than max_reply_bytes = {self.spec.max_reply_bytes}"
            )
        return self._read(response, raw, key)

    def _body(self, response: httpx.Response) -> bytes | None:
        """The body, or None if it is too long; what is too long is not read."""
        parts: list[bytes] = []
        size = 0
        deadline = time.monotonic() + 10 * self.spec.timeout
        for part in response.iter_bytes():
            size += len(part)
            parts.append(part)
            if size > self.spec.max_reply_bytes:
                return None
            if time.monotonic() > deadline:  # a byte now and then is no answer either
                import httpx

                raise httpx.ReadTimeout("the answer drips")
        return b"".join(parts)

    def _read(
        self, response: httpx.Response, raw: bytes, key: str | None
    ) -> dict[str, Any] | Failure | Refused | _Again:
        status, headers = response.status_code, {k.lower(): v for k, v in response.headers.items()}
        text = raw.decode("utf-8", "replace")
        if key and (status != 200 or len(key) >= _LONG_KEY):
            text = text.replace(key, "[key]")
        if status == 200:
            wait = used_up(headers, time.time())
            if wait is not None:
                self._gate.close(min(wait, self.spec.max_wait))
            return self._object(text, headers, broken=_broken(raw))
        return self._refusal(status, text, headers)

    def _object(
        self, text: str, headers: Mapping[str, str], broken: bool
    ) -> dict[str, Any] | Failure | Refused | _Again:
        if broken:
            return _Again(reason="the answer is not UTF-8", text=text[:_KEPT])
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            what = "is empty" if not text.strip() else "is not JSON, or cut short"
            return _Again(reason=f"the answer {what}", text=text[:_KEPT])
        if not isinstance(value, dict):
            return _Again(reason="the answer is no JSON object", text=text[:_KEPT])
        error = value.get("error")
        if error:  # some routers send errors with status 200
            code = error.get("code") if isinstance(error, dict) else None
            status = code if isinstance(code, int) and code >= 400 else 500
            return self._refusal(status, text, headers)
        return value

    def _refusal(self, status: int, text: str, headers: Mapping[str, str]) -> Refused | _Again:
        # llama-cpp-python says 500 to a form of reply that it does not know: that will not pass
        if status in _MAY_PASS and "response_format" not in text:
            wait = asked_to_wait(headers, time.time())
            return _Again(reason=f"HTTP {status}", text=text[:_KEPT], wait=wait)
        first = status in _REFUSED_AT_FIRST and not self._ever and "moderat" not in text.lower()
        if first or status in _REFUSED or 300 <= status < 400:
            raise ModelError(self._stop(status, text))
        return Refused(status=status, text=text[:_KEPT])

    # -- words -------------------------------------------------------------------------------------

    def _stop(self, status: int, text: str) -> str:
        variable = self.spec.key_env
        key = f"the key in ${variable}" if variable else "a request without a key (key_env)"
        cause = {
            401: f"{key} is refused",
            402: "the account has no credit left",
            403: f"{key} may not use this model, or the address is blocked",
            404: f"it has no model {self.spec.model!r}, or base_url does not end as it should "
            "(usually with /v1)",
            405: "base_url is not an OpenAI-compatible address",
            407: "a proxy between wants a password",
        }.get(status, "it points elsewhere; put the address that it points to into base_url")
        return f"{self._name()} answers HTTP {status}: {cause}. Nothing more is asked.{_told(text)}"

    def _name(self) -> str:
        return f"{self.spec.base_url} (model {self.spec.model!r})"

    def _key(self) -> str | None:
        variable = self.spec.key_env
        if variable is None:
            return None
        key = os.environ.get(variable, "").strip()
        if not key:
            raise SpecError(
                f"the environment variable {variable} (key_env of model {self.spec.model!r}) is "
                f"not set. Set it in the shell: export {variable}=..."
            )
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise SpecError(f"what ${variable} holds cannot be a key: it has blanks or the like")
        return key

    def _hidden(self, text: str, key: str | None) -> str:
        return " ".join((text.replace(key, "[key]") if key else text).split())[:_SHOWN]


def _told(text: str | None) -> str:
    """What the server said, for the end of a message."""
    short = " ".join((text or "").split())[:_SHOWN]
    return f" It says: {short}" if short else ""


def _broken(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return True
    return False
