"""What sharing a study costs: two workers of one thread against one, in pairs, as a ratio.

    python -m benchmarks.cluster [--rounds 3] [--tokens 2000000]

The study is the toy's, 4 runs of 2,048 latents. One worker is `reseed run` with one thread; two are
`reseed run --on local --workers 2`, so they have twice the cores: the best ratio is .5.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STUDY = """
[subject]
kind = "toy"
features = 2048
dimensions = 256
active = 16.0

[activations]
sites = ["toy"]
tokens = {rows}

[[sae]]
latents = 2048
k = 16

[seeds]
init = [0, 1, 2, 3]

[training]
tokens = {tokens}
threads = 1
"""


def seconds(command: list[str]) -> float:
    """Of one command with one thread a process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    start = time.monotonic()
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return time.monotonic() - start


def main() -> None:
    """Print each pair and the median."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=2_000_000)
    options = parser.parse_args()
    ratios: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        toml = folder / "shared.toml"
        toml.write_text(STUDY.format(tokens=options.tokens, rows=options.tokens // 4))
        reseed = [sys.executable, "-m", "reseed.cli", "run", str(toml), "--quiet", "--out"]
        for number in range(options.rounds):
            alone, shared = folder / f"alone{number}", folder / f"shared{number}"
            one = seconds([*reseed, str(alone)])
            two = seconds([*reseed, str(shared), "--on", "local", "--workers", "2"])
            ratios.append(two / one)
            print(f"one worker {one:.1f} s, two {two:.1f} s: {two / one:.2f}")  # noqa: T201
            shutil.rmtree(alone)
            shutil.rmtree(shared)
    print(f"median {statistics.median(ratios):.2f} of {options.rounds}")  # noqa: T201


if __name__ == "__main__":
    main()
