"""What was promised beside what was measured.

    python -m benchmarks.bars          the lines of bench.json, and what was not measured
    python -m benchmarks.bars --page   puts them into docs/bench.json and makes docs/bench.md and
                                       the tables of bars in other pages of it

`make bench` measures and then does the first. docs/bench.json has the last measurement of each
line on each processor, so a part can be measured again alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEASURED = Path("bench.json")
DOCS = Path(__file__).parent.parent / "docs"
KEPT, PAGE = DOCS / "bench.json", DOCS / "bench.md"
WITH_TABLES = (DOCS / "speed.md", DOCS / "matching.md")


@dataclass(frozen=True, slots=True)
class Bar:
    """A promise."""

    what: str
    limit: float
    at_least: bool = False
    """whether more is better"""
    unit: str = ""
    """of both numbers; ratios have none"""

    def holds(self, value: float) -> bool:
        """Whether a measurement keeps it."""
        return value >= self.limit if self.at_least else value <= self.limit

    @property
    def words(self) -> str:
        """The limit for people."""
        return f"{'at least' if self.at_least else 'at most'} {self.limit:g}{self.unit}"


def _matching(latents: str, limit: float) -> Bar:
    return Bar(f"exact matching, {latents} x 768, in bare float32 products", limit)


BARS = {
    "matching 4096": _matching("4,096", 2.0),
    "matching 16384": _matching("16,384", 1.4),
    "matching 131072": _matching("131,072", 1.6),
    "matching scipy": Bar("the same at 16,384, times as fast as dense SciPy", 40, at_least=True),
    "matching runs": Bar("36 pairs of nine runs, both views, in single matches of one view", 43.2),
    "evidence": Bar("evidence and co-firing of all runs, 32,768 tokens, in bare encodes", 1.3),
    "evidence long": Bar("the same of 131,072 tokens", 1.3),
    "step 4096": Bar("TopK step, 4,096 x 576, batch 1,024, k 32, in bare products", 1.3),
    "step 16384": Bar("the same at 16,384 latents", 1.3),
    "step batch": Bar("the same at 16,384 latents, batch 256", 1.3),
    "step k": Bar("the same at 16,384 latents, k 128", 1.3),
    "step peer": Bar("the same at 16,384 latents, times as fast as dictionary_learning", 10, True),
    "start relu": Bar("first steps of ReLU, 16,384 latents, in bare products", 3),
    "start gated": Bar("the same of Gated", 3),
    "start jumprelu": Bar("the same of JumpReLU", 3),
    "help": Bar("`reseed --help`, processor time", 0.25, unit=" s"),
    "status": Bar("`reseed status` of a study of six runs, processor time", 0.6, unit=" s"),
    "import": Bar("`import reseed`, processor time", 0.1, unit=" s"),
    "harvest": Bar("harvest at mid-depth, times as fast as a whole forward", 3, at_least=True),
    "statistics": Bar("stability of nine runs of 32,768 latents, peak memory", 6, unit=" GB"),
    "statistics wide": Bar("the same of three runs of 131,072", 12, unit=" GB"),
}
"""Key to promise. The 43.2 of nine runs are 1.2 times 36."""


def told(key: str, value: float, processor_time: float | None = None) -> None:
    """Print whether a measurement keeps its promise, and write it beside those that are there.

    `processor_time` is the same in processor time, where other work on the machine tells less.
    """
    line = {"value": value, "load": os.getloadavg()[0], "day": time.strftime("%Y-%m-%d")}
    if processor_time is not None:
        line["processor_time"] = processor_time
    print(_sentence(key, line), flush=True)
    found = read(MEASURED)
    found.setdefault(processor(), {})[key] = line
    MEASURED.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


def _sentence(key: str, line: dict[str, Any]) -> str:
    bar = BARS[key]
    beside = f" (processor time {line['processor_time']:.2f})" if "processor_time" in line else ""
    verdict = "holds" if bar.holds(line["value"]) else "does NOT hold"
    return f"{bar.what}: {line['value']:.2f}{bar.unit}{beside}, {bar.words}: {verdict}"


def processor() -> str:
    """Its name, cores, and which instructions for short numbers it has."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    pairs = (line.partition(":") for line in lines)
    facts = {name.strip(): value.strip() for name, _, value in pairs}
    flags = set(facts.get("flags", facts.get("Features", "")).split())
    kinds = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    name = facts.get("model name", platform.machine())
    family = " ".join(facts.get(key, "?") for key in ("cpu family", "model"))
    return f"{name} ({family}), {os.cpu_count()} cores, {' '.join(kinds) or 'plain'}"


