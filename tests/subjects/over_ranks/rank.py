"""Ranks that hold a model together, beside the same model in one of them; `test_spread` looks."""

import sys

import numpy as np
import polars as pl
import torch
from torch.distributed.tensor import DTensor

from reseed.errors import SubjectError
from reseed.spec.subject import LanguageModelSpec
from reseed.subjects.language.activations import TextSource
from reseed.subjects.language.blocks import TokenBlocks
from reseed.subjects.language.model import load_language_model
from reseed.subjects.over_ranks.spread import SpreadModel
from reseed.training.shards.launch import joined, ranks

BLOCKS, LENGTH = 11, 12
SITES = ["layers.0", "layers.1.mlp", "layers.2.mlp.down_proj:in"]


def tokens(padded):
    draw = np.random.default_rng(0)
    document = np.repeat(np.arange(BLOCKS, dtype=np.int32)[:, None], LENGTH, 1)
    if padded:
        for block in range(BLOCKS):
            document[block, 3 + block % 9 :] = -1
    keep = document >= 0
    return TokenBlocks(
        ids=draw.integers(4, 20, (BLOCKS, LENGTH)).astype(np.uint32),
        document=document,
        keep=keep,
        rows=keep.sum(1).astype(np.int64),
        documents=pl.DataFrame({"origin": [f"d{i}" for i in range(BLOCKS)]}),
        about={"layout": "padded" if padded else "packed"},
    )


def main(folder):
    with ranks() as is_first:
        if is_first:  # a call of its own: models that live on when groups go abort the process
            compare(folder)


def compare(folder):
    everyone = joined()
    for dtype in ("float32", "bfloat16"):
        spec = LanguageModelSpec(model=folder, dtype=dtype)
        alone = load_language_model(spec, SITES)
        spread = SpreadModel.lead(spec, SITES, "cpu", everyone)
        parts = [p for p in spread.body.parameters() if isinstance(p, DTensor)]
        assert len(parts) == len(list(alone.body.parameters()))
        held = sum(part.to_local().numel() for part in parts)
        whole = sum(p.numel() for p in alone.body.parameters())
        assert held < 0.6 * whole, (held, whole)
        spread.check_causal()
        for text in (tokens(False), tokens(True)):
            for masked in (False, True):
                one = TextSource(alone, text, 2, padded=masked)
                other = TextSource(spread, text, 2, padded=masked)
                for blocks in (range(BLOCKS), [4], [7, 2, 2]):
                    want, got = one.read(blocks), other.read(blocks)
                    assert list(want) == list(got)
                    for site in want:
                        assert torch.equal(want[site], got[site]), (dtype, site, blocks)
        sys.stdout.write(f"equal {dtype}\n")
    try:
        SpreadModel.lead(LanguageModelSpec(model=f"{folder}/none"), SITES, "cpu", everyone)
    except SubjectError as error:
        sys.stdout.write(f"refused {error}\n")


if __name__ == "__main__":
    main(sys.argv[1])
