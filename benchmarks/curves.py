"""Do the fast and the plain step learn the same? Losses over real activations.

    reseed run studies/two_widths.toml
    python -m benchmarks.curves studies/two_widths --plot docs/curves.png

Two learners of one spec take the same batches of the study's shards; one makes its steps the fast
way, one the plain way. Printed: the largest relative difference of the losses in stretches, and
the final weights. Rounding grows as latents that nearly tie part, so the curves agree closely and
not for ever.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np


def curves(folder: Path, steps: int, changes: dict[str, Any]) -> np.ndarray:
    """[2, steps] FVU of the fast way and of the plain one.

    Args:
        folder: of a study that has its shards.
        steps: to make.
        changes: to the architecture of its first run.
    """
    from reseed.study import Study
    from reseed.subjects.shards import ShardSource
    from reseed.subjects.source import Stream, split_blocks
    from reseed.training.learner import Learner

    study = Study.load(folder)
    run = study.runs[0].spec
    sae = type(run.sae).model_validate({**run.sae.model_dump(), **changes})
    run = run.model_copy(update={"sae": sae})
    source = ShardSource(study.store)
    blocks, _ = split_blocks(len(source.rows), study.spec.activations.held_out)
    stream = Stream(
        source,
        blocks,
        data_seed=run.data_seed,
        batch=run.training.batch,
        mix=study.spec.activations.mix_blocks,
    )
    first = stream.batch(0)[run.site]
    ways = [Learner(run, first), Learner(run, first, plain=True)]
    out = np.empty((2, steps))
    for step in range(steps):
        x = stream.batch(step)[run.site]
        for way, learner in enumerate(ways):
            out[way, step] = learner.update(x)["fvu"]
    return out


def main() -> None:
    """Print how far the curves lie apart, and draw them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path, help="folder of a study with harvested shards")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--latents", type=int, default=4096)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    found = curves(options.study, options.steps, {"latents": options.latents, "k": options.k})
    apart = np.abs(found[0] - found[1]) / found[1]
    for first in range(0, options.steps, max(1, options.steps // 5)):
        part = slice(first, first + max(1, options.steps // 5))
        print(
            f"steps {first:>4} on: largest {apart[part].max():.2e}, mean {apart[part].mean():.2e}"
        )
    last = found[:, -100:].mean(1)
    print(f"mean FVU of the last 100 steps: fast {last[0]:.5f}, plain {last[1]:.5f}")
    if options.plot:
        draw(found, options.plot)


def draw(found: np.ndarray, path: Path) -> None:
    """Both curves over each other."""
    from plotly.graph_objects import Figure

    from benchmarks.growth import save

    figure = Figure()
    steps = np.arange(found.shape[1])
    figure.add_scatter(x=steps, y=found[1], name="plain", line={"color": "#D55E00", "width": 4})
    figure.add_scatter(x=steps, y=found[0], name="fast", line={"color": "#0072B2", "width": 1.2})
    figure.update_layout(
        template="simple_white",
        width=800,
        height=420,
        xaxis_title="step",
        yaxis_title="FVU of the batch",
        margin={"t": 20},
    )
    save(figure, path)


if __name__ == "__main__":
    main()
