"""A training step against the bare encoder product that it contains, and against other libraries.

    python -m benchmarks.step                                    the table
    python -m benchmarks.step --latents 16384 --json step.json   one row
    python -m benchmarks.step --peers-python .venv-peers/bin/python
    python -m benchmarks.step --seeds 1,2,4,8 --latents 4096     many runs on one pass
    python -m benchmarks.step --architecture relu --latents 4096 not TopK; peers are left out

What a penalty makes sparse is moved to where k latents fire in a row; `--start` leaves it dense.

Product (into an output that is there, by NumPy and by torch; the lower median counts), our step and
the plain one are timed in turn; a ratio is the median of those of rounds, so that other work moves
both sides. Peers run on the same batches in their own interpreter, in turn with the bare product
there. Each size has a process of its own, so that peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.bars import told

Rows = NDArray[np.float32]

SHAPES = [(4096, 576), (16384, 576), (65536, 576), (16384, 2304)]
PEERS = ("sparsify", "sae_lens", "dictionary_learning")
BATCHES = 4
BARS = {
    (4096, 1024, 32, "topk"): "step 4096",
    (16384, 1024, 32, "topk"): "step 16384",
    (16384, 256, 32, "topk"): "step batch",
    (16384, 1024, 128, "topk"): "step k",
    (16384, 1024, 32, "relu"): "start relu",
    (16384, 1024, 32, "gated"): "start gated",
    (16384, 1024, 32, "jumprelu"): "start jumprelu",
}
"""Latents, batch, k and architecture, at D = 576, to the promise; penalties at their start."""
HEAD = (
    f"{'latents':>8} {'D':>5} {'k':>4} {'batch':>5} {'step s':>7} {'product':>7} {'ratio':>6} "
    f"{'plain':>6} {'peak GB':>7} {'beyond':>6}  peers: times our step"
)


def batches(dimensions: int, rows: int, seed: int = 0) -> Rows:
    """`[BATCHES, rows, D]` rows with a decaying spectrum, heavy tails and a mean."""
    rng = np.random.default_rng(seed)
    amplitude = (np.arange(1, dimensions + 1) ** -0.5).astype(np.float32)
    out = rng.laplace(size=(BATCHES, rows, dimensions)).astype(np.float32) * amplitude
    turn = np.linalg.qr(rng.standard_normal((dimensions, dimensions)))[0].astype(np.float32)
    return out @ turn + 0.3 * rng.standard_normal(dimensions).astype(np.float32)


def clock(work: Callable[..., object], *given: object, **named: object) -> float:
    """Seconds of a call, begun when the threads of the one before sleep."""
    time.sleep(0.05)
    started = time.perf_counter()
    work(*given, **named)
    return time.perf_counter() - started


def peak() -> int:
    """Bytes that this process has taken at the most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def learner(
    x: Any,
    latents: int,
    k: int,
    *,
    plain: bool = False,
    seed: int = 0,
    architecture: str = "topk",
    moved: bool = True,
) -> Any:
    """One run with the recipe's own learning rate, past its warm-up."""
    from reseed.sae.architectures import ARCHITECTURES
    from reseed.spec.training import RunSpec, TrainingSpec
    from reseed.training.learner import Learner

    training = TrainingSpec(tokens=100_000 * len(x), batch=len(x), warmup_steps=0)
    kind = ARCHITECTURES[architecture].settings
    own = {"k": k} if "k" in kind.model_fields else {}
    spec = RunSpec(
        data="benchmark",
        site="x",
        sae=kind(latents=latents, **own),
        training=training,
        init_seed=seed,
        data_seed=0,
    )
    made = Learner(spec, x, plain=plain)
    if not own and moved:
        move(made.parameters, x, k)
    return made


def move(p: Any, x: Any, k: int) -> None:
    """Move biases, or thresholds where there are some, to where k latents fire in a row."""
    import torch

    pre = (x[:64] - p["b_dec"]) @ p["W_enc"].T
    bar = float(pre.flatten().kthvalue(pre.numel() - k * len(pre)).values)
    for name in ("b_enc", "b_gate", "b_mag"):
        if name in p and "threshold" not in p:
            p[name].sub_(bar)
    if "threshold" in p:
        p["threshold"].copy_(torch.full_like(p["threshold"], bar / float(p["length"])))


