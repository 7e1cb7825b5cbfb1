"""How the cost of a training step grows with latents, dimensions, k, batch and seeds.

    python -m benchmarks.growth --json growth.json --plot docs/speed.png

One axis at a time around 16,384 latents in 576 dimensions, k 32, batch 1,024; each point in a
process of its own, step and bare product timed in turn (see `benchmarks.step`). About ten minutes
on two quiet cores. The picture needs Chromium.

    python -m benchmarks.growth --stages

prints how the stages after training grow instead: the exponent of each when latents, dimensions,
tokens or runs are doubled, in processor seconds (see `benchmarks.evidence`).
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

BASE = {"latents": 16384, "dimensions": 576, "k": 32, "batch": 1024}
AXES = {
    "latents": [2048, 4096, 8192, 16384, 32768, 65536],
    "dimensions": [288, 576, 1152, 2304],
    "k": [8, 16, 32, 64, 128],
    "batch": [256, 512, 1024, 2048, 4096],
}
SEEDS = [1, 2, 4, 8]
STAGES = {"latents": 4096, "dimensions": 256, "k": 32, "runs": 3, "blocks": 64}
DOUBLED = ("latents", "dimensions", "blocks", "runs")
"""Blocks are of 256 tokens."""
NAMES = {
    "latents": "latents F",
    "dimensions": "dimensions D",
    "k": "k",
    "batch": "batch",
    "seeds": "seeds S on one pass (F = 4,096)",
}


def measured(module: str, *options: str) -> Any:
    """What a benchmark prints as JSON in its last line."""
    command = [sys.executable, "-m", module, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def point(sizes: dict[str, int], rounds: int) -> dict[str, Any]:
    """One size: seconds of the step, of the plain step and of the product."""
    options = [f"--{name}={value}" for name, value in sizes.items()]
    return measured("benchmarks.step", "--only", f"--rounds={rounds}", *options)


def sweep(rounds: int) -> dict[str, list[dict[str, Any]]]:
    """All points; the base is measured once."""
    base = point(BASE, rounds)
    out: dict[str, list[dict[str, Any]]] = {}
    for axis, values in AXES.items():
        out[axis] = []
        for value in values:
            row = base if value == BASE[axis] else point({**BASE, axis: value}, rounds)
            out[axis].append(row)
            print(f"{axis} {value:>6}: {row['seconds']:.3f} s, {row['ratio_to_product']:.2f}")
    out["seeds"] = measured(
        "benchmarks.step", "--seeds", ",".join(map(str, SEEDS)), "--latents=4096", "--only"
    )
    for row in out["seeds"]:
        print(f"seeds {row['seeds']}: {row['one_pass']:.3f} s, {row['ratio']:.2f} of the sum")
    return out


def stages() -> None:
    """Print the exponents of the stages after training."""
    base = measured("benchmarks.evidence", *(f"--{axis}={n}" for axis, n in STAGES.items()))
    print(f"{'':<12} {'seconds':>8}" + "".join(f"{axis:>12}" for axis in DOUBLED))
    grown = {
        axis: measured(
            "benchmarks.evidence",
            *(f"--{name}={n * (2 if name == axis else 1)}" for name, n in STAGES.items()),
        )
        for axis in DOUBLED
    }
    for stage, seconds in base.items():
        exponents = (math.log2(grown[axis][stage] / seconds) for axis in DOUBLED)
        print(f"{stage:<12} {seconds:8.2f}" + "".join(f"{value:12.2f}" for value in exponents))


def picture(found: dict[str, list[dict[str, Any]]]) -> Any:
    """Seconds on logarithmic axes, a panel each."""
    from plotly.subplots import make_subplots

    lines = [
        ("seconds", "step", "#0072B2", "solid"),
        ("product_seconds", "bare product", "#000000", "dot"),
        ("plain_seconds", "plain step in torch", "#D55E00", "dash"),
    ]
    figure = make_subplots(rows=1, cols=5, subplot_titles=[NAMES[axis] for axis in NAMES])
    for column, axis in enumerate(AXES, 1):
        rows = found[axis]
        for key, name, colour, dash in lines:
            figure.add_scatter(
                x=[row[axis] for row in rows],
                y=[row[key] for row in rows],
                name=name,
                mode="lines+markers",
                line={"color": colour, "dash": dash},
                showlegend=column == 1,
                row=1,
                col=column,
            )
    seeds = found["seeds"]
    for key, name, colour, dash in [
        ("one_pass", "harvest stand-in and S steps, one pass", "#009E73", "solid"),
        ("passes", "the same in S passes", "#CC79A7", "dash"),
    ]:
        figure.add_scatter(
            x=[row["seeds"] for row in seeds],
            y=[row[key] for row in seeds],
            name=name,
            mode="lines+markers",
            line={"color": colour, "dash": dash},
            row=1,
            col=5,
        )
    for column, axis in enumerate(NAMES, 1):
        ticks = SEEDS if axis == "seeds" else AXES[axis]
        shown = [f"{tick // 1024}k" if tick >= 4096 else f"{tick}" for tick in ticks]
        figure.update_xaxes(type="log", tickvals=ticks, ticktext=shown, row=1, col=column)
    decades = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10]
    figure.update_yaxes(type="log", tickvals=decades, ticktext=[f"{d:g}" for d in decades])
    figure.update_yaxes(title_text="seconds", row=1, col=1)
    legend = {"orientation": "h", "y": -0.15}
    figure.update_layout(
        template="simple_white", legend=legend, width=1500, height=430, margin={"t": 40}
    )
    return figure


def save(figure: Any, path: Path) -> None:
    """Write a figure as PNG through Chromium."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        page_file = Path(folder) / "figure.html"
        figure.write_html(page_file, include_plotlyjs=True)
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1520, "height": 450})
        page.goto(page_file.as_uri())
        page.wait_for_selector(".main-svg")
        page.locator(".plot-container").screenshot(path=path)
        browser.close()


def main() -> None:
    """Measure, or draw what was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="where the numbers are written")
    parser.add_argument("--from-json", type=Path, help="draw these numbers instead")
    parser.add_argument("--plot", type=Path, help="where the picture goes")
    parser.add_argument("--stages", action="store_true", help="after training, and nothing else")
    options = parser.parse_args()
    if options.stages:
        stages()
        return
    given = options.from_json
    found = sweep(options.rounds) if given is None else json.loads(given.read_text())
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    if options.plot:
        save(picture(found), options.plot)


if __name__ == "__main__":
    main()
