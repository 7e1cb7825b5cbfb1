"""How latents fire together, against dense NumPy on the whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from reseed.errors import SpecError
from reseed.matching.codes import ChosenPairs, as_codes, from_entries

pytest.importorskip("numba")
from reseed.matching import cofiring  # noqa: E402
from reseed.matching import cofiring as cofiring_kernel
from reseed.matching.cofiring import Cofiring, edges_above  # noqa: E402


def codes(tokens: int, latents: int, seed: int, rate: float = 0.15) -> np.ndarray:
    """Sparse codes with a dead, a dense and a constant latent among them."""
    rng = np.random.default_rng(seed)
    out = rng.exponential(size=(tokens, latents)) * (rng.random((tokens, latents)) < rate)
    out[:, 0] = 0
    if latents > 1:
        out[:, 1] = 1 + 0.1 * rng.random(tokens)
    if latents > 2:
        out[:, 2] = 3.0
    return out


def plain(measure: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The plain twin: all pairs, dense."""
    if measure == "jaccard":
        both = (a > 0).T.astype(float) @ (b > 0)
        either = (a > 0).sum(0)[:, None] + (b > 0).sum(0) - both
        return both / np.maximum(either, 1)
    if len(a) == 1:
        return np.zeros((a.shape[1], b.shape[1]))
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.corrcoef(a.T, b.T)[: a.shape[1], a.shape[1] :]
    constant = np.ptp(a, axis=0)[:, None] * np.ptp(b, axis=0) == 0
    return np.where(constant, 0.0, r)


def check_edges(edges, a: np.ndarray, b: np.ndarray, measure: str, above: float) -> None:
    want = plain(measure, a, b)
    together = (a > 0).T.astype(int) @ (b > 0) > 0
    sure = together & (want > above + 1e-9)
    maybe = together & (want > above - 1e-9)
    got = np.zeros_like(together)
    got[edges.row, edges.column] = True
    assert (got[sure]).all()
    assert maybe[got].all()
    np.testing.assert_allclose(edges.value, want[edges.row, edges.column], atol=1e-9)
    number = edges.row * b.shape[1] + edges.column
    assert (np.diff(number) > 0).all()


@pytest.mark.parametrize("measure", ["correlation", "jaccard"])
@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 9), st.integers(0, 10**6))
def test_same_as_dense(measure: str, tokens: int, n: int, m: int, seed: int) -> None:
    a, b = codes(tokens, n, seed), codes(tokens, m, seed + 1)
    for above in (-np.inf, 0.0, 0.3):
        whole = edges_above(as_codes(a, "A"), as_codes(b, "B"), measure, above)
        check_edges(whole, a, b, measure, above)
    sums = Cofiring(n, m)
    for part in np.array_split(np.arange(tokens), 3):
        sums.add(as_codes(a[part], "A"), as_codes(b[part], "B"))
    check_edges(sums.edges(measure, 0.0), a, b, measure, 0.0)


def test_many_parts_are_the_whole() -> None:
    a, b = codes(900, 40, 0), codes(900, 30, 1)
    whole, parts = Cofiring(40, 30), Cofiring(40, 30)
    whole.add(as_codes(a, "A"), as_codes(b, "B"))
    for k in np.random.default_rng(0).permutation(9):
        parts.add(*(as_codes(x[100 * k : 100 * k + 100], "X") for x in (a, b)))
    assert parts.tokens == whole.tokens == 900
    for measure in ("correlation", "jaccard"):
        one, other = parts.edges(measure), whole.edges(measure)
        np.testing.assert_array_equal(one.row, other.row)
        np.testing.assert_array_equal(one.column, other.column)
        np.testing.assert_allclose(one.value, other.value, atol=1e-12)


def test_few_at_a_time_is_all(monkeypatch) -> None:
    a, b = codes(300, 60, 2), codes(300, 50, 3)
    want = edges_above(as_codes(a, "A"), as_codes(b, "B"), "correlation", 0.1)
    monkeypatch.setattr(cofiring_kernel, "_ROOM", 7)
    found = edges_above(as_codes(a, "A"), as_codes(b, "B"), "correlation", 0.1)
    for one, other in zip(found, want, strict=True):
        np.testing.assert_array_equal(one, other)


def test_chosen_pairs_are_the_same() -> None:
    a, b = codes(500, 25, 4), codes(500, 30, 5)
    rng = np.random.default_rng(0)
    rows, columns = rng.integers(0, 25, 40), rng.integers(0, 30, 40)
    rows[1:4] = rows[0]
    pairs = ChosenPairs(rows, columns, (25, 30))
    for low in range(0, 500, 60):
        part = slice(low, low + 60)
        pairs.add(as_codes(a[part], "A"), as_codes(b[part], "B"))
    for measure in ("correlation", "jaccard"):
        want = plain(measure, a, b)[rows, columns]
        np.testing.assert_allclose(pairs.values(measure), want, atol=1e-12)


