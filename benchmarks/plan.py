"""What `reseed plan` estimates against what `reseed run` takes, stage by stage.

    python -m benchmarks.plan                        # a toy and an array, a few minutes
    python -m benchmarks.plan studies/quickstart.toml

Run it where nothing else runs. A study is planned and run in a folder that is deleted afterwards;
stages that take less than a second either way have no ratio.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

import reseed
from reseed.events import read_events

TOY = """
[subject]
kind = "toy"
features = 2048
dimensions = 128
active = 16.0

[activations]
sites = ["toy"]
tokens = 200_000

[[sae]]
latents = 512
k = 16

[[sae]]
architecture = "jumprelu"
latents = 1024
target_l0 = 16

[training]
tokens = 300_000
batch = 512
"""

ARRAYS = """
[subject]
kind = "arrays"
paths = {{ a = "{path}" }}

[activations]
sites = ["a"]
tokens = 100_000

[[sae]]
latents = 1024
k = 32

[seeds]
init = [0, 1, 2, 3]

[training]
tokens = 200_000
batch = 1024
"""


def compared(path: Path, folder: Path) -> list[tuple[str, float, float]]:
    """Stage, seconds planned, seconds taken."""
    study = reseed.Study.load(path, folder)
    planned = {stage.name: stage.seconds for stage in reseed.plan(study).stages}
    reseed.run(study, progress=False)
    took: dict[str, float] = {}
    for event in read_events(folder, "finished"):
        took[event["task"]] = took.get(event["task"], 0.0) + event["seconds"]
    took.pop("tokenise", None)
    names = [*planned, *(name for name in took if name not in planned)]
    return [(name, planned.get(name, 0.0), took.get(name, 0.0)) for name in names]


def show(name: str, rows: list[tuple[str, float, float]]) -> float:
    """Print the table; gives the ratio of all stages together."""
    print(f"\n{name:<24}{'planned':>10}{'took':>10}{'ratio':>8}")
    for stage, planned, took in rows:
        ratio = f"{took / planned:.2f}" if min(planned, took) >= 1 else ""
        print(f"{stage:<24}{planned:>10.1f}{took:>10.1f}{ratio:>8}")
    planned, took = (sum(row[at] for row in rows) for at in (1, 2))
    print(f"{'all':<24}{planned:>10.1f}{took:>10.1f}{took / planned:>8.2f}")
    return took / planned


def main() -> None:
    """Plan and run what is named, or the two studies above."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        paths = [Path(name) for name in sys.argv[1:]]
        if not paths:
            rows = np.random.default_rng(0).normal(size=(100_000, 256)).astype(np.float32)
            np.save(root / "a.npy", rows)
            (root / "toy.toml").write_text(TOY)
            (root / "arrays.toml").write_text(ARRAYS.format(path=root / "a.npy"))
            paths = [root / "toy.toml", root / "arrays.toml"]
        ratios = [show(path.stem, compared(path, root / path.stem)) for path in paths]
    worst = max(max(ratio, 1 / ratio) for ratio in ratios)
    print(f"\nworst ratio of a whole study: {worst:.2f} (promised: 1.5)")


if __name__ == "__main__":
    main()
