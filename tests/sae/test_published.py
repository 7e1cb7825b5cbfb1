"""Against files that other libraries wrote with their own classes (see tests/peers)."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from reseed.sae.architectures import topk
from reseed.sae.architectures.topk import TopKSpec

HERE = Path(__file__).parent / "published"


def test_topk_equals_sparsify() -> None:
    theirs = load_file(HERE / "sparsify.safetensors")
    p = {
        "W_enc": theirs["encoder.weight"],
        "b_enc": theirs["encoder.bias"],
        "W_dec": theirs["W_dec"],
        "b_dec": theirs["b_dec"],
    }
    spec = TopKSpec(latents=64, k=8)
    sae = topk.freeze(p, spec, {})
    torch.testing.assert_close(sae.reconstruct(theirs["x"]), theirs["sae_out"])
    step = topk.step(p, theirs["x"], spec, torch.zeros(64, dtype=torch.bool))
    assert step.fvu == pytest.approx(float(theirs["fvu"]), rel=1e-5)
