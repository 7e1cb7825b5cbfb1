"""JSON to an OpenAI-compatible server and back, however it behaves.

What may pass is tried again; what will not ends the work with a `ModelError`; all else is a
`Failure` of that one question. The key is read from the environment for each request and is in no
object, message or log of ours.

All requests of a server run in one event loop, in a thread of its own. There a deadline holds for a
whole request, whatever comes (the time-outs of httpx begin anew with every byte), all that is under
way can be called off, and what the requests share needs no lock.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading
import time
from collections.abc import Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import urlsplit

from reseed.errors import ModelError, SpecError, extra_missing
from reseed.interpretation.models import BilledFailure
from reseed.interpretation.models.limits import (
    Gate,
    asked_to_wait,
    hidden,
    key_of,
    quoted,
    shown,
    used_up,
)
from reseed.interpretation.records import Failure
from reseed.spec.llm import Connection

if TYPE_CHECKING:
    import httpx

GIVE_UP = 8
"""Questions in a row that came to nothing before the work is stopped."""

_DEADLINE = 10
"""Time-outs that a whole request may take: some routers send blanks while a model thinks."""

_REFUSED = frozenset({401, 402, 405, 407})
_REFUSED_AT_FIRST = frozenset({403, 404})
"""After an answer these are about the question: a filter of contents, an option nobody serves."""

_MAY_PASS = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})

_KEPT = 20_000
"""Characters of an unusable answer that are kept with its failure."""

_LONG_KEY = 12
"""Shorter keys (`EMPTY`, `none`) are no secret, and may be words of a reply."""

FORM = re.compile(r"response_format|max_tokens|temperature|system role", re.IGNORECASE)
"""What in a refusal speaks of the form of a question, which can be changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A request that the server will not take as it is written (400, 422, ...)."""

    status: int
    text: str


class _Lost(Exception):  # noqa: N818  (never leaves this file)
    """An attempt without a usable answer."""

    def __init__(self, reason: str, text: str | None = None) -> None:
        super().__init__(reason)
        self.reason, self.text = reason, text


class _Again(_Lost):
    """One that may pass."""


S = TypeVar("S", bound=Connection)


class Server(Generic[S]):
    """One server, for chat or embeddings. May be used from several threads.

    Args:
        spec: where the server is, which model, how patient to be.
        transport: of httpx, in place of the network; for tests, as is the gate.
        gate: holds requests back.

    Raises:
        ImportError: naming the extra, if a package is missing.
        SpecError: if the variable with the key is not set, or if proxies or certificates that the
            environment names cannot be used.
    """

    def __init__(
        self,
        spec: S,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        gate: Gate | None = None,
    ) -> None:
        try:
            import httpx
            import stamina
        except ModuleNotFoundError as error:
            raise ImportError(extra_missing(error, "a model behind a server")) from error
        self.spec = spec
        key_of(spec)
        # A proxy of the environment is for other machines.
        local = urlsplit(spec.base_url).hostname in ("localhost", "127.0.0.1", "::1")
        try:
            self._client = httpx.AsyncClient(
                timeout=httpx.Timeout(spec.timeout, connect=min(spec.timeout, 20.0), pool=None),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
                headers={"content-type": "application/json", "accept-encoding": "identity"},
                trust_env=not local,
                transport=transport,
            )
        except (ImportError, ValueError, OSError) as error:
            why = re.sub(r"//[^/\s]*@", "//", str(error))  # a proxy may have a password
            raise SpecError(
                f"no connection to {spec.base_url} with what the environment says of proxies and "
                f"certificates (HTTPS_PROXY, ALL_PROXY, SSL_CERT_FILE ...): {why}"
            ) from None
        # Else every attempt would print a line between those of the progress.
        logging.getLogger("stamina").addHandler(logging.NullHandler())
        self._attempts = partial(
            stamina.retry_context,
            on=_Again,
            attempts=spec.retries + 1,
            timeout=None,
            wait_initial=0.5,
            wait_max=60.0,
            wait_jitter=0.5,
        )
        self._gate = gate or Gate()
        self._lost, self._ever = 0, False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Call off what is under way and close the connections."""
        if not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.aclose()

    def post(self, path: str, payload: Mapping[str, Any]) -> dict[str, Any] | Failure | Refused:
        """Send JSON, with retries, to a path after the base URL; give the JSON that comes back."""
        body = json.dumps(payload, ensure_ascii=True, allow_nan=False).encode()
        if not self._loop.is_closed():
            try:
                return asyncio.run_coroutine_threadsafe(self._post(path, body), self._loop).result()
            except CancelledError:
                pass
        raise ModelError(f"{self.place} was closed; nothing more is asked")

    async def _post(self, path: str, body: bytes) -> dict[str, Any] | Failure | Refused:
        try:
            async for attempt in self._attempts():
                with attempt:
                    await self._gate.wait()
                    came = await self._attempt(path, body)
                    self._lost, self._ever = 0, True
                    return came
        except _Lost as last:
            return self._given_up(last)
        raise AssertionError("the last attempt returns or raises")

    def _given_up(self, last: _Lost) -> Failure:
        again = f" in {self.spec.retries + 1} attempts, last" if isinstance(last, _Again) else ""
        reason = f"no usable answer{again}: {last.reason}"
        self._lost += 1
        if self._lost >= GIVE_UP or not self._ever:
            first = f"{self._lost} questions in a row" if self._ever else "The first question"
            raise ModelError(
                f"{self.place}: {reason}. {first} got nowhere, so no more are asked. See whether "
                "the server runs; all answers are kept, the same command continues."
                f"{quoted(last.text)}"
            )
        return Failure(reason=reason, text=last.text)

    # -- one attempt -------------------------------------------------------------------------------

    async def _attempt(self, path: str, body: bytes) -> dict[str, Any] | Failure | Refused:
        import httpx

        key, limit = key_of(self.spec), _DEADLINE * self.spec.timeout
        url = self.spec.base_url + path
        headers = {"authorization": f"Bearer {key}"} if key else {}
        try:
            async with (
                asyncio.timeout(limit),
                self._client.stream("POST", url, content=body, headers=headers) as response,
            ):
                raw = bytearray()
                async for part in response.aiter_bytes():
                    raw += part
                    if len(raw) > self.spec.max_reply_bytes:  # the rest is not read
                        size = self.spec.max_reply_bytes
                        reason = f"the answer is longer than max_reply_bytes = {size}"
                        return BilledFailure(reason=reason)
        except TimeoutError:
            raise _Lost(f"no whole answer in {limit:g} s, though something came") from None
        except httpx.TimeoutException:
            raise _Again(f"nothing came for {self.spec.timeout:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            raise _Again(shown(hidden(f"{type(error).__name__}: {error}", key))) from None
        return self._read(response.status_code, response.headers, bytes(raw), key)

    def _read(
        self, status: int, headers: Mapping[str, str], raw: bytes, key: str | None
    ) -> dict[str, Any] | Refused:
        text = raw.decode("utf-8", "replace")
        if status != 200 or len(key or "") >= _LONG_KEY:
            text = hidden(text, key)
        if status != 200:
            return self._refusal(status, text, headers)
        wait = used_up(headers, time.time())
        if wait is not None:
            self._gate.close(min(wait, self.spec.max_wait))
        try:
            raw.decode("utf-8")
            value = json.loads(text)
        except UnicodeDecodeError:
            raise _Again("the answer is not UTF-8", text[:_KEPT]) from None
        except (ValueError, RecursionError):
            what = "is not JSON, or cut short" if text.strip() else "is empty"
            raise _Again(f"the answer {what}", text[:_KEPT]) from None
        if not isinstance(value, dict):
            raise _Again("the answer is no JSON object", text[:_KEPT])
        error = value.get("error")
        if error:  # some routers send errors with status 200
            code = error.get("code") if isinstance(error, dict) else None
            status = code if isinstance(code, int) and code >= 400 else 500
            return self._refusal(status, text, headers)
        return value

    def _refusal(self, status: int, text: str, headers: Mapping[str, str]) -> Refused:
        # some say 500 to a form of the question that they do not know: that will not pass
        if status in _MAY_PASS and not (status == 500 and FORM.search(text)):
            wait = asked_to_wait(headers, time.time())
            if wait is not None and wait > self.spec.max_wait:
                raise ModelError(
                    f"{self.place} asks to wait {wait:.0f} s (HTTP {status}), longer than max_wait "
                    f"= {self.spec.max_wait:g} s. All answers are kept: run the same command again "
                    "later, or raise max_wait."
                )
            self._gate.close(wait or 0.0)
            raise _Again(f"HTTP {status}", text[:_KEPT])
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
        return f"{self.place} answers HTTP {status}: {cause}. Nothing more is asked.{quoted(text)}"

    @property
    def name(self) -> str:
        """The model, as the server calls it."""
        return self.spec.model

    @property
    def place(self) -> str:
        """The server and the model, for messages."""
        return f"{self.spec.base_url} (model {self.spec.model!r})"
