"""A training step on a GPU against the bare encoder product that it contains.

    python -m benchmarks.gpu_step                       the table
    python -m benchmarks.gpu_step --json gpu.json       the same as JSON too
    python -m benchmarks.gpu_step --latents 16384       one width

Ours (Triton), the plain step (torch) and the bare products into an output that is there, in
bfloat16 and in float32, are timed in turn, round by round, each until the GPU is done; a ratio is
the median of the ratios of rounds. Without a GPU it says so and stops.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.step import BATCHES, SHAPES, batches, middle_ratio

HEAD = (
    f"{'latents':>8} {'D':>5} {'way':>10} {'step ms':>8} {'bf16 ms':>8} {'ratio':>6} {'f32 ms':>8} "
    f"{'plain ms':>8} {'peak GB':>7}"
)


def clock(device: str, work: Callable[..., object], *given: object, **named: object) -> float:
    """Seconds of a call, until the device is done."""
    import torch

    wait = torch.cuda.synchronize if device != "cpu" else (lambda: None)
    wait()
    started = time.perf_counter()
    work(*given, **named)
    wait()
    return time.perf_counter() - started


def learner(x: Any, latents: int, k: int, device: str, *, plain: bool) -> Any:
    """One run of TopK past its warm-up, there."""
    from reseed.sae.architectures.topk import TopKSpec
    from reseed.spec.training import RunSpec, TrainingSpec
    from reseed.training.learner import Learner

    training = TrainingSpec(tokens=100_000 * len(x), batch=len(x), warmup_steps=0)
    spec = RunSpec(
        data="benchmark",
        site="x",
        sae=TopKSpec(latents=latents, k=k),
        training=training,
        init_seed=0,
        data_seed=0,
    )
    return Learner(spec, x, plain=plain, device=device)


def measure(
    latents: int, dimensions: int, batch: int, k: int, rounds: int, device: str
) -> dict[str, Any]:
    """One row of the table."""
    import torch

    first = torch.from_numpy(batches(dimensions, batch))
    x = first.to(device)
    ours = learner(first[0], latents, k, device, plain=False)
    for i in range(5):  # compiles
        ours.update(x[i % BATCHES])
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        ours.update(x[0])
    peak = torch.cuda.max_memory_allocated() if device != "cpu" else None
    plain = learner(first[0], latents, k, device, plain=True)
    plain.update(x[0])
    weights = ours.parameters["W_enc"]
    out = torch.empty(batch, latents, device=device)
    halves = x.bfloat16(), weights.bfloat16(), out.bfloat16()
    times: dict[str, list[float]] = {n: [] for n in ("ours", "plain", "bf16", "float32")}
    for i in range(rounds):
        rows = x[i % BATCHES]
        times["bf16"].append(
            clock(device, torch.mm, halves[0][i % BATCHES], halves[1].T, out=halves[2])
        )
        times["ours"].append(clock(device, ours.update, rows))
        times["float32"].append(clock(device, torch.mm, rows, weights.T, out=out))
        times["plain"].append(clock(device, plain.update, rows))
    return {
        "latents": latents,
        "dimensions": dimensions,
        "batch": batch,
        "k": k,
        "device": torch.cuda.get_device_name() if device != "cpu" else "cpu",
        "way": type(ours._way).__name__,
        "seconds": {name: statistics.median(values) for name, values in times.items()},
        "ratio_to_bf16_product": middle_ratio(times["ours"], times["bf16"]),
        "ratio_to_float32_product": middle_ratio(times["ours"], times["float32"]),
        "ratio_to_plain": middle_ratio(times["ours"], times["plain"]),
        "peak_bytes": peak,
    }


def line(row: dict[str, Any]) -> str:
    """A row as text."""
    ms = {name: 1e3 * value for name, value in row["seconds"].items()}
    peak = "–" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e9:.2f}"
    return (
        f"{row['latents']:>8,} {row['dimensions']:>5,} {row['way']:>10} {ms['ours']:>8.3f} "
        f"{ms['bf16']:>8.3f} {row['ratio_to_bf16_product']:>6.2f} {ms['float32']:>8.3f} "
        f"{ms['plain']:>8.3f} {peak:>7}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--latents", type=int)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    import torch

    if asked.device != "cpu" and not torch.cuda.is_available():
        print("no GPU here: nothing is timed")
        return
    shapes = SHAPES if asked.latents is None else [s for s in SHAPES if s[0] == asked.latents]
    shapes = shapes or [(asked.latents, 576)]
    print(HEAD)
    rows: list[dict[str, Any]] = []
    for latents, dimensions in shapes:
        rows.append(measure(latents, dimensions, asked.batch, asked.k, asked.rounds, asked.device))
        print(line(rows[-1]), flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