def read(file: Path) -> dict[str, dict[str, Any]]:
    """Processor to key to what was measured."""
    return json.loads(file.read_text()) if file.exists() else {}


def page(found: dict[str, dict[str, Any]]) -> str:
    """Markdown: all promises, and what each processor made of them."""
    parts = [_TOP]
    for name, lines in sorted(found.items()):
        rows = [_row(key, bar, lines.get(key)) for key, bar in BARS.items()]
        parts += [
            f"\n## {name}\n",
            "| | bar | measured | holds | load | day |",
            "|---|---|---|---|---|---|",
        ]
        parts += rows
    return "\n".join(parts) + "\n"


def _row(key: str, bar: Bar, line: dict[str, Any] | None) -> str:
    if line is None:
        return f"| {bar.what} | {bar.words} | not measured | | | |"
    value = f"{line['value']:.2f}{bar.unit}"
    if "processor_time" in line:
        value += f" (processor time {line['processor_time']:.2f})"
    holds = "yes" if bar.holds(line["value"]) else "**no**"
    return f"| {bar.what} | {bar.words} | {value} | {holds} | {line['load']:.1f} | {line['day']} |"


def with_tables(text: str, found: dict[str, dict[str, Any]]) -> str:
    """A page with its tables of bars made again.

    A table stands between `<!-- bars: step -->`, which says how the keys of its lines begin, and
    `<!-- end of bars -->`.
    """
    return re.sub(
        r"(<!-- bars: ([\w ]+) -->\n).*?(<!-- end of bars -->)",
        lambda at: at[1] + "\n".join(_table(at[2].split(), found)) + "\n" + at[3],
        text,
        flags=re.DOTALL,
    )


def _table(begin: list[str], found: dict[str, dict[str, Any]]) -> list[str]:
    """Lines whose key begins with one of these, a column for each processor; bold holds."""
    names = sorted(found)
    heads = [re.sub(r", \d+ cores, .*?(\w+)$", r", \1", name) for name in names]
    rows = [f"| | bar | {' | '.join(heads)} |", "|" + "---|" * (2 + len(names))]
    for key, bar in BARS.items():
        if key.startswith(tuple(begin)):
            cells = (_cell(bar, found[name].get(key)) for name in names)
            rows.append(f"| {bar.what} | {bar.words} | {' | '.join(cells)} |")
    return rows


def _cell(bar: Bar, line: dict[str, Any] | None) -> str:
    if line is None:
        return "–"
    value = f"{line['value']:.2f}{bar.unit}"
    return f"**{value}**" if bar.holds(line["value"]) else value


_TOP = """# Bars: what was promised and what was measured

Made by `make bench`; nothing here is typed. Ratios are medians over rounds in which both sides took
turns; what they mean stands in [speed](speed.md) and [matching](matching.md). The load is that of
the machine when a line was measured: above its cores, other work was going on.
"""


def main() -> None:
    """Print, or make the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--page", action="store_true", help="write docs/bench.md too")
    asked, found = parser.parse_args(), read(MEASURED)
    for name, lines in found.items():
        print(name)
        for key, bar in BARS.items():
            print(" ", _sentence(key, lines[key]) if key in lines else f"{bar.what}: not measured")
    if asked.page:
        kept = read(KEPT)
        for name, lines in found.items():
            kept[name] = kept.get(name, {}) | lines
        KEPT.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
        PAGE.write_text(page(kept))
        for other in WITH_TABLES:
            other.write_text(with_tables(other.read_text("utf-8"), kept), "utf-8")


if __name__ == "__main__":
    main()
