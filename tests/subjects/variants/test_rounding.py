"""Rounded weights against the formats' formulas, written plainly."""

import numpy as np
import pytest
import torch
from torch import nn

from reseed.errors import SpecError
from reseed.events import Events
from reseed.spec.variants import GGUFSpec, Int4Spec, Int8Spec
from reseed.subjects.variants.rounding import round_weights, to_gguf, to_int4

W = torch.randn(5, 96, generator=torch.Generator().manual_seed(0))


def int4(row, group):
    out = []
    for first in range(0, len(row), group):
        part = row[first : first + group]
        low, high = min(min(part), 0.0), max(max(part), 0.0)
        scale = (high - low) / 15 or 1.0
        zero = round(-low / scale)
        out += [(min(max(round(w / scale + zero), 0), 15) - zero) * scale for w in part]
    return out


@pytest.mark.parametrize("group", [32, 40])
def test_int4_is_its_plain_twin(group):
    weights = W.clone()
    weights[0] = 0
    weights[1] = weights[1].abs()
    rounded = to_int4(weights, group)
    wanted = [int4(row, group) for row in weights.double().tolist()]
    np.testing.assert_allclose(rounded, wanted, rtol=1e-5, atol=1e-6)
    assert torch.equal(to_int4(rounded, group).bool(), rounded.bool())
    assert len(np.unique(rounded[2, :group].round(decimals=4))) <= 16


def test_levels_of_gguf_are_those_of_its_format():
    blocks = W.numpy().reshape(-1, 32)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(1)[:, None], 1)
    d8, d4 = np.abs(largest) / 127, largest / -8
    q8 = np.round(blocks / d8) * d8.astype(np.float16).astype(np.float32)
    q4 = np.clip(np.floor(blocks / d4 + 8.5), 0, 15) - 8
    np.testing.assert_allclose(to_gguf(W, "Q8_0").reshape(-1, 32), q8, atol=1e-6)
    wanted = q4 * d4.astype(np.float16).astype(np.float32)
    np.testing.assert_allclose(to_gguf(W, "Q4_0").reshape(-1, 32), wanted, atol=1e-6)
    errors = [float((to_gguf(W, n) - W).norm()) for n in ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")]
    assert errors == sorted(errors)


def test_layers_are_rounded_in_place_and_the_rest_is_said():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Embedding(4, 32), nn.Linear(32, 8), nn.LayerNorm(8), nn.Linear(8, 3))
    before = {name: value.clone() for name, value in body.state_dict().items()}
    said = []
    events = Events()
    events.say = said.append
    round_weights(body, GGUFSpec(method="gguf", level="Q4_0"), "x", events)
    changed = [n for n, v in body.state_dict().items() if not torch.equal(v, before[n])]
    assert changed == ["1.weight"]
    assert "1 of 2 linear layers stay" in said[0]
    round_weights(body, Int4Spec(method="int4"), "x", events)
    assert not torch.equal(body[3].weight, before["3.weight"])
    round_weights(body, Int8Spec(method="int8"), "x", events)
    assert body[3].weight.dtype == torch.int8
    with pytest.raises(SpecError, match=r"'int8': y has no torch.nn.Linear"):
        round_weights(nn.Embedding(4, 2), Int8Spec(method="int8"), "y", events)
