"""One SAE over several ranks: what a step sends and takes, by arithmetic and measured on CPUs.

    python -m benchmarks.shards            # the table of docs/sharding.md, by arithmetic alone
    python -m benchmarks.shards measure    # the same run on 1, 2 and 4 ranks of this machine

Bytes on the wire are those that `RankGroup` counts, and a test holds the two together. Times of
GPUs come from rates that are assumed: nothing of them is measured. F latents, D dimensions, B
batch, k active, P ranks.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch

from reseed.sae.parts import auxk_size
from reseed.spec.training import RunSpec
from reseed.training.learner import RunBatches
from reseed.training.shards.launch import ranks
from reseed.training.shards.learner import BlockLearner
from reseed.training.shards.ranks import RankGroup

_A_WEIGHT = 26
"""Bytes a latent and dimension: both matrices with their moments, the encoder once more halved."""
_ROWS = 8
"""Arrays `[B, D]` float32 alive at a time: rows as read and centred, sums, their pieces, what is
left."""
_PASSES = 6
"""Times that the rows of active codes are read: decoded, pulled, and both gradients twice."""
INFINIBAND = 45e9
"""Bytes a second of each GPU between machines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Of one GPU, in units a second; assumed."""

    product: float = 600e12
    """floating-point operations of a bfloat16 product"""
    memory: float = 2.5e12
    """bytes of its memory"""
    wire: float = 360e9
    """bytes that it sends to others; 45e9 between machines"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedRun:
    """A run of TopK, and the ranks that share it."""

    latents: int
    dimensions: int
    batch: int
    k: int
    ranks: int = 1

    def sent(self, dead: int = 0) -> dict[str, int]:
        """Bytes that the first rank sends in a step, where so many latents are dead and learn.

        The other ranks send as much, but no rows.
        """
        others = self.ranks - 1
        if not others:
            return {}
        rows = -(-self.batch // self.ranks) * self.ranks
        sums = 2 * (rows * self.dimensions * 4 * others // self.ranks)
        out = {
            "rows": self.batch * self.dimensions * 4,
            "candidates": self._candidates(rows, self.k),
            "reconstruction": sums,
            "vectors": self.dimensions * 4 * others,
        }
        if dead:
            active, _ = auxk_size(self.dimensions, dead)
            out["dead candidates"] = self._candidates(rows, active)
            out["reconstruction"] += sums
        return out

    def _candidates(self, rows: int, k: int) -> int:
        """Values of the k best of each row there, counts back."""
        return rows * 4 * (k + 1) * (self.ranks - 1) // self.ranks

    @property
    def memory(self) -> int:
        """Bytes on each GPU."""
        own = self.latents * self.dimensions * _A_WEIGHT // self.ranks
        return own + _ROWS * self.batch * self.dimensions * 4

    def seconds(self, rates: Rates, dead: int = 0) -> tuple[float, float]:
        """Of a step: in computing, and on the wire."""
        f, d, b = self.latents / self.ranks, self.dimensions, self.batch
        product = 2 * b * f * d / rates.product + 4 * b * f / rates.memory
        active = auxk_size(d, dead)[0] if dead else 0
        codes = _PASSES * 4 * b * (self.k + active) * d / self.ranks / rates.memory
        adam = 2 * 24 * f * d / rates.memory
        whole = _ROWS * 4 * b * d / rates.memory
        if dead:
            product += 2 * b * (dead / self.ranks) * d / rates.product
        return product + codes + adam + whole, sum(self.sent(dead).values()) / rates.wire


def table() -> str:
    """The table of docs/sharding.md."""
    rows = [
        "| latents, GPUs | memory of each | a step | of it on the wire | tokens a second | "
        "8 seeds of 10^9 tokens |",
        "|---|---|---|---|---|---|",
    ]
    for latents in (131_072, 2**20):
        for gpus, each in ((8, 1), (8, 8), (64, 1), (64, 8), (64, 64)):
            run = SharedRun(latents=latents, dimensions=4096, batch=32_768, k=64, ranks=each)
            if run.memory > 80e9:
                name = f"| {latents:,}, {gpus}: one GPU a run | {run.memory / 1e9:.0f} GB |"
                rows.append(f"{name} does not fit into 80 GB | | | |")
                continue
            rates = Rates() if each <= 8 else Rates(wire=INFINIBAND)
            compute, wire = run.seconds(rates)
            side = min(gpus // each, 8)
            tokens = side * run.batch / (compute + wire)
            hours = 8e9 / tokens / 3600
            what = "one GPU a run" if each == 1 else f"{each} GPUs a run"
            rows.append(
                f"| {latents:,}, {gpus}: {side} at a time, {what} | {run.memory / 1e9:.0f} GB "
                f"| {1e3 * (compute + wire):.0f} ms | {wire / (compute + wire):.0%} "
                f"| {tokens / 1e6:.2f} M | {hours:.1f} h, {hours * side * each:.0f} GPU hours |"
            )
    return "\n".join(rows)


def measure(latents: int, dimensions: int, batch: int, k: int, steps: int) -> None:
    """As one rank of `torchrun`: train on made-up rows; the first rank prints a line."""
    sae = {"architecture": "topk", "latents": latents, "k": k, "blocks": 4}
    training = {"tokens": batch * steps, "batch": batch}
    spec = RunSpec.model_validate(
        {"data": "", "site": "x", "sae": sae, "training": training, "init_seed": 0, "data_seed": 0}
    )
    features = np.random.default_rng(0).normal(size=(4 * dimensions, dimensions))

    def rows(number: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng(number + 1)
        chosen = rng.integers(len(features), size=(batch, 8))
        x = (features[chosen] * (rng.random((batch, 8, 1)) + 0.5)).sum(1)
        return {"x": torch.from_numpy(x / dimensions**0.5).float()}

    with ranks() as is_first:
        if not is_first:
            return
        group = RankGroup()
        learner = BlockLearner.lead(spec, rows(0)["x"], group, batches=RunBatches(spec, rows))
        walls, cpus = list[float](), list[float]()
        for step in range(steps):
            x, wall, cpu = rows(step)["x"], time.perf_counter(), time.process_time()
            learner.update(x)
            walls.append(time.perf_counter() - wall)
            cpus.append(time.process_time() - cpu)
        sent = {name: count // steps for name, count in group.sent.items()}
        arrays = learner.all_parameters()
        digest = hashlib.sha256(b"".join(arrays[n].numpy().tobytes() for n in sorted(arrays)))
        run = SharedRun(latents=latents, dimensions=dimensions, batch=batch, k=k, ranks=group.size)
        print(
            json.dumps(
                {
                    "ranks": group.size,
                    "sha256": digest.hexdigest()[:16],
                    "wall_s": round(float(np.median(walls)), 3),
                    "cpu_s_of_first": round(float(np.median(cpus)), 3),
                    "sent": sent,
                    "model": run.sent(),
                }
            )
        )


def main() -> None:
    """By the arguments."""
    match sys.argv[1:]:
        case ["rank", *numbers]:
            torch.set_num_threads(1)
            measure(*map(int, numbers))
        case ["measure"]:
            start = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
            for count in (1, 2, 4):
                each = ["--nproc-per-node", str(count), "-m", "benchmarks.shards", "rank"]
                subprocess.run([*start, *each, *["8192", "512", "512", "32", "7"]], check=True)
        case _:
            print(table())


if __name__ == "__main__":
    main()
