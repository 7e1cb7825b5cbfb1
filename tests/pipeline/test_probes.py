"""What one pair is taken to cost at sizes that are not tried."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from reseed.pipeline import probes
from reseed.stability import structure
from reseed.stability.decoys import Decoys, decoys_of
from reseed.stability.nulls import CovarianceNull


def test_decoys_grow_with_the_candidates_once_there_are_no_more_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def at_once(_work: Callable[[], object], times: int = 2) -> float:
        del times
        return 1.0

    monkeypatch.setattr(probes, "timed", at_once)
    assert decoys_of(8_192) == decoys_of(16_384) == 8_000
    small, large = (probes.pair_seconds(latents, 16) for latents in (8_192, 16_384))
    assert large.decoys == 2 * small.decoys == pytest.approx(16 * 8_000 / 3_072)
    assert large.structure == 4 * small.structure


def test_the_structure_of_a_pair_is_timed_with_its_own_decoys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[int] = []

    def once(work: Callable[[], object], times: int = 2) -> float:
        work()
        return float(times)

    real = structure.decoys

    def counted(a: CovarianceNull, b: CovarianceNull, *key: int | str) -> Decoys:
        drawn.append(1)
        return real(a, b, *key)

    monkeypatch.setattr(structure, "decoys", counted)
    monkeypatch.setattr(probes, "timed", once)
    assert probes.pair_seconds(24, 16).structure == 1
    assert drawn == [1]
