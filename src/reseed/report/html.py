"""HTML that is safe by construction: text is escaped unless it was made here."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from html import escape
from importlib import resources
from itertools import takewhile
from typing import Any

from plotly.offline import get_plotlyjs

from reseed.report.numbers import NONE

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
    rows: Sequence[Mapping[str, Inside]],
    *,
    caption: str,
    words: Collection[str] = (),
    class_: str = "numbers",
) -> Html | None:
    """A table in a box of its own that scrolls sideways where the screen is narrow.

    Args:
        rows: title of each column to what stands there; the first column names the row, and None
            in it joins the row to the one above. What a row lacks becomes a dash.
        caption: read out by screen readers.
        words: titles of the columns of words; all others hold numbers.
        class_: of the table.

    Returns:
        None without rows.
    """
    if not rows:
        return None
    titles = list(dict.fromkeys(title for row in rows for title in row))
    kind = {title: "word" if title in words else None for title in titles}
    heads = (tag("th", title, scope="col", class_=kind[title]) for title in titles)
    body: list[Html] = []
    for at, row in enumerate(rows):
        cells = (tag("td", row.get(title, NONE), class_=kind[title]) for title in titles[1:])
        body.append(tag("tr", _name(rows, at, titles[0]), *cells))
    parts = (tag("caption", caption), tag("thead", tag("tr", *heads)), tag("tbody", *body))
    inside = tag("table", *parts, class_=class_)
    return tag("div", inside, class_="scroll", tabindex=0, role="region", aria_label=caption)


def _name(rows: Sequence[Mapping[str, Inside]], at: int, title: str) -> Html | None:
    name = rows[at][title]
    if name is None:
        return None
    below = takewhile(lambda row: row[title] is None, rows[at + 1 :])
    joined = 1 + sum(1 for _ in below)
    if joined == 1:
        return tag("th", name, scope="row")
    return tag("th", name, scope="rowgroup", rowspan=joined)


def listed(facts: Mapping[str, Inside], class_: str | None = None) -> Html:
    """Words or names, each with what is said of it."""
    rows = (tag("div", tag("dt", name), tag("dd", fact)) for name, fact in facts.items())
    return tag("dl", *rows, class_=class_)


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
    programs = [get_plotlyjs(), "\n".join(_asset(name) for name in scripts)]
    hashes = " ".join(f"'sha256-{_sha256(script)}'" for script in programs)
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
    ending = join(data, *(tag("script", Html(script)) for script in programs))
    return f"<!doctype html>\n{tag('html', head, tag('body', body, ending), lang='en')}\n"


def _asset(name: str) -> str:
    return resources.files("reseed.report").joinpath("assets", name).read_text("utf-8")


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _script_data(groups: Sequence[Mapping[str, Any]]) -> Html:
    """The data of all figures as JSON that cannot end the script element it stands in."""
    data = {"groups": list(groups)}
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Html(text)
