"""The web app: its addresses, and what a browser may do with what they answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from reseed.explore.answers import AbsentError, Responder, View
from reseed.explore.shelf import Shelf
from reseed.report.html import asset

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

_KINDS = {".js": "text/javascript", ".css": "text/css"}
_FROM_REPORT = ("page.css", "draw.js")
_OWN = ("explore.css", "explore.js", "figures.js")


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
    answers = Responder(known)
    routes = [Route("/", answers.start), Route("/static/{name}", _static)]
    routes += [
        Route(f"/{{study}}/{name}", answers.page(name.partition("/")[0], view))
        for name, view in views.items()
    ]
    routes += [Route(f"/{{study}}/{name}", answers.values(view)) for name, view in data.items()]
    routes += [
        Route("/{study}/notes.{kind}", answers.notes),
        Route("/{study}", answers.first),
        Route("/{study}/", answers.first),
        Route("/{study}/report", answers.report),
        Route("/{study}/note", answers.keep, methods=["POST"]),
    ]
    hosts_checked = Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    return Starlette(
        routes=routes,
        middleware=[Middleware(_WithHeaders), hosts_checked],
        exception_handlers={AbsentError: answers.absent, 404: answers.absent, 500: answers.fault},
    )


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
        raise AbsentError
    content = resources.files("reseed.explore").joinpath("assets", name).read_text("utf-8")
    return Response(content, media_type=_KINDS["." + name.rpartition(".")[2]])
