"""What reconstructions do to predictions: one number by two ways."""

import numpy as np
import polars as pl
import pytest
import torch

from reseed.events import Events
from reseed.evidence.function import measure, spliced_cross_entropy
from reseed.sae.model import SAE
from reseed.spec.subject import LanguageModelSpec
from reseed.subjects.language.activations import SplicedModel
from reseed.subjects.language.blocks import TokenBlocks

SITE = "layers.1.mlp"


@pytest.fixture
def text():
    rng = np.random.default_rng(0)
    keep = np.ones((6, 8), dtype=bool)
    keep[:, 0] = False
    return TokenBlocks(
        ids=rng.integers(4, 20, (6, 8)).astype(np.uint32),
        document=np.repeat(np.arange(12, dtype=np.int32), 4).reshape(6, 8),
        keep=keep,
        rows=keep.sum(1),
        documents=pl.DataFrame(),
        about={"layout": "packed"},
    )


def test_cross_entropy_of_a_function_is_that_of_the_sae(tiny_folder, text):
    model = SplicedModel.load(LanguageModelSpec(model=str(tiny_folder)))
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(8, 16, generator=generator) / 4
    sae = SAE(W, W.clone(), torch.zeros(8), torch.zeros(16), {"kind": "topk", "k": 2})
    blocks = [5, 1, 2, 3, 0]
    found = measure({"run": sae}, {"run": (SITE, SITE)}, model, text, blocks, Events())["run"]
    entropy = spliced_cross_entropy(model, text, blocks, SITE)
    assert entropy(sae.reconstruct) == pytest.approx(found["ce_spliced"], rel=1e-6)
    assert entropy(lambda x: x) == pytest.approx(found["ce"], rel=1e-6)
    assert entropy(torch.zeros_like) == pytest.approx(found["ce_zero"], rel=1e-6)
    assert found["ce_spliced"] != pytest.approx(found["ce"], rel=1e-4)
