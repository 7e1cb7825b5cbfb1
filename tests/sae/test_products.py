"""Products by oneDNN and by what torch takes by itself are the same to rounding."""

import pytest
import torch

from reseed.sae import arithmetic


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch has no oneDNN")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("turned", [True, False])
def test_both_ways_give_the_product(bias, turned, monkeypatch):
    draw = torch.Generator().manual_seed(0)
    x, W, b = (torch.randn(*shape, generator=draw) for shape in ((33, 20), (17, 20), (17,)))
    if turned:  # not contiguous
        x, W = x.T.contiguous().T, W.T.contiguous().T
    exact = x.double() @ W.double().T
    for faster in (True, False):
        monkeypatch.setattr(arithmetic, "onednn_is_faster", lambda faster=faster: faster)
        out = torch.full((33, 17), torch.nan)
        arithmetic.product(x, W, b if bias else None, out)
        torch.testing.assert_close(out.double(), exact + b.double() * bias, atol=1e-5, rtol=1e-5)
        arithmetic.add_product(out, x, W)
        torch.testing.assert_close(
            out.double(), 2 * exact + b.double() * bias, atol=2e-5, rtol=1e-5
        )


def test_the_rule_asks_for_processor_and_instructions(monkeypatch):
    for name, instructions, faster in (
        ("znver5", "AVX512", True), ("znver1", "AVX2", False), ("sapphirerapids", "AVX512", False),
        (None, "AVX512", False),
    ):  # fmt: skip
        monkeypatch.setattr(arithmetic, "_processor", lambda name=name: name)
        monkeypatch.setattr(
            torch.backends.cpu, "get_cpu_capability", lambda given=instructions: given
        )
        arithmetic.onednn_is_faster.cache_clear()
        assert arithmetic.onednn_is_faster() == (faster and torch.backends.mkldnn.is_available())
    arithmetic.onednn_is_faster.cache_clear()
