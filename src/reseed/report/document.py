"""A page as one HTML file that works offline: style, scripts and data inside."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from plotly.offline import get_plotlyjs

from reseed.report.markup import Html, join, tag

SCRIPTS = ("draw.js", "plots.js", "factors.js", "page.js")
"""What draws the report of a study."""


def document(
    title: str,
    body: Html,
    groups: Sequence[Mapping[str, Any]],
    scripts: Sequence[str] = SCRIPTS,
) -> str:
    """The whole file. Its policy lets no byte in from outside and runs no script but its own.

    Args:
        title: of the window.
        body: what is read.
        groups: what the figures of each section are drawn from.
        scripts: assets that draw them.
    """
    whole = [get_plotlyjs(), "\n".join(_asset(name) for name in scripts)]
    hashes = " ".join(f"'sha256-{_sha256(script)}'" for script in whole)
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name_="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Html(_asset("page.css"))),
    )
    data = tag("script", _script_data(groups), type="application/json", id="data")
    ending = join(data, *(tag("script", Html(script)) for script in whole))
    return f"<!doctype html>\n{tag('html', head, tag('body', body, ending), lang='en')}\n"


def _asset(name: str) -> str:
    return resources.files("reseed.report").joinpath("assets", name).read_text("utf-8")


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _script_data(groups: Sequence[Mapping[str, Any]]) -> Html:
    """The data of all figures as JSON that cannot end the script element it stands in."""
    data = {"groups": list(groups)}
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    escapes = {
        "<": "\\u003c",
        ">": "\\u003e",
        "&": "\\u0026",
        "\u2028": "\\u2028",
        "\u2029": "\\u2029",
    }
    for sign, code in escapes.items():
        text = text.replace(sign, code)
    return Html(text)
