"""Held-out rows encoded on a device against the same on the CPU.

`"cpu:0"` is the device that every machine has: any name but `"cpu"` goes the way of a GPU.
"""

import numpy as np
import pytest

from reseed.events import Events
from reseed.evidence.rows import Device, Reader, feed, firing_of
from reseed.evidence.sampler import nearest_decoders
from reseed.sae.model import SAE
from reseed.subjects.arrays import MemorySource

torch = pytest.importorskip("torch")

RULES = {
    "topk": {"kind": "topk", "k": 3},
    "relu": {"kind": "relu"},
    "jumprelu": {"kind": "jumprelu"},
}
F, D = 40, 12


def sae(rule, seed=0):
    draw = torch.Generator().manual_seed(seed)
    W, threshold = torch.randn(2, F, D, generator=draw), None
    if rule == "jumprelu":
        threshold = torch.full((F,), 0.5)
    b = torch.randn(F, generator=draw)
    return SAE(W[0], W[1], b, torch.zeros(D), RULES[rule], threshold=threshold)


def source():
    x = np.random.default_rng(0).standard_normal((6 * 10, D)).astype(np.float32)
    return MemorySource({"s": x}, block=10)


@pytest.mark.parametrize("room", [None, 0], ids=["all stay", "none stays"])
def test_all_is_as_on_the_cpu(room):
    saes = {rule: sae(rule) for rule in RULES}
    plain, device = {}, Device("cpu:0", room)

    def keep(chunk):
        for name in readers:
            numbers = [*chunk.codes(name), chunk.rebuilt(name)]
            assert all(part.device.type == "cpu" for part in numbers)
            plain.setdefault(name, []).append(numbers)

    seen = []
    for there in (None, device):
        readers = {name: Reader(one, "s", there) for name, one in saes.items()}
        plain = {}
        feed(keep, readers, source(), range(6), Events(), "test", size=4)
        seen.append(plain)
    for name in saes:
        for one, other in zip(seen[0][name], seen[1][name], strict=True):
            for a, b in zip(one, other, strict=True):
                assert torch.equal(a, b)
    assert (device.copy(saes["topk"]) is device.copy(saes["topk"])) == (room is None)


def test_sums_are_as_on_the_cpu():
    plain, found = (
        firing_of({"a": Reader(sae("topk"), "s", there)}, source(), range(6), Events(), "test")["a"]
        for there in (None, Device("cpu:0"))
    )
    assert plain.table().equals(found.table())
    assert plain.reconstruction() == found.reconstruction()


def test_neighbours_are_as_on_the_cpu():
    W = sae("topk").W_dec
    for one, other in zip(nearest_decoders(W, 5), nearest_decoders(W, 5, "cpu:0"), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_on_a_gpu():
    for rule in RULES:
        plain, found = (
            Reader(sae(rule), "s", there).encode(source().read([0])["s"])
            for there in (None, Device("cuda"))
        )
        assert torch.equal(plain.latents, found.latents)
        torch.testing.assert_close(plain.values, found.values)
