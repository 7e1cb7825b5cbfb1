"""HTML that is safe by construction: text is escaped unless it was made here."""

from __future__ import annotations

from html import escape

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
