"""What one pair is taken to cost at sizes that are not tried."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from reseed.pipeline import probes
from reseed.pipeline.power import gammas, off_centre
from reseed.sae.architectures import ARCHITECTURES
from reseed.spec.refusals import read_spec
from reseed.stability.decoys import decoys_of
from reseed.subjects.arrays import MemorySource


def test_decoys_grow_with_the_candidates_once_there_are_no_more_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def at_once(_work: Callable[[], object], times: int = 2) -> float:
        del times
        return 1.0

    monkeypatch.setattr(probes, "timed", at_once)
    monkeypatch.setattr(probes, "timed_once", at_once)
    assert decoys_of(8_192) == decoys_of(16_384) == 8_000
    small, large = (probes.pair_seconds(latents, 16) for latents in (8_192, 16_384))
    assert large.decoys == 2 * small.decoys == pytest.approx(16 * 8_000 / 3_072)
    products = [probes._FITS * (one / 1_024) ** 2 for one in (8_192, 16_384)]  # pyright: ignore[reportPrivateUsage]
    for one, latents, product in zip((small, large), (8_192, 16_384), products, strict=True):
        assert one.structure == pytest.approx(one.decoys / 4 + latents / 512 + product)


def test_how_far_rows_lie_from_the_origin_is_measured_and_said() -> None:
    rows = np.random.default_rng(0).normal(size=(2048, 8)).astype(np.float32)
    source = MemorySource({"near": rows, "far": rows + 5})
    read = probes.read_rows(source, len(source.rows))
    assert read.gamma["near"] < 0.1
    assert read.gamma["far"] == pytest.approx(5, rel=0.05)  # |mean| / |std| = 5 √8 / √8
    assert "near 0.0" in gammas(read.gamma, read.rows)[0]
    assert gammas({}, 0) == []
    saes = [
        read_spec(ARCHITECTURES[name].settings, {"latents": 16, "k": 4, **more}, "test")
        for name, more in (("topk", {}), ("llamascope", {}), ("llamascope", {"center": True}))
    ]
    (said,) = off_centre(saes, read.gamma)
    assert said.startswith("far: gamma is 5")