def measure(
    latents: int, dimensions: int, batch: int, k: int, rounds: int, architecture: str, moved: bool
) -> dict[str, Any]:
    """One row: ours, the bare product, the plain step."""
    import torch

    made = {"architecture": architecture, "moved": moved}

    x = torch.from_numpy(batches(dimensions, batch))
    learner(x[0][:64], 64, 4, **made).update(x[0][:64])  # loads what is compiled
    before = peak()
    ours = learner(x[0], latents, k, **made)
    l0 = [ours.update(x[i % BATCHES])["l0"] for i in range(3)][-1]
    most = peak()
    state = 6 * 4 * latents * dimensions
    weights, out = ours.parameters["W_enc"], torch.empty(batch, latents)
    plain = learner(x[0], latents, k, plain=True, **made)
    plain.update(x[0])
    times: dict[str, list[float]] = {n: [] for n in ("torch", "numpy", "ours", "plain")}
    for i in range(rounds):
        rows = x[i % BATCHES]
        times["torch"].append(clock(torch.mm, rows, weights.T, out=out))
        times["ours"].append(clock(ours.update, rows))
        arrays = rows.numpy(), weights.numpy().T
        times["numpy"].append(clock(np.matmul, *arrays, out=out.numpy()))
        if i % 4 == 0:
            times["plain"].append(clock(plain.update, rows))
    middle = {name: statistics.median(values) for name, values in times.items()}
    product = min(("torch", "numpy"), key=lambda name: middle[name])
    bare = times[product]
    return {
        "latents": latents,
        "dimensions": dimensions,
        "batch": batch,
        "k": k,
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "seconds": middle["ours"],
        "product_seconds": middle[product],
        "product_by": product,
        "ratio_to_product": middle_ratio(times["ours"], bare),
        "plain_seconds": middle["plain"],
        "plain_ratio_to_product": middle_ratio(times["plain"], bare[::4]),
        "times_plain": middle_ratio(times["plain"], times["ours"][::4]),
        "architecture": architecture,
        "l0": [l0, ours.update(x[0])["l0"]],
        "peak_bytes": most,
        "peak_beyond_weights_and_moments": most - before - state,
    }


def middle_ratio(over: list[float], under: list[float]) -> float:
    """Median of the ratios of rounds."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def add_peers(row: dict[str, Any], python: Path | None, rounds: int) -> None:
    """Time other libraries in their interpreter on the same batches."""
    row["peers"] = {}
    for name in PEERS:
        if python is None or not python.is_file():
            why = "no --peers-python" if python is None else f"{python} is not there"
            row["peers"][name] = {"skipped": why}
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "batches.npy"
            np.save(path, batches(row["dimensions"], row["batch"]))
            sizes = [str(row["latents"]), str(row["k"]), str(rounds)]
            script = Path(__file__).with_name("peers_step.py")
            done = subprocess.run(
                [str(python), str(script), name, str(path), *sizes],
                capture_output=True,
                text=True,
                check=False,
            )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            row["peers"][name] = {"skipped": reason[:200]}
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        found["times_ours"] = found["ratio_to_product"] / row["ratio_to_product"]
        row["peers"][name] = found


def many_seeds(
    counts: list[int], latents: int, dimensions: int, batch: int, k: int
) -> list[dict[str, float]]:
    """S runs from one pass, against the harvest and S times the step of a run alone, and S passes.

    The harvest is a stand-in: 60 square products of the batch, 20 M weights at D = 576.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    layers = torch.randn(60, dimensions, dimensions, generator=generator) / dimensions**0.5
    x = torch.from_numpy(batches(dimensions, batch))

    def harvest(rows: Any) -> None:
        for layer in layers:
            rows = torch.tanh(rows @ layer)

    def one_pass(runs: list[Any], rows: Any) -> None:
        harvest(rows)
        for run in runs:
            run.update(rows)

    found: list[dict[str, float]] = []
    for count in counts:
        runs = [learner(x[0], latents, k, seed=s) for s in range(count)]
        one_pass(runs, x[0])
        together, apart, passes = list[float](), list[float](), list[float]()
        for i in range(9):
            rows = x[i % BATCHES]
            read, step = clock(harvest, rows), clock(runs[0].update, rows)
            apart.append(read + count * step)
            passes.append(count * (read + step))
            together.append(clock(one_pass, runs, rows))
        found.append(
            {
                "seeds": count,
                "one_pass": statistics.median(together),
                "harvest_and_steps": statistics.median(apart),
                "ratio": middle_ratio(together, apart),
                "passes": statistics.median(passes),
            }
        )
    return found


