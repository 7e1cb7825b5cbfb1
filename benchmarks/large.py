"""What stability, nulls, families and the report of a large study cost: minutes and memory.

    python -m benchmarks.large --latents 32768 --runs 9
    python -m benchmarks.large --latents 131072 --runs 3

A toy study is trained for a few steps, then all else of a study is made. Told are the seconds of
each stage and the most memory that the process held in it. Runs go on from one SAE of random rows
with noise on each row, so that nearly all latents come back. With `--noise 0` they start
independently and next to none does: what becomes of all that is left over then takes most of the
time, and no more memory for many pairs than for one (`--runs 2`). With `--folder` the study is kept
and goes on where it was stopped; what was there is not made again and so not measured.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.bars import told
from reseed.formats.read import save
from reseed.records import SAEArrays
from reseed.seeds import generator

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
{start}

[seeds]
init = {seeds}
data = [0]

[training]
tokens = 40_960
batch = 1024
snapshots = []

[stability]
null_draws = 1
"""
BARS = {(32_768, 9): "statistics", (131_072, 3): "statistics wide"}


def started_from(sae: Path, asked: argparse.Namespace) -> str:
    """Save an SAE of random rows, and say in a study that runs go on from it."""
    rows = generator("large").standard_normal((asked.latents, asked.dimensions)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    b_enc, b_dec = (np.zeros(count, np.float32) for count in rows.shape)
    activation = {"kind": "topk", "k": 32}
    made = SAEArrays(
        W_enc=rows, b_enc=b_enc, W_dec=rows, b_dec=b_dec, activation=activation, about={}
    )
    save(made, sae)
    return f'init = "{sae}"\ninit_noise = {asked.noise}'


class Stage(NamedTuple):
    """What one stage took."""

    seconds: float
    gb: float
    """of memory at the most, its files that are mapped counted"""


def timed(study: Path) -> dict[str, Stage]:
    """Each stage of `reseed run`, by what it says when it begins; told as each ends."""
    command = [sys.executable, "-u", "-m", "reseed.cli", "run", str(study)]
    stages: dict[str, Stage] = {}
    now, since, most = "open", time.perf_counter(), 0.0
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as running:
        begun, said = list[str](), deque[str](maxlen=20)
        threading.Thread(target=_read, args=(running, begun, said), daemon=True).start()
        while True:
            ended = running.poll() is not None
            if begun or ended:
                stages[now] = Stage(time.perf_counter() - since, most)
                print(f"{now:12} {stages[now].seconds:7.0f} s {most:6.2f} GB", flush=True)
                if ended:
                    break
                now, since, most = begun.pop(0), time.perf_counter(), 0.0
            most = max(most, _held(running.pid))
            time.sleep(0.05)
    if running.returncode:
        sys.exit("".join(said))
    return stages


def _read(running: subprocess.Popen[str], begun: list[str], said: deque[str]) -> None:
    assert running.stdout is not None, "it was asked for"
    for line in running.stdout:
        said.append(line)
        if found := re.match(r"([\w-]+): started", line):
            begun.append(found[1])


def _held(pid: int) -> float:
    """GB that a process holds."""
    try:
        status = Path(f"/proc/{pid}/status").read_text("ascii")
    except OSError:  # it has just ended
        return 0.0
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found[1]) * 1024 / 1e9 if found else 0.0


def main() -> None:
    """Measure one size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--latents", type=int, default=32_768)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--dimensions", type=int, default=576)
    parser.add_argument("--noise", type=float, default=0.6, help="length of noise on unit rows")
    parser.add_argument("--folder", type=Path, help="keep the study here, or go on with it")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as passing:
        folder: Path = asked.folder or Path(passing)
        study = folder / "large.toml"
        whole = not (folder / "large" / "structure").exists()
        if not study.exists():
            folder.mkdir(exist_ok=True)
            start = started_from(folder / "start", asked) if asked.noise else ""
            seeds = list(range(asked.runs))
            study.write_text(STUDY.format(seeds=seeds, start=start, **vars(asked)))
        stages = timed(study)
        page = (study.with_suffix("") / "report.html").stat().st_size / 1e6
    print(f"page {page:.1f} MB")
    after = stages["structure"], stages["stability"]  # which has the report: it says no beginning
    if whole and (asked.latents, asked.runs) in BARS and asked.dimensions == 576:
        told(BARS[asked.latents, asked.runs], max(stage.gb for stage in after))


if __name__ == "__main__":
    main()
