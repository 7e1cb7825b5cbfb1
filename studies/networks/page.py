"""A page of tables and dots with intervals, for what a study's own report does not ask."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from reseed.report.html import Html, document, join, table, tag

Dot = tuple[str, str, float, tuple[float, float] | None]
"""Row, kind, value, interval."""
_COLOURS = ("var(--observed)", "var(--null)", "var(--untrained)", "var(--muted)")


def dots(points: Sequence[Dot], axis: str) -> Html:
    """Points with their intervals as a drawing; kinds have colours, rows are named on the left."""
    rows = list(dict.fromkeys(row for row, *_ in points))
    kinds = list(dict.fromkeys(kind for _, kind, *_ in points))
    ends = [x for *_, value, reach in points for x in (value, *(reach or ()))]
    low, high = min(0.0, *ends), max(ends)
    wide, left, step = 900, 300, 14 * len(kinds) + 12
    tall = step * len(rows) + 60

    def at(x: float) -> float:
        return left + (wide - left - 30) * (x - low) / (high - low)

    parts = [f'<line x1="{at(0):.0f}" x2="{at(0):.0f}" y1="24" y2="{tall - 34}" class="zero"/>']
    for number, kind in enumerate(kinds):
        x = left + 190 * number
        parts.append(f'<circle cx="{x}" cy="10" r="5" fill="{_COLOURS[number]}"/>')
        parts.append(f'<text x="{x + 10}" y="14">{escape(kind)}</text>')
    for at_row, row in enumerate(rows):
        middle = 24 + step * (at_row + 0.5)
        parts.append(f'<text x="{left - 14}" y="{middle + 4}" class="name">{escape(row)}</text>')
    for row, kind, value, reach in points:
        number = kinds.index(kind)
        y = 24 + step * rows.index(row) + 13 + 14 * number
        colour = _COLOURS[number]
        if reach is not None:
            x1, x2 = at(reach[0]), at(reach[1])
            parts.append(f'<line x1="{x1:.1f}" x2="{x2:.1f}" y1="{y}" y2="{y}" stroke="{colour}" '
                         'stroke-width="2"/>')  # fmt: skip
        parts.append(f'<circle cx="{at(value):.1f}" cy="{y}" r="5" fill="{colour}"/>')
    for x in _ticks(low, high):
        parts.append(f'<text x="{at(x):.0f}" y="{tall - 18}" class="tick">{x:.3g}</text>')
    parts.append(f'<text x="{(wide + left) / 2:.0f}" y="{tall - 2}" class="tick">{axis}</text>')
    style = (
        "<style>.dots{width:100%;max-width:900px;font-size:13px;fill:var(--ink)}.dots .name{"
        "text-anchor:end}.dots .tick{text-anchor:middle;fill:var(--muted)}.dots .zero{"
        "stroke:var(--grid)}</style>"
    )
    return Html(f'{style}<svg class="dots" viewBox="0 0 {wide} {tall + 6}">{"".join(parts)}</svg>')


def _ticks(low: float, high: float) -> list[float]:
    """Some five round numbers between two."""
    rough = (high - low) / 4
    unit = 10 ** math.floor(math.log10(rough))
    step = next(n * unit for n in (1, 2, 5, 10) if n * unit >= rough)
    return [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def write_page(
    path: Path,
    title: str,
    lead: Sequence[str],
    parts: Sequence[tuple[str, Html | Sequence[Mapping[str, str]]]],
    said: Sequence[str],
) -> None:
    """Write a page that works offline: sentences, headed tables or drawings, what is not shown."""
    body: list[Html | None] = [tag("h1", title), *(tag("p", words) for words in lead)]
    for head, content in parts:
        drawn = isinstance(content, Html)
        body += [tag("h2", head), content] if drawn else [table(content, caption=head)]
    body += [tag("h2", "What cannot be concluded"), tag("ul", *(tag("li", s) for s in said))]
    path.write_text(document(title, tag("main", join(*body)), [], ()), "utf-8")
    print(f"{path}\n", flush=True)
