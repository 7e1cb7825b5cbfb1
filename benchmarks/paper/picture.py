"""Numbers of a claim with their intervals, as a drawing that works without style sheets."""

from __future__ import annotations

import re
from html import escape

from benchmarks.paper.claims import Claim, Row

_LEFT, _WIDE, _STEP = 370, 900, 22


def name_of(claim: Claim) -> str:
    """A name for a file."""
    return re.sub(r"[^a-z0-9]+", "_", claim.title.lower()).strip("_")


def drawn(claim: Claim) -> str | None:
    """An SVG of the rows that are a share with an interval; None if there are fewer than two."""
    rows = [row for row in claim.rows if row.share is not None]
    if len(rows) < 2:
        return None
    high = min(1.0, 1.1 * max(end for row in rows for end in _ends(row)))
    tall = _STEP * len(rows) + 40

    def at(x: float) -> float:
        return _LEFT + (_WIDE - _LEFT - 30) * x / high

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDE} {tall}" '
        'font-family="sans-serif" font-size="13">'
        f'<rect width="{_WIDE}" height="{tall}" fill="#fff"/>'
    ]
    apart = next(step for step in (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2) if high / step <= 5)
    for tick in (n * apart for n in range(int(high / apart) + 1)):
        x, percent = f"{at(tick):.1f}", f"{100 * tick:.3g} %"
        parts.append(f'<path d="M{x} 8V{tall - 26}" stroke="#ddd"/>')
        parts.append(
            f'<text x="{x}" y="{tall - 8}" text-anchor="middle" fill="#555">{percent}</text>'
        )
    for number, row in enumerate(rows):
        y, (low, value, end) = 20 + _STEP * number, _ends(row)
        label = escape(row.what.partition(":")[0])
        parts += [
            f'<text x="{_LEFT - 12}" y="{y + 4}" text-anchor="end" fill="#222">{label}</text>',
            f'<path d="M{at(low):.1f} {y}H{at(end):.1f}" stroke="#1a7f78" stroke-width="2"/>',
            f'<circle cx="{at(value):.1f}" cy="{y}" r="5" fill="#1a7f78"/>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def _ends(row: Row) -> tuple[float, float, float]:
    """Lower end, value, upper end."""
    assert row.share is not None
    low, high = row.share["interval_95"] or (row.share["value"],) * 2
    return low, row.share["value"], high
