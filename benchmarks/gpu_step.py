"""What goes to a GPU against the bare product that it contains: a step, encoding, matching.

    python -m benchmarks.gpu_step                       the tables, and which bars hold
    python -m benchmarks.gpu_step --json gpu.json       the same as JSON too
    python -m benchmarks.gpu_step --latents 16384       one width
    python -m benchmarks.gpu_step --peers-python PYTHON beside sparsify, in its environment
    python -m benchmarks.gpu_step --device cpu --latents 2048      the way through it, without a GPU

What is measured (a step by Triton and by plain torch, codes of a batch, an exact matching) and bare
products into an output that is there are timed in turn, round by round, each until the GPU is done;
a ratio is the median of the ratios of rounds. Tiles of the encoder's product are tried first, and
the best is taken for the rest. Without a GPU it says so and stops.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import matching
from benchmarks.step import BATCHES, batches, middle_ratio

SHAPES = [(16_384, 768), (16_384, 4_096), (131_072, 768), (131_072, 4_096)]

STEP_BAR, ENCODE_BAR, MATCH_BAR = 1.3, 1.3, 2.0
"""Bare products that each may take: in bfloat16, in bfloat16, in float32."""

TILES = [
    {"ROWS": rows, "LATENTS": latents, "DEPTH": depth, "num_warps": warps}
    for rows in (64, 128)
    for latents in (128, 256)
    for depth in (32, 64)
    for warps in (4, 8)
]

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
        "way": type(ours._path).__name__,
        "seconds": {name: statistics.median(values) for name, values in times.items()},
        "ratio_to_bf16_product": middle_ratio(times["ours"], times["bf16"]),
        "ratio_to_float32_product": middle_ratio(times["ours"], times["float32"]),
        "ratio_to_plain": middle_ratio(times["ours"], times["plain"]),
        "peak_bytes": peak,
    }


def encoder(latents: int, dimensions: int, k: int, device: str) -> Any:
    """A TopK SAE of random weights, there."""
    import torch

    from reseed.sae.model import SAE

    draw = torch.Generator().manual_seed(0)
    W = torch.randn(latents, dimensions, generator=draw) / dimensions**0.5
    none = torch.zeros(latents), torch.zeros(dimensions)
    return SAE(W, W, *none, {"kind": "topk", "k": k}).to(device)


def encode(
    latents: int, dimensions: int, batch: int, k: int, rounds: int, device: str
) -> dict[str, Any]:
    """Codes of a batch beside the bare products."""
    import torch

    sae = encoder(latents, dimensions, k, device)
    x = torch.from_numpy(batches(dimensions, batch)).to(device)
    out = torch.empty(batch, latents, device=device)
    halves = x.bfloat16(), sae.W_enc.bfloat16(), out.bfloat16()
    sae.encode_sparse(x[0])
    times: dict[str, list[float]] = {n: [] for n in ("codes", "bf16", "float32")}
    for i in range(rounds):
        j = i % BATCHES
        times["bf16"].append(clock(device, torch.mm, halves[0][j], halves[1].T, out=halves[2]))
        times["codes"].append(clock(device, sae.encode_sparse, x[j]))
        times["float32"].append(clock(device, torch.mm, x[j], sae.W_enc.T, out=out))
    return {
        "encode": latents,
        "dimensions": dimensions,
        "seconds": {name: statistics.median(values) for name, values in times.items()},
        "ratio_to_bf16_product": middle_ratio(times["codes"], times["bf16"]),
        "ratio_to_float32_product": middle_ratio(times["codes"], times["float32"]),
    }


def match(latents: int, dimensions: int, device: str, rounds: int) -> dict[str, Any]:
    """An exact matching beside all its products in float32, kept by nobody; both from the host."""
    from reseed.loops.gpu_offers import Products
    from reseed.matching.exact import exact
    from reseed.matching.geometry import Limits, cosine

    # any name but "cpu" goes the way of a GPU, and this one is everywhere
    there = "cpu:0" if device == "cpu" else device
    a, b = matching.pair(latents, dimensions)
    exact(cosine(*matching.pair(600, 32), device=there), Limits())

    def bare() -> None:
        geometry = cosine(a, b, device=there)
        views = [(left.screen, right.screen) for left, right in geometry.views]
        for _ in Products(views, there).blocks(lambda _: None):
            pass

    times: dict[str, list[float]] = {"match": [], "bare": []}
    products, optimal = 0.0, True
    for _ in range(rounds):
        times["bare"].append(clock(device, bare))
        started = time.perf_counter()
        found = exact(cosine(a, b, device=there), Limits())
        times["match"].append(time.perf_counter() - started)
        assert found.certificate is not None
        products, optimal = found.certificate.products or 0.0, optimal and found.optimal
    return {
        "match": latents,
        "dimensions": dimensions,
        "seconds": {name: statistics.median(values) for name, values in times.items()},
        "products": products,
        "optimal": optimal,
        "ratio_to_float32_product": middle_ratio(times["match"], times["bare"]),
    }


def best_tile(latents: int, dimensions: int, batch: int, k: int, device: str) -> dict[str, Any]:
    """Time the encoder with each tile, and leave the best one in force."""
    import torch

    from reseed.sae import gpu
    from reseed.sae.codes import triton_runs

    if device == "cpu" or not triton_runs():
        return {"tile": gpu._TILE, "tried": []}
    sae = encoder(latents, dimensions, k, device)
    x = torch.from_numpy(batches(dimensions, batch)[0]).to(device)
    tried: list[dict[str, Any]] = []
    for tile in TILES:
        gpu._TILE.update(tile)
        try:
            sae.encode_sparse(x)
            seconds = statistics.median(clock(device, sae.encode_sparse, x) for _ in range(10))
        except Exception as error:  # noqa: BLE001  (more shared memory than the card has)
            tried.append(tile | {"failed": str(error)[:100]})
            continue
        tried.append(tile | {"seconds": seconds})
    done = [row for row in tried if "seconds" in row]
    best = min(done, key=lambda row: row["seconds"])
    gpu._TILE.update({name: best[name] for name in TILES[0]})
    return {"tile": dict(gpu._TILE), "tried": tried}


def sparsify(row: dict[str, Any], python: Path | None, rounds: int) -> dict[str, Any]:
    """Sparsify's step in its own environment, as a ratio to the float32 product there."""
    if python is None or not python.is_file():
        return {"skipped": "no --peers-python" if python is None else f"{python} is not there"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "batches.npy"
        np.save(path, batches(row["dimensions"], row["batch"]))
        script = Path(__file__).with_name("peers_step.py")
        sizes = [str(row["latents"]), str(row["k"]), str(rounds)]
        kind = "cpu" if row["device"] == "cpu" else "cuda"
        command = [str(python), str(script), "sparsify", str(path), *sizes, kind]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"skipped": (done.stderr.strip().splitlines() or ["no word"])[-1][:200]}
    found = json.loads(done.stdout.splitlines()[-1])
    found["times_ours"] = found["ratio_to_product"] / row["ratio_to_float32_product"]
    return found