def print_seeds(found: list[dict[str, float]]) -> None:
    """The table of `many_seeds` for people."""
    print(f"{'seeds':>5} {'one pass':>9} {'harvest + S steps':>18} {'ratio':>6} {'S passes':>9}")
    for row in found:
        print(
            f"{row['seeds']:>5} {row['one_pass']:>9.3f} {row['harvest_and_steps']:>18.3f} "
            f"{row['ratio']:>6.2f} {row['passes']:>9.3f}"
        )


def line(row: dict[str, Any]) -> str:
    """One row for people."""
    peers = [
        f"{name} {found['times_ours']:.1f}x" if "times_ours" in found else f"{name} skipped"
        for name, found in row["peers"].items()
    ]
    beyond = row["peak_beyond_weights_and_moments"]
    return (
        f"{row['latents']:>8} {row['dimensions']:>5} {row['k']:>4} {row['batch']:>5} "
        f"{row['seconds']:>7.3f} {row['product_seconds']:>7.3f} {row['ratio_to_product']:>6.2f} "
        f"{row['plain_ratio_to_product']:>6.2f} {row['peak_bytes'] / 1e9:>7.2f} "
        f"{beyond / 1e9:>6.2f}  " + ", ".join(peers)
    )


def tell(row: dict[str, Any], start: bool) -> None:
    """Hold a row to its promise, if there is one."""
    key = BARS.get(tuple(row[name] for name in ("latents", "batch", "k", "architecture")))
    if key is None or row["dimensions"] != 576 or start != (row["architecture"] != "topk"):
        return
    told(key, row["ratio_to_product"])
    peer = row["peers"].get("dictionary_learning", {})
    if key == "step 16384" and "times_ours" in peer:
        told("step peer", peer["times_ours"])


def in_own_process(latents: int, dimensions: int, options: argparse.Namespace) -> dict[str, Any]:
    """`measure` in a process of its own."""
    sizes = ["--latents", str(latents), "--dimensions", str(dimensions)]
    sizes += ["--batch", str(options.batch), "--k", str(options.k), "--rounds", str(options.rounds)]
    sizes += ["--architecture", options.architecture, *(["--start"] if options.start else [])]
    command = [sys.executable, "-m", "benchmarks.step", "--only", *sizes]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latents", type=int, help="one row instead of the table")
    parser.add_argument("--dimensions", type=int, default=576)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--architecture", default="topk")
    parser.add_argument("--start", action="store_true", help="as training begins, codes dense")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--peers-python", type=Path, help="interpreter that has the peers")
    parser.add_argument("--seeds", help="numbers of runs on one pass, instead of the table")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    shape = (options.latents or 4096, options.dimensions, options.batch, options.k)
    if options.seeds:
        found = many_seeds([int(s) for s in options.seeds.split(",")], *shape)
        if options.only:
            print(json.dumps(found))
        else:
            print_seeds(found)
        return
    if options.only:
        print(json.dumps(measure(*shape, options.rounds, options.architecture, not options.start)))
        return
    print(HEAD, flush=True)
    rows: list[dict[str, Any]] = []
    for latents, dimensions in [shape[:2]] if options.latents else SHAPES:
        row = in_own_process(latents, dimensions, options)
        peers = options.peers_python if options.architecture == "topk" else None
        add_peers(row, peers, max(3, options.rounds // 4))
        rows.append(row)
        print(line(row), flush=True)
        tell(row, options.start)
        if options.json:
            what = rows[0] if options.latents else rows
            options.json.write_text(json.dumps(what, indent=2) + "\n")


if __name__ == "__main__":
    main()
