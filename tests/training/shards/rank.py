"""Four processes that train the same runs as 4, 2 and 1 ranks; `test_sharded_run` looks."""

import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save_file

from reseed.errors import StoreError
from reseed.spec.training import RunSpec, TrainingSpec
from reseed.training.shards import learner as module
from reseed.training.shards.launch import serve
from reseed.training.shards.ranks import RankGroup

BATCH, LATENTS, D, BLOCKS = 33, 64, 12, 4
RULES = {
    "topk": {"k": 3, "auxk_alpha": 1 / 32, "dead_after": 5 * BATCH},
    "batchtopk": {"k": 2.5, "dead_after": 5 * BATCH},
    "jumprelu": {"penalty": 0.01, "threshold": 0.3, "bandwidth": 0.3, "dead_after": 5 * BATCH},
}
STEPS = {"topk": 200, "batchtopk": 24, "jumprelu": 60}


def rows(step, count=BATCH):
    """Sparse rows; some of them twice, so that rows tie as well."""
    rng = np.random.default_rng(step)
    features = np.random.default_rng(99).normal(size=(24, D))
    x = (rng.random((count, 24)) < 0.1) * (rng.random((count, 24)) + 0.5) @ features
    x = x + 0.05 * rng.normal(size=(count, D))
    x[-4:] = x[:4]
    return torch.from_numpy(x).float()


def run(name, blocks=BLOCKS, **settings):
    sae = {"architecture": name, "latents": LATENTS, "lr": 3e-3, **RULES[name], "blocks": blocks}
    steps = STEPS[name]
    training = TrainingSpec(tokens=BATCH * steps, batch=BATCH, clip=0.5)
    return RunSpec(
        data="", site="x", sae={**sae, **settings}, training=training, init_seed=0, data_seed=0
    )


def twins(make):
    """Starts in which every latent has a twin on another rank: all codes tie with another."""

    def tied(*args, **more):
        return {
            name: torch.cat([value[: LATENTS // 2]] * 2) if len(value.shape) else value
            for name, value in make(*args, **more).items()
            if name != "b_dec"
        } | {"b_dec": make(*args, **more)["b_dec"]}

    return tied


def lead(name, ranks, *, start=None, stop=None, parts=None):
    """Train from a checkpoint's step, or from the first, to `stop`."""
    spec = run(name)
    learner = module.BlockLearner.lead(
        spec, rows(0), ranks, batches=module.RunBatches(spec, lambda n: {"x": rows(n)})
    )
    if start is not None:
        learner.restore({"step": torch.tensor(start)})
        learner.read_parts(parts)
    for step in range(start or 0, STEPS[name] if stop is None else stop):
        metrics = learner.update(rows(step))
        if parts and start is None and step + 1 == STEPS[name] // 2:
            learner.write_parts(parts)
    learner.check_weights()
    sae = learner.sae()
    assert sae.about["tokens"] == learner.step * BATCH
    numbers = torch.tensor([metrics["fvu"], metrics["l0"], metrics["dead"]], dtype=torch.float64)
    out = {"W_enc": sae.W_enc, "b_enc": sae.b_enc, "W_dec": sae.W_dec, "b_dec": sae.b_dec}
    return (
        out | {"metrics": numbers, "threshold": sae.threshold}
        if name != "topk"
        else (out | {"metrics": numbers})
    )


def main(rank, folder):
    torch.set_num_threads(1)
    module.first_parameters = twins(module.first_parameters)

    def world(size, name, do):
        if rank >= size:
            return
        store = dist.FileStore(str(folder / f"{name}.store"), size)
        dist.init_process_group("gloo", rank=rank, world_size=size, store=store)
        ranks = RankGroup()
        if rank:
            serve(ranks)
        else:
            for key, made in do(ranks).items():
                save_file({n: v.contiguous().clone() for n, v in made.items()}, folder / key)
            ranks.order(do="end")
        dist.destroy_process_group()

    def four(ranks):
        out = {f"{name}-4": lead(name, ranks) for name in RULES}
        ranks.sent = Counter()
        lead("topk", ranks, stop=1)  # no latent is dead yet
        sent = {name.replace(" ", "_"): torch.tensor(n) for name, n in ranks.sent.items()}
        return out | {"sent": sent}

    def two(ranks):
        for name in RULES:
            lead(name, ranks, stop=STEPS[name] // 2, parts=folder / name)
        return {}

    def resumed(ranks):
        out = {}
        for name in RULES:
            part = {"start": STEPS[name] // 2, "parts": folder / name}
            out[f"{name}-2-4"] = lead(name, ranks, **part)
        file = next((folder / "topk").glob("*-0003.safetensors"))
        file.write_bytes(file.read_bytes()[:-1])
        try:
            lead("topk", ranks, start=STEPS["topk"] // 2, parts=folder / "topk")
        except StoreError as error:
            (folder / "damaged").write_text(str(error))
        return out

    world(4, "four", four)
    world(2, "two", two)
    world(4, "resumed", resumed)
    if rank == 0:
        for name in RULES:
            save_file(lead(name, RankGroup()), folder / f"{name}-1")


if __name__ == "__main__":
    # forked once all is imported, and before torch has threads: imports are most of the time
    own = next((rank for rank in (1, 2, 3) if os.fork() == 0), 0)
    main(own, Path(sys.argv[1]))
    if own == 0 and any(os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(3)):
        sys.exit("a rank failed")