def line(row: dict[str, Any]) -> str:
    """A row as text."""
    ms = {name: 1e3 * value for name, value in row["seconds"].items()}
    if "encode" in row:
        ratio = row["ratio_to_bf16_product"]
        return (
            f"codes of {row['encode']:,} x {row['dimensions']:,}: {ms['codes']:.3f} ms, "
            f"{ratio:.2f} bfloat16 products, {row['ratio_to_float32_product']:.2f} in float32"
            f"{bar(ratio, ENCODE_BAR)}"
        )
    if "match" in row:
        ratio = row["ratio_to_float32_product"]
        return (
            f"match {row['match']:,} x {row['dimensions']:,}: {ms['match'] / 1e3:.2f} s, "
            f"{ratio:.2f} bare products ({row['products']:.2f} made), "
            f"{'proven' if row['optimal'] else 'NOT PROVEN'}{bar(ratio, MATCH_BAR)}"
        )
    peak = "–" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e9:.2f}"
    peer = row["sparsify"]
    beside = f"{peer['times_ours']:.2f} x" if "times_ours" in peer else peer["skipped"]
    return (
        f"{row['latents']:>8,} {row['dimensions']:>5,} {row['way']:>10} {ms['ours']:>8.3f} "
        f"{ms['bf16']:>8.3f} {row['ratio_to_bf16_product']:>6.2f} {ms['float32']:>8.3f} "
        f"{ms['plain']:>8.3f} {peak:>7} sparsify: {beside}"
        f"{bar(row['ratio_to_bf16_product'], STEP_BAR)}"
    )


def bar(ratio: float, most: float) -> str:
    """Whether a bar holds."""
    return f"  [bar {most}: {'holds' if ratio <= most else 'does not hold'}]"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--latents", type=int)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--peers-python", type=Path)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    import torch

    if asked.device != "cpu" and not torch.cuda.is_available():
        print("no GPU here: nothing is timed")
        return
    latents, device = asked.latents, asked.device
    shapes = SHAPES if latents is None else [s for s in SHAPES if s[0] == latents]
    shapes = shapes or [(int(latents), 576)]
    print(torch.cuda.get_device_name() if device != "cpu" else "cpu: ratios of the way there alone")
    rows: list[dict[str, Any]] = [best_tile(*shapes[0], asked.batch, asked.k, device)]
    print(f"tile: {rows[0]['tile']}\n{HEAD}")
    how = asked.batch, asked.k, asked.rounds, device
    for shape in shapes:
        row = measure(*shape, *how)
        rows.append(row | {"sparsify": sparsify(row, asked.peers_python, asked.rounds)})
        print(line(rows[-1]), flush=True)
    for shape in shapes:
        rows.append(encode(*shape, *how))
        print(line(rows[-1]), flush=True)
    for shape in shapes:
        rows.append(match(*shape, device, min(3, asked.rounds)))
        print(line(rows[-1]), flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
