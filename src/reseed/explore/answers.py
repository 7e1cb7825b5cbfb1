"""What is answered at each kind of address: pages, JSON, files, and what is kept."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import jinja2
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from reseed.errors import ReseedError, SpecError
from reseed.explore.notes import Note
from reseed.explore.shelf import Query, Shelf
from reseed.explore.tables.columns import written
from reseed.report.html import count, decimals, percent, rate, visible
from reseed.report.latents.cards import context_shown
from reseed.report.latents.crops import crops_shown

_LARGEST = 100_000
"""Bytes of what is sent to be kept."""

View = Callable[[Query, Shelf], Mapping[str, Any]]
"""From the query of an address to what the template of the view shows."""

Answer = Callable[[Request], Response]


class AbsentError(Exception):
    """There is nothing at this address."""


class Responder:
    """The answers about these studies, by their keys."""

    def __init__(self, known: Mapping[str, Shelf]) -> None:
        self._known, self._templates = known, _templates()

    def page(self, name: str, view: View) -> Answer:
        """Answers with the template `name`, filled by the view."""

        def answer(request: Request) -> Response:
            shelf = self._shelf(request)
            try:
                shelf.database.refresh()
                query = {**request.query_params, **request.path_params}
                return self._shown(name, shelf, view(query, shelf))
            except ReseedError as error:
                status = 400 if isinstance(error, SpecError) else 503
                return self._shown("error", shelf, {"message": str(error)}, status)

        return answer

    def values(self, view: View) -> Answer:
        """Answers with what the view gives, as JSON."""

        def answer(request: Request) -> Response:
            shelf = self._shelf(request)
            try:
                shelf.database.refresh()
                return JSONResponse(view(request.query_params, shelf))
            except ReseedError as error:
                return JSONResponse({"error": str(error)}, 400)

        return answer

    def start(self, _: Request) -> Response:
        """The list of studies, or the only one."""
        if len(self._known) == 1:
            return RedirectResponse(f"/{quote(next(iter(self._known)))}/latents")
        return self._shown("studies", None, {})

    def first(self, request: Request) -> Response:
        """To the table of a study."""
        return RedirectResponse(f"/{quote(self._shelf(request).key)}/latents")

    def notes(self, request: Request) -> Response:
        """Stars and notes as a file."""
        shelf, kind = self._shelf(request), request.path_params["kind"]
        if kind not in ("csv", "json"):
            raise AbsentError
        disposition = {"Content-Disposition": f'attachment; filename="notes.{kind}"'}
        media = {"csv": "text/csv; charset=utf-8", "json": "application/json"}[kind]
        return Response(shelf.notes.exported(kind), media_type=media, headers=disposition)

    def report(self, request: Request) -> Response:
        """The report as it lies in the folder."""
        path = self._shelf(request).database.folder.folder / "report.html"
        if not path.exists():
            raise AbsentError
        return HTMLResponse(path.read_bytes())

    async def keep(self, request: Request) -> Response:
        """Keep a star or a note."""
        shelf = self._shelf(request)
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return JSONResponse({"error": "only the explorer's own pages may write notes"}, 403)
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            return JSONResponse({"error": "a note is sent as application/json"}, 415)
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _LARGEST:
                return JSONResponse({"error": f"more than {_LARGEST:,} bytes"}, 413)
        try:
            await run_in_threadpool(shelf.notes.keep, Note.model_validate(json.loads(body)))
        except (ValidationError, ValueError, ReseedError) as error:
            return JSONResponse({"error": str(error)}, 400)
        return JSONResponse({"kept": str(shelf.notes.path)})

    def absent(self, request: Request, _: Exception) -> Response:
        """That there is nothing."""
        message = f"There is nothing at {request.url.path}. Shown here: {', '.join(self._known)}."
        return self._failed(request, message, 404)

    def fault(self, request: Request, error: Exception) -> Response:
        """That something is wrong here."""
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        message = f"{what}. This is a fault of reseed or of a library that it uses."
        return self._failed(request, message, 500)

    def _failed(self, request: Request, message: str, status: int) -> Response:
        shelf = self._known.get(request.path_params.get("study", ""))
        return self._shown("error", shelf, {"message": message}, status)

    def _shelf(self, request: Request) -> Shelf:
        shelf = self._known.get(request.path_params["study"])
        if shelf is None:
            raise AbsentError
        return shelf

    def _shown(
        self, name: str, shelf: Shelf | None, facts: Mapping[str, Any], status: int = 200
    ) -> Response:
        base: dict[str, Any] = {"shelf": shelf, "known": self._known, "view": name, "states": []}
        if shelf is not None and status == 200:
            base["states"] = shelf.database.missing()
        page = self._templates.get_template(f"{name}.html").render({**base, **facts})
        return HTMLResponse(page, status)


def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("reseed.explore", "assets"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    numbers = {"percent": percent, "decimals": decimals, "rate": rate, "count": count}
    environment.filters.update(numbers | {"visible": visible})
    own: dict[str, Any] = {"written": written, "context_shown": context_shown, "place": _place}
    own["crops_shown"] = crops_shown
    environment.globals.update(own)
    return environment


def _place(value: float, low: float, high: float) -> float:
    """Where a value lies between two ends on a logarithmic axis: 0 to 1."""
    return math.log(value / low) / math.log(high / low)
