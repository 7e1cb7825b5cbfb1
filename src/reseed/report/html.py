"""HTML that is safe by construction: text is escaped unless it was made here."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

from plotly.offline import get_plotlyjs

_EMPTY = frozenset({"br", "col", "meta"})


class Html(str):
    """Text that is HTML already; everything else is escaped when it is put into a tag."""

    __slots__ = ()


Inside = str | Html | None


def tag(name: str, *inside: Inside, **attributes: str | int | bool | None) -> Html:
    """An element with its content.

    Args:
        name: of the element.
        inside: its content; plain text is escaped, None is left out.
        attributes: `class_` stands for class, `name_` for name, underscores inside a name for
            hyphens; None and False are left out, True is an attribute without a value.

    Example:
        >>> tag("p", "a < b", class_="note")
        '<p class="note">a &lt; b</p>'
    """
    shown = "".join(
        _attribute(k, v) for k, v in attributes.items() if v is not None and v is not False
    )
    if name in _EMPTY:
        return Html(f"<{name}{shown}>")
    return Html(f"<{name}{shown}>{join(*inside)}</{name}>")


def join(*parts: Inside) -> Html:
    """Parts one after the other; plain text is escaped."""
    return Html("".join(p if isinstance(p, Html) else escape(p) for p in parts if p is not None))


def table(
    head: list[Inside], rows: list[list[Html]], *, caption: str, class_: str | None = None
) -> Html:
    """A table in a box of its own that scrolls sideways where the screen is narrow.

    Args:
        head: of the columns.
        rows: cells, made with `tag("td", ...)`.
        caption: read out by screen readers.
        class_: of the table.
    """
    top = tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in head)))
    body = tag("tbody", *(tag("tr", *row) for row in rows))
    inside = tag("table", tag("caption", caption), top, body, class_=class_)
    return tag("div", inside, class_="scroll", tabindex=0, role="region", aria_label=caption)


def _attribute(name: str, value: str | int | bool) -> str:
    name = name.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(str(value))}"'


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


_TABS = 6
"""Up to so many sections are chosen by buttons; more by a list."""


def figure(
    name: str, title: str, caption: Inside, *before: Inside, height: str = "", **data: str
) -> Html:
    """A figure: title, plot, legend (both filled by the script) and how to read it."""
    plot = tag(
        "div", class_=f"plot {height}".strip(), data_plot=name, role="img", aria_label=title, **data
    )
    legend = tag("div", class_="legend")
    return tag("figure", tag("h3", title), *before, plot, legend, tag("figcaption", caption))


def pair(*figures: Html) -> Html:
    """Two figures side by side where the screen is wide enough."""
    return tag("div", *figures, class_="pair")


def choice(name: str, label: str, options: Sequence[str]) -> Html:
    """A list to choose from; the figure below it is drawn anew."""
    inside = (tag("option", option, value=option) for option in options)
    return tag("label", label, " ", tag("select", *inside, data_option=name))


def chooser(labels: Sequence[str], what: str) -> Html | None:
    """Which of several sections is shown; None if there is one.

    Args:
        labels: of the sections, in their order.
        what: one of them is, e.g. `"SAE"`.
    """
    if len(labels) < 2:
        return None
    if len(labels) <= _TABS:
        buttons = (
            tag("button", label, type="button", data_choose=n, aria_pressed=str(n == 0).lower())
            for n, label in enumerate(labels)
        )
        return tag("nav", *buttons, class_="tabs", aria_label=f"Which {what}")
    options = (tag("option", label, value=n) for n, label in enumerate(labels))
    return tag("nav", tag("label", f"{what} ", tag("select", *options, id="choose")), class_="tabs")
