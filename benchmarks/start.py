"""What people wait for before anything is done: processor seconds of commands that only look.

    python -m benchmarks.start

Each is a process of its own, a few times after one that compiles modules, as pip does where it puts
a package, and the median is told; the study that `status` looks at has six runs, as `reseed init`
writes them, none of them made yet.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.bars import told

ROUNDS = 7
STUDY = """
[subject]
kind = "toy"

[activations]
sites = ["toy"]
tokens = 50_000

[[sae]]
architecture = "topk"
latents = 512
k = 8

[seeds]
init = [0, 1, 2, 3, 4, 5]
data = [0]

[training]
tokens = 100_000
"""


def seconds(compiled: Path, *command: str) -> float:
    """Median of the processor seconds of a command, with compiled modules kept in a folder."""
    kept = {**os.environ, "PYTHONPYCACHEPREFIX": str(compiled)}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    spent: list[float] = []
    for _ in range(1 + ROUNDS):
        before = os.times()
        subprocess.run([sys.executable, *command], capture_output=True, check=True, env=kept)
        after = os.times()
        user, system = (
            getattr(after, name) - getattr(before, name)
            for name in ("children_user", "children_system")
        )
        spent.append(user + system)
    return statistics.median(spent[1:])


def main() -> None:
    """Measure each."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study = folder / "six.toml"
        study.write_text(STUDY)
        told("help", seconds(folder, "-m", "reseed.cli", "--help"))
        told("status", seconds(folder, "-m", "reseed.cli", "status", str(study)))
        told("import", seconds(folder, "-c", "import reseed"))


if __name__ == "__main__":
    main()
