"""A training step of another library, timed in turn with the bare product; see `benchmarks.step`.

    PYTHON peers_step.py NAME BATCHES.npy LATENTS K ROUNDS [DEVICE]

Runs in that library's environment, so it imports nothing of ours. Each does what its own trainer
does in a step: forward, backward, clipping at 1, Adam, decoder rows back to length 1 where it does.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np
import torch


def sparsify(x: Any, latents: int, k: int) -> Callable[[Any], None]:
    """Sparsify's SparseCoder in the loop of its Trainer."""
    from sparsify import SparseCoder, SparseCoderConfig

    coder = SparseCoder(x.shape[1], SparseCoderConfig(num_latents=latents, k=k), device=x.device)
    optimizer = torch.optim.Adam(coder.parameters(), lr=2e-4)

    def step(rows: Any) -> None:
        coder.set_decoder_norm_to_unit_norm()
        coder(rows).fvu.backward()
        torch.nn.utils.clip_grad_norm_(coder.parameters(), 1.0)
        coder.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()

    return step


def sae_lens(x: Any, latents: int, k: int) -> Callable[[Any], None]:
    """SAELens' TopKTrainingSAE in the loop of its SAETrainer."""
    from sae_lens.saes.sae import TrainStepInput
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig

    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=x.shape[1], d_sae=latents, k=k))
    optimizer = torch.optim.Adam(sae.parameters(), lr=2e-4)
    dead = torch.zeros(latents, dtype=torch.bool)

    def step(rows: Any) -> None:
        given = TrainStepInput(
            sae_in=rows,
            coefficients={},
            dead_neuron_mask=dead,
            n_training_steps=0,
            is_logging_step=False,
        )
        sae.training_forward_pass(given).loss.backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def dictionary_learning(x: Any, latents: int, k: int) -> Callable[[Any], None]:
    """The update of its TopKTrainer."""
    if find_spec("nnsight") is None:  # reads models for it; its import needs the name, a step not
        stand_in = ModuleType("nnsight")
        stand_in.LanguageModel = object
        sys.modules["nnsight"] = stand_in
    from dictionary_learning.trainers.top_k import TopKTrainer

    sizes = {"activation_dim": x.shape[1], "dict_size": latents, "k": k, "steps": 10_000}
    trainer = TopKTrainer(layer=0, lm_name="none", device="cpu", **sizes)
    return lambda rows: trainer.update(1, rows)


def main() -> None:
    """Print the numbers as JSON."""
    name, path, *sizes = sys.argv[1:]
    latents, k, rounds = map(int, sizes[:3])
    device = sizes[3] if len(sizes) > 3 else "cpu"
    x = torch.from_numpy(np.load(path)).to(device)
    wait = torch.cuda.synchronize if device != "cpu" else (lambda: None)
    makers = {
        "sparsify": sparsify,
        "sae_lens": sae_lens,
        "dictionary_learning": dictionary_learning,
    }
    step = makers[name](x[0], latents, k)
    weights = torch.randn(latents, x.shape[2], device=device)
    out = torch.empty(x.shape[1], latents, device=device)
    torch.mm(x[0], weights.T, out=out)
    step(x[0])
    bare: list[float] = []
    theirs: list[float] = []
    for i in range(rounds):
        rows = x[i % len(x)]
        time.sleep(0.05)
        wait()
        started = time.perf_counter()
        torch.mm(rows, weights.T, out=out)
        wait()
        middle = time.perf_counter()
        step(rows)
        wait()
        theirs.append(time.perf_counter() - middle)
        bare.append(middle - started)
    ratio = statistics.median(a / b for a, b in zip(theirs, bare, strict=True))
    print(json.dumps({"seconds": statistics.median(theirs), "ratio_to_product": ratio}))


if __name__ == "__main__":
    main()
