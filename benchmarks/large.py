"""What stability, nulls, families and the report of a large study cost: minutes and memory.

    python -m benchmarks.large --latents 32768 --runs 9
    python -m benchmarks.large --latents 131072 --runs 3

A toy study is trained for a few steps, matched and encoded; then the pieces of stability are taken
away, and a process of its own makes them again with the report. Its peak memory counts. What the
latents are does not matter here, only how many there are. The first part takes most of the time.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.bars import told

STUDY = """
[subject]
kind = "toy"
features = 8192
dimensions = {dimensions}

[activations]
sites = ["toy"]
tokens = 60_000

[[sae]]
architecture = "topk"
latents = {latents}
k = 32

[seeds]
init = {seeds}
data = [0]

[training]
tokens = 40_960
batch = 1024
"""
BARS = {(32_768, 9): "statistics", (131_072, 3): "statistics wide"}


def timed(study: Path) -> tuple[float, float]:
    """Seconds and peak GB of `reseed run`."""
    code = (
        "import resource, sys; from reseed.cli import main; sys.argv[0] = 'reseed'\n"
        "try: main()\n"
        "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
    )
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, "run", str(study)], capture_output=True, text=True, check=False
    )
    *said, peak = done.stderr.strip().splitlines()
    if done.returncode:
        sys.exit("\n".join([*said, done.stdout]))
    return time.perf_counter() - started, int(peak) * 1024 / 1e9


def main() -> None:
    """Measure one size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--latents", type=int, default=32_768)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--dimensions", type=int, default=576)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "large.toml"
        seeds = list(range(asked.runs))
        study.write_text(STUDY.format(seeds=seeds, **vars(asked)))
        seconds, peak = timed(study)
        print(f"the whole study: {seconds:.0f} s, {peak:.2f} GB", flush=True)
        for name in ("structure", "stability"):
            shutil.rmtree(study.with_suffix("") / name)
        seconds, peak = timed(study)
        page = (study.with_suffix("") / "report.html").stat().st_size / 1e6
        print(
            f"structure, stability and report: {seconds:.0f} s, {peak:.2f} GB, page {page:.1f} MB"
        )
        if (asked.latents, asked.runs) in BARS and asked.dimensions == 576:
            told(BARS[asked.latents, asked.runs], peak)
        print(json.dumps({"seconds": seconds, "peak_gb": peak, "page_mb": page}))


if __name__ == "__main__":
    main()
