"""Exact matching against SciPy's dense solver and against the bare product that nobody can beat.

    python -m benchmarks.matching --sizes 4096,16384,131072 --json matching.json

Every line is measured in this run, on this machine, on a pair that looks like real SAEs: 40 % of
the latents shared, with noise of every strength; near-duplicates in families; a decaying spectrum
(the amplitude of direction k falls as k^-1/2; see --power). SciPy's dense solver runs up to --dense
latents: beyond, its time (n^3) and memory (8 n^2 bytes) are out of reach. Each size runs in a
process of its own, so that peak memory is its own; loops are compiled and torch is imported before
the clock starts. Product and matching take turns for some rounds, and medians are told. Other work
on the machine stretches the time that passes, so ratios are told in processor time as well.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.bars import BARS, told

Rows = NDArray[np.float32]

SIZES = "4096,8192,16384,32768,65536,131072"
HEAD = (
    f"{'latents':>8} {'ours s':>8} {'bare s':>7} {'ratio':>6} {'cpu':>6} {'products':>8} "
    f"{'sparse s':>8} "
    f"{'rounds':>6} {'rel. gap':>9} {'edges':>6} {'GiB':>5} {'dense s':>8} {'faster':>6} same"
)


def spectral(rng: np.random.Generator, n: int, amplitude: Rows) -> Rows:
    """Unit rows whose directions have these amplitudes."""
    rows = rng.standard_normal((n, len(amplitude)), dtype=np.float32) * amplitude
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def near(rng: np.random.Generator, rows: Rows, amplitude: Rows, low: float, high: float) -> Rows:
    """Unit rows near the given ones, by noise of a strength between the two."""
    noise = rng.uniform(low, high, size=(len(rows), 1)).astype(np.float32)
    moved = rows + noise * spectral(rng, len(rows), amplitude)
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)


def dictionary(rng: np.random.Generator, n: int, amplitude: Rows) -> Rows:
    """Rows of which 30 % are near-duplicates in families of about five."""
    rows = spectral(rng, n, amplitude)
    members = int(0.3 * n)
    parents = rng.integers(0, max(1, members // 4), size=members)
    rows[n - members :] = near(rng, rows[parents], amplitude, 0.2, 0.8)
    return rows[rng.permutation(n)]


def several(n: int, count: int, d: int = 768, power: float = 0.5, seed: int = 0) -> list[Rows]:
    """Dictionaries of which 40 % is shared, `[n, d]` each."""
    rng = np.random.default_rng(seed)
    amplitude = (np.arange(1, d + 1) ** -power).astype(np.float32)
    core = dictionary(rng, int(0.4 * n), amplitude)
    out: list[Rows] = []
    for _ in range(count):
        own = dictionary(rng, n - len(core), amplitude)
        rows = np.concatenate([near(rng, core, amplitude, 0.05, 0.9), own])
        out.append(rows[rng.permutation(n)])
    return out


def pair(n: int, d: int = 768, power: float = 0.5, seed: int = 0) -> tuple[Rows, Rows]:
    """Two of `several`."""
    a, b = several(n, 2, d, power, seed)
    return a, b


def clocks() -> NDArray[np.float64]:
    """Seconds that passed, and seconds of the processor."""
    return np.array([time.perf_counter(), time.process_time()])


def bare_product(a: Rows, b: Rows, rows: int = 1_024, columns: int = 2_048) -> float:
    """Seconds for all entries of a b^T in float32 blocks, kept by nobody."""
    out = np.empty(rows * columns, np.float32)
    started = time.perf_counter()
    for i in range(0, len(a), rows):
        for j in range(0, len(b), columns):
            x, y = a[i : i + rows], b[j : j + columns]
            np.matmul(x, y.T, out=out[: len(x) * len(y)].reshape(len(x), len(y)))
    return time.perf_counter() - started


def dense(a: Rows, b: Rows) -> tuple[float, NDArray[np.int64]]:
    """Seconds of SciPy's dense solver with the product it needs, and its assignment."""
    from scipy.optimize import linear_sum_assignment

    started = time.perf_counter()
    _, columns = linear_sum_assignment(a.astype(np.float64) @ b.astype(np.float64).T, maximize=True)
    return time.perf_counter() - started, columns


