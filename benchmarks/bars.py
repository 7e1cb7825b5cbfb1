"""What was promised beside what was measured: a line to read, and an entry in `bench.json`."""

from __future__ import annotations

import json
from pathlib import Path


def told(name: str, value: float, most: float, file: Path = Path("bench.json")) -> None:
    """Print whether a ratio is at most its bar, and write it beside those that are there."""
    holds = value <= most
    print(f"{name}: {value:.2f}, bar {most:g}: {'holds' if holds else 'does NOT hold'}", flush=True)
    lines = json.loads(file.read_text()) if file.exists() else {}
    lines[name] = {"value": value, "bar": most, "holds": holds}
    file.write_text(json.dumps(lines, indent=1, sort_keys=True) + "\n")
