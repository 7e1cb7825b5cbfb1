"""Matching by torch on a device against the same by NumPy and compiled loops.

`"cpu:0"` is the device that every machine has: any name but `"cpu"` goes the way of a GPU.
"""

import numpy as np
import pytest

import reseed
from reseed.errors import SpecError
from reseed.matching.beyond.regress import fits
from reseed.matching.entries import largest, nearest_in_itself
from reseed.matching.geometry import Geometry, Limits, cosine, least_cosine, products_on, rows

torch = pytest.importorskip("torch")
pytest.importorskip("numba")
from reseed.loops import gpu_offers  # noqa: E402
from reseed.matching.exact import exact, match_above  # noqa: E402

HERE = "cpu:0"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Many blocks of small dictionaries, some of them narrower than the room."""
    monkeypatch.setattr(gpu_offers, "ROWS", 100)
    monkeypatch.setattr(gpu_offers, "COLUMNS", 70)
    monkeypatch.setattr("reseed.matching.candidates.ON_DEVICE", 90)


def planted(n, m, d=24):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(n, d)), rng.normal(size=(m, d))
    k = min(n, m) * 2 // 3
    b[:k] = a[:k] + 0.4 * b[:k]
    return a, b[rng.permutation(m)]


def tied(n, m):
    rng = np.random.default_rng(1)
    return tuple(rng.integers(-1, 2, size=(k, 3)).astype(float) for k in (n, m))


def duplicated(n, m):
    a, b = planted(n, m)
    rng = np.random.default_rng(2)
    return a[rng.integers(0, n // 6, n)], b[rng.integers(0, m // 9, m)]


def constant(n, m):
    return np.ones((n, 4)), np.ones((m, 4))


def silent(n, m):
    """Rows of zeros, similar to nothing: all their entries are alike."""
    a, b = planted(n, m)
    a[: n // 2] = b[: m // 3] = 0
    return a, b


@pytest.mark.parametrize("make", [planted, tied, duplicated, constant, silent])
@pytest.mark.parametrize("size", [(18, 40), (260, 260), (300, 210)])
def test_an_assignment_is_as_good_and_proven(make, size) -> None:
    a, b = make(*size)
    plain = exact(cosine(a, b, device="cpu"), Limits())
    found = exact(cosine(a, b, device=HERE), Limits())
    assert found.optimal
    assert found.primal == pytest.approx(plain.primal, abs=plain.tolerance)
    assert found.certificate.rounds <= 3 * plain.certificate.rounds
    if plain.certificate.ties == 0:
        np.testing.assert_array_equal(found.pairs, plain.pairs)


def test_two_views_and_a_threshold() -> None:
    a, b = planted(260, 300)
    c, d = (part[:, ::-1] + 0.1 for part in (a, b))
    plain, found = (
        match_above(least_cosine([(a, b), (c, d)], device=device), 0.2, Limits())
        for device in ("cpu", HERE)
    )
    assert found.optimal
    np.testing.assert_array_equal(found.pairs, plain.pairs)


def test_what_was_left_out_is_bounded() -> None:
    """Few are kept, so that only passes at prices find what the assignment needs."""
    a, b = duplicated(260, 300)
    plain = exact(cosine(a, b, device="cpu"), Limits())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reseed.matching.exact.ROOM", 1)
        found = exact(cosine(a, b, device=HERE), Limits())
    assert found.optimal
    assert found.certificate.rounds > 1
    assert found.primal == pytest.approx(plain.primal, abs=plain.tolerance)


def test_out_of_time_says_so() -> None:
    a, b = planted(200, 200)
    found = exact(cosine(a, b, device=HERE), Limits(seconds=0.0))
    assert found.certificate.ended == "out of time"
    assert not found.optimal


@pytest.mark.parametrize("absolute", [False, True])
def test_nearest_neighbours(absolute) -> None:
    a, b = planted(260, 230)
    plain = largest(cosine(a, -b, device="cpu"), absolute=absolute)
    found = largest(cosine(a, -b, device=HERE), absolute=absolute)
    for one, other in zip(plain, found, strict=True):
        np.testing.assert_array_equal(one.latent, other.latent)
        np.testing.assert_array_equal(one.similarity, other.similarity)


def test_what_a_stage_does_inside_a_block() -> None:
    """Where nothing is said, products are made where the block says."""
    a, b = (rows(part, "A") for part in planted(260, 230))
    plain = nearest_in_itself(a), fits(a, b)
    with products_on(HERE):
        assert Geometry(views=((a, b),)).device == HERE
        found = nearest_in_itself(a), fits(a, b)
        assert reseed.match(a.exact, b.exact, device="cpu").optimal
    assert Geometry(views=((a, b),)).device == "cpu"
    np.testing.assert_array_equal(plain[0].latent, found[0].latent)
    for one, other in zip(plain[1], found[1], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)


@pytest.mark.parametrize("measure", ["correlation", "jaccard", "cosine"])
def test_what_fires_together(measure, monkeypatch) -> None:
    monkeypatch.setattr("reseed.matching.cofiring._ROOM", 3_000)
    rng = np.random.default_rng(0)
    a, b = ((rng.random((400, k)) < 0.1) * rng.random((400, k)) for k in (50, 60))
    b[:, :30] += a[:, :30]
    a[:, 7] = 0
    plain, found = (
        reseed.match_activations(a, b, measure=measure, device=device) for device in ("cpu", HERE)
    )
    np.testing.assert_array_equal(plain.pairs, found.pairs)
    np.testing.assert_allclose(plain.similarity, found.similarity, rtol=1e-12)
    monkeypatch.setattr("reseed.matching.cofiring._MEETINGS", 60)  # of many latents there are more
    chunks = [(a[i : i + 100], b[i : i + 100]) for i in range(0, 400, 100)]
    in_chunks = reseed.match_activations(chunks, measure=measure, device=HERE)
    np.testing.assert_array_equal(plain.pairs, in_chunks.pairs)


class Tf32(torch.overrides.TorchFunctionMode):
    """Products of factors with 11 bits, as NVIDIA's TF32 makes them."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.matmul or function is torch.Tensor.__matmul__:
            args = [(part.view(torch.int32) & ~0x1FFF).view(torch.float32) for part in args]
        return function(*args, **(kwargs or {}))


def test_rounded_products_are_refused() -> None:
    a, b = planted(60, 60)
    with Tf32(), pytest.raises(SpecError, match="as TF32 does it"):
        exact(cosine(a, b, device=HERE), Limits())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_on_a_gpu() -> None:
    a, b = planted(3_000, 3_500)
    plain, found = (reseed.match(a, b, device=device) for device in ("cpu", "cuda"))
    assert found.optimal
    np.testing.assert_array_equal(found.pairs, plain.pairs)