def measure(
    n: int, d: int, power: float, tolerance: float, rounds: int, with_dense: bool
) -> dict[str, Any]:
    """One line of the table."""
    import reseed
    from reseed.matching import exact, sparse

    exact.exact(exact_geometry(*pair(2_400, d, power)), exact.Limits())
    spent = 0.0
    plain = sparse.solve

    def timed(*arguments: Any, **options: Any) -> Any:
        nonlocal spent
        started = time.perf_counter()
        state = plain(*arguments, **options)
        spent += time.perf_counter() - started
        return state

    sparse.solve = timed
    a, b = pair(n, d, power)
    matched = partial(reseed.match, tolerance=tolerance)
    times, found = np.empty((rounds, 2, 2)), matched(a, b)
    for at in range(rounds):
        spent = 0.0
        for side, work in enumerate((bare_product, matched)):
            time.sleep(0.1)  # threads of the side before stay awake for a while
            started = clocks()
            work(a, b)
            times[at, side] = clocks() - started
    bare, ours = np.median(times[:, :, 0], axis=0)
    ratio, cpu_ratio = np.median(times[:, 1] / times[:, 0], axis=0)
    certificate = found.certificate
    assert certificate is not None
    row: dict[str, Any] = {
        "latents": n,
        "dimensions": d,
        "power": power,
        "tolerance": tolerance,
        "seconds": ours,
        "bare_seconds": bare,
        "ratio": ratio,
        "cpu_ratio": cpu_ratio,
        "sparse_seconds": spent,
        "primal": found.primal,
        "gap": found.gap,
        "relative_gap": found.gap / abs(found.primal),
        "optimal": found.optimal,
        "rounds": certificate.rounds,
        "edges": certificate.edges,
        "ties": certificate.ties,
        "products": certificate.products,
        "solver": certificate.solver,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    if with_dense:
        row["dense_seconds"], columns = dense(a, b)
        row["faster"] = row["dense_seconds"] / ours
        row["same"] = float((columns == found.pairs[:, 1]).mean())
    return row


def runs_in_singles(n: int, count: int) -> float:
    """All pairs of so many runs by both views, in matches of one pair by one view.

    As the stage of a study does it, nearest rows included; encoders lie near decoders.
    """
    import reseed
    from reseed.matching.match import Views, compare

    rng, decoders = np.random.default_rng(1), several(n, count)
    spread = np.ones(decoders[0].shape[1], np.float32)
    saes = [Views(near(rng, rows, spread, 0.3, 0.6), rows) for rows in decoders]
    singles: list[float] = []
    for _ in range(4):
        started = time.perf_counter()
        reseed.match(decoders[0], decoders[1])
        singles.append(time.perf_counter() - started)
    started = time.perf_counter()
    for a, b in combinations(saes, 2):
        compare(a, b)
    return (time.perf_counter() - started) / float(np.median(singles[1:]))


def exact_geometry(a: Rows, b: Rows) -> Any:
    """Signed cosines."""
    from reseed.matching.geometry import cosine

    return cosine(a, b)


def line(row: dict[str, Any]) -> str:
    """One line for people."""
    text = (
        f"{row['latents']:>8} {row['seconds']:>8.2f} {row['bare_seconds']:>7.2f} "
        f"{row['ratio']:>6.2f} {row['cpu_ratio']:>6.2f} {row['products']:>8.2f} "
        f"{row['sparse_seconds']:>8.2f} "
        f"{row['rounds']:>6} {row['relative_gap']:>9.1e} {row['edges'] / row['latents']:>6.1f} "
        f"{row['peak_bytes'] / 2**30:>5.2f}"
    )
    if "dense_seconds" not in row:
        return text + f" {'-':>8} {'-':>6} -"
    return text + f" {row['dense_seconds']:>8.1f} {row['faster']:>5.0f}x {row['same']:.4f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default=SIZES)
    parser.add_argument("--dimensions", type=int, default=768)
    parser.add_argument(
        "--power", type=float, default=0.5, help="amplitude of direction k: k^-power"
    )
    parser.add_argument("--tolerance", type=float, default=1e-9, help="relative gap")
    parser.add_argument("--dense", type=int, default=16_384, help="largest size for SciPy dense")
    parser.add_argument("--rounds", type=int, default=5, help="a third of them from 65,536 on")
    parser.add_argument("--runs", type=int, help="all pairs of so many of --sizes, instead")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        with_dense = options.one <= options.dense
        rounds = options.rounds if options.one < 65_536 else max(1, options.rounds // 3)
        shape = (options.one, options.dimensions, options.power, options.tolerance)
        print(json.dumps(measure(*shape, rounds, with_dense)))
        return
    if options.runs:
        for size in map(int, options.sizes.split(",")):
            singles = runs_in_singles(size, options.runs)
            print(f"{size} latents, {options.runs} runs: {singles:.1f} matches of one view")
            if (size, options.runs) == (16_384, 9):
                told("matching runs", singles)
        return
    print(HEAD, flush=True)
    rows: list[dict[str, Any]] = []
    for size in options.sizes.split(","):
        command = [sys.executable, "-m", "benchmarks.matching", "--one", size]
        for name in ("dimensions", "power", "tolerance", "dense", "rounds"):
            command += [f"--{name}", str(getattr(options, name))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        rows.append(json.loads(done.stdout))
        print(line(rows[-1]), flush=True)
        if options.json:
            options.json.write_text(json.dumps(rows, indent=2) + "\n")
    for row in rows:
        if (key := f"matching {row['latents']}") in BARS:
            told(key, row["ratio"], row["cpu_ratio"])
        if row["latents"] == 16_384 and "faster" in row:
            told("matching scipy", row["faster"])


if __name__ == "__main__":
    main()