def test_entries_are_dense_codes() -> None:
    a, b = codes(200, 12, 6), codes(200, 15, 7)

    def entries(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        latents = np.sort(np.argsort(-x, axis=1)[:, :k], axis=1)
        return np.take_along_axis(x, latents, axis=1).astype(np.float32), latents

    one, other = ChosenPairs(*[np.arange(12)] * 2, (12, 15)), Cofiring(12, 15)
    one.add_entries(*entries(a, 12), *entries(b, 14))
    other.add(from_entries(*entries(a, 12), 12, "A"), from_entries(*entries(b, 14), 15, "B"))
    want = plain("correlation", a, b)
    np.testing.assert_allclose(
        one.values("correlation"), want[np.arange(12), np.arange(12)], atol=1e-5
    )
    check = other.edges("correlation")
    np.testing.assert_allclose(check.value, want[check.row, check.column], atol=1e-5)


def test_no_tokens_and_no_firing_are_defined() -> None:
    sums, pairs = Cofiring(3, 4), ChosenPairs(np.arange(3), np.arange(3), (3, 4))
    for tokens in (0, 5):
        sums.add(as_codes(np.zeros((tokens, 3)), "A"), as_codes(np.zeros((tokens, 4)), "B"))
        pairs.add(as_codes(np.zeros((tokens, 3)), "A"), as_codes(np.zeros((tokens, 4)), "B"))
        for measure in ("correlation", "jaccard"):
            assert len(sums.edges(measure).row) == 0
            assert (pairs.values(measure) == 0).all()
    assert ChosenPairs(np.zeros(0, int), np.zeros(0, int), (3, 4)).values("jaccard").shape == (0,)


def test_a_latent_with_itself_is_one_at_any_scale() -> None:
    a = codes(100, 20, 8)[:, 3:]
    for scale in (1e-90, 1.0, 1e90):
        edges = edges_above(as_codes(a, "A"), as_codes(a * scale, "B"), "correlation", 0.0)
        own = edges.row == edges.column
        assert own.sum() == (a > 0).any(axis=0).sum()
        np.testing.assert_allclose(edges.value[own], 1.0)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (np.array([[0.0, -1.0]]), "1 codes are negative"),
        (np.array([[0.0, np.nan]]), "latent 1 at token 0"),
        (np.array([[0.0, np.inf]]), "infinite"),
        (csr_array(np.array([[0.0, -1.0]])), "negative"),
        (np.ones(3), r"codes \[tokens, latents\]"),
        (np.array([["a"]]), r"codes \[tokens, latents\]"),
        (np.ones((3, 0)), "no latents"),
    ],
)
def test_bad_codes_are_refused(bad, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        as_codes(bad, "A")


@pytest.mark.parametrize(
    ("values", "latents", "says"),
    [
        ([[1.0, 2.0]], [[0, 5]], "latent 5 fires, but there are 4"),
        ([[1.0, 2.0]], [[0, -1]], "latent -1 fires"),
        ([[1.0, 2.0]], [[1, 1]], "two entries in one row"),
        ([[1.0, 2.0]], [[1]], "as many latent numbers"),
    ],
)
def test_bad_entries_are_refused(values, latents, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        from_entries(np.array(values), np.array(latents), 4, "A")


def test_padding_may_name_any_latent() -> None:
    found = from_entries(np.array([[2.0, 0, 0]]), np.array([[1, 1, 99]]), 4, "A")
    np.testing.assert_array_equal(found.toarray(), [[0, 2.0, 0, 0]])


def test_what_does_not_belong_together_is_refused() -> None:
    sums = Cofiring(3, 4)
    with pytest.raises(SpecError, match="5 tokens and B of 6"):
        sums.add(as_codes(np.ones((5, 3)), "A"), as_codes(np.ones((6, 4)), "B"))
    with pytest.raises(SpecError, match="2 and 4 latents where 3 and 4"):
        sums.add(as_codes(np.ones((5, 2)), "A"), as_codes(np.ones((5, 4)), "B"))
    with pytest.raises(SpecError, match="outside 0..3"):
        ChosenPairs(np.array([0]), np.array([4]), (3, 4))
    with pytest.raises(SpecError, match="no measure 'cosinus'"):
        sums.edges("cosinus")


def test_too_many_pairs_are_counted_in_the_message(monkeypatch) -> None:
    monkeypatch.setattr(cofiring, "MOST_PAIRS", 10)
    A, B = as_codes(np.ones((2, 3)), "A"), as_codes(np.ones((2, 4)), "B")
    with pytest.raises(SpecError, match="12 pairs of latents fire together within 2 tokens"):
        Cofiring(3, 4).add(A, B)
    with pytest.raises(SpecError, match="more than 10 pairs have a jaccard above 0.5"):
        edges_above(A, B, "jaccard", 0.5)
