"""A small table in HTML, for `_repr_html_`; all text in it is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import cast

ROWS = 30
"""Most rows that are shown; the frame behind them has all."""

NONE = "–"


def html_table(title: str, rows: Sequence[Mapping[str, object]], note: str = "") -> str:
    """A table with a caption.

    Args:
        title: stands above.
        rows: name of a column to what stands there; None is a dash. The first row has all names.
        note: stands below.
    """
    names = list(rows[0]) if rows else []
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(_shown(row.get(name)))}</td>" for name in names) + "</tr>"
        for row in rows[:ROWS]
    )
    if more := len(rows) - ROWS if len(rows) > ROWS else 0:
        note = f"{more:,} more rows are not shown. {note}"
    below = f"<div><small>{escape(note.strip())}</small></div>" if note else ""
    return (
        f"<table><caption style='text-align:left'><b>{escape(title)}</b></caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{below}"
    )


def percent(share: float | None) -> str:
    """A share with one decimal."""
    return NONE if share is None else f"{share:.1%}"


def ends(interval: Sequence[float | None] | None) -> str:
    """An interval or a range of shares."""
    if interval is None or None in interval:
        return NONE
    return f"{interval[0]:.1%} to {interval[1]:.1%}"


def _shown(value: object) -> str:
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(_shown(inner) for inner in cast(Sequence[object], value))
    return f"{value:,}" if isinstance(value, int) else str(value)
