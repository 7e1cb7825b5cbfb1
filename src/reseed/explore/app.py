"""The web app: addresses, what answers them, and what a browser may do with the answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any
from urllib.parse import quote

import jinja2
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from reseed.errors import ReseedError, SpecError
from reseed.explore.notes import Note
from reseed.explore.shelf import Query, Shelf
from reseed.explore.tables.columns import written
from reseed.report.html import asset, count, decimals, percent, rate, visible
from reseed.report.latents.cards import context_shown

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
"""No script but the app's own files runs, and nothing is fetched from elsewhere."""

_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

_LARGEST = 100_000
"""Bytes of what is sent to be kept."""

_KINDS = {".js": "text/javascript", ".css": "text/css"}
_FROM_REPORT = ("page.css", "draw.js")


View = Callable[[Query, Shelf], Mapping[str, Any]]
"""From the query of an address to what the template of the view shows."""


def make_app(
    known: Mapping[str, Shelf],
    views: Mapping[str, View],
    data: Mapping[str, View],
    hosts: Sequence[str],
) -> Starlette:
    """The app.

    Args:
        known: studies by their keys.
        views: name of a template and last part of the address, to what it shows.
        data: last part of an address to what it gives as JSON.
        hosts: names under which it may be addressed; `"*"` for any.
    """
    templates = _templates()

    def shown(
        name: str, shelf: Shelf | None, facts: Mapping[str, Any], status: int = 200
    ) -> Response:
        base: dict[str, Any] = {"shelf": shelf, "known": known, "view": name, "states": []}
        if shelf is not None and status == 200:
            base["states"] = shelf.database.missing()
        return HTMLResponse(
            templates.get_template(f"{name}.html").render({**base, **facts}), status
        )

    def failed(error: ReseedError, shelf: Shelf | None) -> Response:
        status = 400 if isinstance(error, SpecError) else 503
        return shown("error", shelf, {"message": str(error)}, status)

    def shelf_of(request: Request) -> Shelf:
        shelf = known.get(request.path_params["study"])
        if shelf is None:
            raise _Absent
        return shelf

    def page(name: str, view: View) -> Callable[[Request], Response]:
        def answer(request: Request) -> Response:
            shelf = shelf_of(request)
            try:
                shelf.database.refresh()
                query = {**request.query_params, **request.path_params}
                return shown(name, shelf, view(query, shelf))
            except ReseedError as error:
                return failed(error, shelf)

        return answer

    def json_of(view: View) -> Callable[[Request], Response]:
        def answer(request: Request) -> Response:
            shelf = shelf_of(request)
            try:
                shelf.database.refresh()
                return JSONResponse(view(request.query_params, shelf))
            except ReseedError as error:
                return JSONResponse({"error": str(error)}, 400)

        return answer

    def start(_: Request) -> Response:
        if len(known) == 1:
            return RedirectResponse(f"/{quote(next(iter(known)))}/latents")
        return shown("studies", None, {})

    def first(request: Request) -> Response:
        return RedirectResponse(f"/{quote(shelf_of(request).key)}/latents")

    def export(request: Request) -> Response:
        shelf, kind = shelf_of(request), request.path_params["kind"]
        if kind not in ("csv", "json"):
            raise _Absent
        disposition = {"Content-Disposition": f'attachment; filename="notes.{kind}"'}
        media = {"csv": "text/csv; charset=utf-8", "json": "application/json"}[kind]
        return Response(shelf.notes.exported(kind), media_type=media, headers=disposition)

    def report(request: Request) -> Response:
        path = shelf_of(request).database.folder.folder / "report.html"
        if not path.exists():
            raise _Absent
        return HTMLResponse(path.read_bytes())

    async def keep(request: Request) -> Response:
        shelf = known.get(request.path_params["study"])
        if shelf is None:
            raise _Absent
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

    def absent(request: Request, _: Exception) -> Response:
        key = request.path_params.get("study", "")
        keys = ", ".join(known)
        message = f"There is nothing at {request.url.path}. Shown here: {keys}."
        return shown("error", known.get(key), {"message": message}, 404)

    def fault(request: Request, error: Exception) -> Response:
        key = request.path_params.get("study", "")
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        message = f"{what}. This is a fault of reseed or of a library that it uses."
        return shown("error", known.get(key), {"message": message}, 500)

    routes = [Route("/", start), Route("/static/{name}", _static)]
    routes += [
        Route(f"/{{study}}/{name}", page(name.partition("/")[0], view))
        for name, view in views.items()
    ]
    routes += [Route(f"/{{study}}/{name}", json_of(view)) for name, view in data.items()]
    routes += [
        Route("/{study}/notes.{kind}", export),
        Route("/{study}", first),
        Route("/{study}/", first),
        Route("/{study}/report", report),
        Route("/{study}/note", keep, methods=["POST"]),
    ]
    hosts_checked = Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    return Starlette(
        routes=routes,
        middleware=[Middleware(_WithHeaders), hosts_checked],
        exception_handlers={_Absent: absent, 404: absent, 500: fault},
    )


class _Absent(Exception):  # noqa: N818  (an answer, not an error)
    """There is nothing at this address."""


class _WithHeaders:
    """Adds to each answer what a browser may do with it."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """As ASGI has it."""

        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = dict(_HEADERS)
                if scope["path"].endswith("/report"):  # its own policy names the hashes it runs
                    own["Content-Security-Policy"] = POLICY.replace(
                        "script-src 'self'", "script-src 'unsafe-inline'"
                    )
                if scope["path"].startswith("/static/"):
                    own["Cache-Control"] = "max-age=3600"
                more = [(k.lower().encode(), v.encode()) for k, v in own.items()]
                message = message | {"headers": [*message["headers"], *more]}
            await send(message)

        await self.app(scope, receive, sending)


def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name == "plotly.js":
        from plotly.offline import get_plotlyjs

        return Response(get_plotlyjs(), media_type=_KINDS[".js"])
    if name in _FROM_REPORT:
        return Response(asset(name), media_type=_KINDS["." + name.rpartition(".")[2]])
    if name not in _OWN:
        raise _Absent
    content = resources.files("reseed.explore").joinpath("assets", name).read_text("utf-8")
    return Response(content, media_type=_KINDS["." + name.rpartition(".")[2]])


_OWN = ("explore.css", "explore.js", "figures.js")


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
    own: dict[str, Any] = {"written": written, "context_shown": context_shown}
    environment.globals.update(own)
    return environment
