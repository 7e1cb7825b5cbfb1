"""HTML that is safe by construction, numbers as people read them, and the prose of the pages."""

from __future__ import annotations

import base64
import hashlib
import json
import tomllib
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from html import escape
from importlib import resources
from itertools import takewhile
from string import Formatter
from typing import Any

from plotly.offline import get_plotlyjs

from reseed.spec.statistics import Range

NONE = "–"
"""Stands where there is no number."""

_EMPTY = frozenset({"br", "col", "img", "input", "meta"})

_SIGNS = {code: chr(0x2400 + code) for code in range(0x20)} | {10: "⏎", 13: "␍", 9: "⇥"}


class Html(str):
    """Text that is HTML already; everything else is escaped when it is put into a tag."""

    __slots__ = ()

    def __html__(self) -> Html:
        """For templates that ask whether a text is HTML already."""
        return self


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
            in it joins the row to the one above. What a row lacks, or None, becomes a dash; a
            column of nothing but dashes is left out.
        caption: read out by screen readers.
        words: titles of the columns of words; all others hold numbers.
        class_: of the table.

    Returns:
        None without rows.
    """
    if not rows:
        return None
    named = dict.fromkeys(title for row in rows for title in row)
    first, *others = named
    titles = [first, *(t for t in others if any(row.get(t) not in (None, NONE) for row in rows))]
    kind = {title: "word" if title in words else None for title in titles}
    heads = (tag("th", title, scope="col", class_=kind[title]) for title in titles)
    body: list[Html] = []
    for at, row in enumerate(rows):
        cells = (tag("td", _or_dash(row, title), class_=kind[title]) for title in titles[1:])
        body.append(tag("tr", _name(rows, at, titles[0]), *cells))
    parts = (tag("caption", caption), tag("thead", tag("tr", *heads)), tag("tbody", *body))
    inside = tag("table", *parts, class_=class_)
    return tag("div", inside, class_="scroll", tabindex=0, role="region", aria_label=caption)


def _or_dash(row: Mapping[str, Inside], title: str) -> str:
    cell = row.get(title)
    return NONE if cell is None else cell


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


def marked(sentence: str) -> Html:
    """A sentence whose words between backticks are keys, commands or numbers to copy."""
    kind = type(sentence)
    parts = [kind(part) for part in sentence.split("`")]
    return join(*(tag("code", part) if at % 2 else part for at, part in enumerate(parts)))


# -- prose ---------------------------------------------------------------------------------------


@cache
def prose() -> Mapping[str, Any]:
    """`assets/prose.toml`: figures, sentences and words by their keys."""
    return tomllib.loads(asset("prose.toml"))


def text(key: str, **blanks: Inside) -> Html:
    """A sentence of the prose with its blanks filled in."""
    return fill(prose()["sentences"][key], **blanks)


def fill(template: str, **blanks: Inside) -> Html:
    """A template in braces with its blanks filled in; lines may break anywhere."""
    parts: list[Inside] = []
    for words, name, *_ in Formatter().parse(" ".join(template.split())):
        parts += [words, blanks[name] if name else None]
    return join(*parts)


def visible(token: str) -> str:
    """A token with its control characters shown by signs; a line break also breaks nothing."""
    return token.translate(_SIGNS | dict.fromkeys(range(0x7F, 0xA0), "\ufffd"))


def asset(name: str) -> str:
    """The text of a file beside the pages."""
    return resources.files("reseed.report").joinpath("assets", name).read_text("utf-8")


# -- numbers -------------------------------------------------------------------------------------


def percent(value: float | None) -> str:
    """A share, e.g. `45.3%`; one that is not quite 0 or 1 never reads as 0 or 1."""
    if value is None:
        return NONE
    if 0 < value < 0.0005:
        return "<0.1%"
    if 0.9995 <= value < 1:
        return ">99.9%"
    return f"{value:.1%}"


def rate(value: float) -> str:
    """A firing rate, which may be very small."""
    return f"{value:.1%}" if value >= 0.01 or value == 0 else f"{100 * value:.2g}%"


def decimals(value: float | None) -> str:
    """A cosine or a score, three decimals."""
    return NONE if value is None else f"{value:.3f}"


def interval(
    ends: Sequence[float | None] | None, number: Callable[[float | None], str] = percent
) -> str:
    """Both ends of a range, e.g. `33.7–57.0%`; `30.8% to >99.9%` where signs would collide."""
    if ends is None or None in ends:
        return NONE
    low, high = number(ends[0]), number(ends[1])
    if low == high:
        return low
    if {low[:1], high[:1]} & {"<", ">", "-"}:
        return f"{low} to {high}"
    return f"{low.removesuffix('%')}–{high}"


def beside(
    value: float | None,
    ends: Sequence[float | None] | None,
    number: Callable[[float | None], str] = percent,
) -> str:
    """A number with its interval, if it has one, e.g. `45.3% (33.7–57.0%)`."""
    shown = interval(ends, number)
    return number(value) + ("" if shown == NONE else f" ({shown})")


def count(value: float | None) -> str:
    """A whole number with separators."""
    return NONE if value is None else f"{value:,.0f}"


def span(values: Sequence[int]) -> str:
    """Counts of several runs, the least and the most, e.g. `120–128`."""
    low, high = min(values), max(values)
    return count(low) if low == high else f"{count(low)}–{count(high)}"


def mean_and_range(over_runs: Range | None) -> str:
    """A mean with its range, e.g. `0.274 (0.267–0.278)`."""
    if over_runs is None or over_runs.mean is None:
        return NONE
    mean, low, high = (f"{value:.3g}" for value in (over_runs.mean, over_runs.lo, over_runs.hi))
    return mean if low == high else f"{mean} ({low}–{high})"


# -- the file ------------------------------------------------------------------------------------


SCRIPTS = ("draw.js", "plots.js", "factors.js", "latents.js", "page.js")
"""What draws the report of a study."""


def document(
    title: str,
    body: Html,
    groups: Sequence[Mapping[str, Any]],
    scripts: Sequence[str] = SCRIPTS,
) -> str:
    """The whole file. Its policy lets no byte in from outside and runs no script but its own.

    `scripts` draw the figures of each section from its entry in `groups`. In a file of more than
    `PACKED_FROM`, data and library are deflated.
    """
    programs = [get_plotlyjs(), "\n".join(asset(name) for name in scripts)]
    data = _script_data(groups)
    digests = (hashlib.sha256(script.encode()).digest() for script in programs)
    hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
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
        tag("style", Html(asset("page.css"))),
    )
    large = len(data) + len(body) + sum(map(len, programs)) > PACKED_FROM
    kind = _PACKED if large else "application/json"
    library = _packed(programs[0]) if large else Html(programs[0])
    ending = join(
        tag("script", _packed(data) if large else data, type=kind, id="data"),
        tag("script", library, type=kind, id="library") if large else tag("script", library),
        tag("script", Html(programs[1])),
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', body, ending), lang='en')}\n"


PACKED_FROM = 5_900_000
"""Characters from which a page is packed; the library for figures takes 4.8 million of them."""
_PACKED = "application/octet-stream"


def _packed(text: str) -> Html:
    """Deflated, in base64, which has no sign that HTML knows."""
    return Html(base64.b64encode(zlib.compress(text.encode(), 9)).decode())


def _script_data(groups: Sequence[Mapping[str, Any]]) -> Html:
    """The data of all figures as JSON that cannot end the script element it stands in."""
    data = {"groups": list(groups)}
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Html(text)
