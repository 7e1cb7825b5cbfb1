"""Every view through `reseed.match`, against SciPy on similarities made by hand."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

import reseed
from reseed.errors import SpecError
from reseed.matching.match import Views
from reseed.records import SAEArrays

RNG = np.random.default_rng(0)
D, N, M = 10, 40, 50
X = RNG.normal(size=(500, D)) @ np.diag(np.arange(1, D + 1)) @ RNG.normal(size=(D, D))
COVARIANCE = np.cov(X.T)


def sae(latents: int, seed: int) -> Views:
    rng = np.random.default_rng(seed)
    return Views(rng.normal(size=(latents, D)), rng.normal(size=(latents, D)))


A, B = sae(N, 1), sae(M, 2)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    return a @ b.T


def by_hand(view: str) -> np.ndarray:
    encoder, decoder = cosines(A.encoder, B.encoder), cosines(A.decoder, B.decoder)
    if view == "whitened":
        # correlation of the pre-activations: w . x of two latents over input of this covariance
        inner = A.encoder @ COVARIANCE @ B.encoder.T
        a, b = (np.einsum("fd,de,fe->f", w, COVARIANCE, w) for w in (A.encoder, B.encoder))
        return inner / np.sqrt(np.outer(a, b))
    both = {"mean": (encoder + decoder) / 2, "minimum": np.minimum(encoder, decoder)}
    return {"encoder": encoder, "decoder": decoder, **both}[view]


@pytest.mark.parametrize("view", ["decoder", "encoder", "mean", "minimum", "whitened"])
@pytest.mark.parametrize("reject", [None, 0.3])
def test_every_view(view: str, reject: float | None) -> None:
    S = by_hand(view)
    worth = S if reject is None else np.maximum(S - reject, 0)
    best = worth[linear_sum_assignment(worth, maximize=True)].sum()
    more = {"covariance": COVARIANCE} if view == "whitened" else {}
    found = reseed.match(A, B, view=view, reject=reject, **more)
    assert found.optimal
    assert found.primal == pytest.approx(best, rel=1e-9)
    np.testing.assert_allclose(found.similarity, S[tuple(found.pairs.T)], atol=1e-9)


def test_whitened_is_the_correlation_of_pre_activations() -> None:
    W = np.concatenate([A.encoder, B.encoder])
    measured = np.corrcoef((X @ W.T).T)[:N, N:]
    np.testing.assert_allclose(by_hand("whitened"), measured, atol=1e-9)


def test_plain_rows_are_whitened_too() -> None:
    found = reseed.match(A.encoder, B, view="whitened", covariance=COVARIANCE)
    assert np.array_equal(
        found.pairs, reseed.match(A, B, view="whitened", covariance=COVARIANCE).pairs
    )


def test_everything_with_weights_is_an_sae() -> None:
    def arrays(views: Views) -> SAEArrays:
        zero = np.zeros(len(views.encoder), np.float32)
        W_enc, W_dec = (rows.astype(np.float32) for rows in views)
        rule = {"kind": "relu"}
        return SAEArrays(
            W_enc=W_enc, W_dec=W_dec, b_enc=zero, b_dec=zero[:D], activation=rule, about={}
        )

    found = reseed.match(arrays(A), arrays(B), view="minimum")
    np.testing.assert_array_equal(found.pairs, reseed.match(A, B, view="minimum").pairs)


def test_torch_makes_the_same_products() -> None:
    pytest.importorskip("torch")
    for view in ("mean", "minimum"):
        # any name but "cpu" goes through torch; "cpu:0" is the one that every machine has
        found = reseed.match(A, B, view=view, reject=0.1, device="cpu:0")
        np.testing.assert_array_equal(found.pairs, reseed.match(A, B, view=view, reject=0.1).pairs)


@pytest.mark.parametrize(
    ("a", "more", "says"),
    [
        (A, {"view": "decodr"}, "did you mean 'decoder'"),
        (A, {"view": "whitened"}, "covariance is not given"),
        (A, {"covariance": COVARIANCE}, "view is 'decoder', covariance is given"),
        (A.decoder, {"view": "mean"}, "A is a ndarray, not an SAE"),
        (Views(A.encoder, A.decoder[:-1]), {"view": "mean"}, "different numbers of latents"),
        (Views(A.encoder.T, A.decoder), {}, "keep W_enc transposed"),
        (Views(A.encoder, A.decoder * np.nan), {}, "A's decoder: 40 of 40 rows have NaN"),
        (A, {"view": "whitened", "covariance": np.eye(3)}, "symmetric matrix over the 10"),
    ],
)
def test_nonsense_is_refused(a, more, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        reseed.match(a, B, **more)


def codes_of(latents: int, seed: int, tokens: int = 300) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.exponential(size=(tokens, latents)) * (rng.random((tokens, latents)) < 0.2)


def fields(codes: np.ndarray, decoder: np.ndarray) -> np.ndarray:
    """[F, tokens D] what each latent adds to the reconstructions, written out."""
    return np.einsum("tf,fd->ftd", codes, decoder).reshape(len(decoder), -1)


@pytest.mark.parametrize("reject", [None, 0.05])
@pytest.mark.parametrize("kind", ["arrays", "chunks"])
def test_contributions_are_those_of_the_fields_written_out(kind, reject) -> None:
    pytest.importorskip("numba")
    a, b = codes_of(N, 3), codes_of(M, 4)
    S = cosines(fields(a, A.decoder), fields(b, B.decoder))
    worth = np.maximum(S - (reject or 0.0), 0)
    best = worth[linear_sum_assignment(worth, maximize=True)].sum()
    given_ = (a, b) if kind == "arrays" else ([a[:100], a[100:]], [b[:100], b[100:]])
    found = reseed.match(A, B, view="contribution", codes=given_, reject=reject)
    assert found.optimal
    assert found.primal == pytest.approx(best, rel=1e-9)
    np.testing.assert_allclose(found.similarity, S[tuple(found.pairs.T)], atol=1e-12)
    assert found.similarity.min() > (reject or 0.0)


def test_contributions_have_no_scale_and_a_sign() -> None:
    pytest.importorskip("numba")
    a = codes_of(N, 5)
    scaled = A.decoder * np.linspace(0.1, 30, N)[:, None]
    order = np.random.default_rng(0).permutation(N)
    found = reseed.match(A.decoder, scaled[order], view="contribution", codes=(a, 7 * a[:, order]))
    np.testing.assert_array_equal(order[found.pairs[:, 1]], found.pairs[:, 0])
    np.testing.assert_allclose(found.similarity, 1.0)
    opposite = Views(A.encoder[:1], -A.decoder[:1])
    both = (a[:, :1], a[:, :1])
    assert not len(reseed.match(A.decoder[:1], opposite, view="contribution", codes=both).pairs)


def test_the_contribution_view_needs_codes_and_only_it() -> None:
    a, b = codes_of(N, 3), codes_of(M, 4)
    with pytest.raises(SpecError, match="give both it and"):
        reseed.match(A, B, view="contribution")
    with pytest.raises(SpecError, match="give both it and"):
        reseed.match(A, B, codes=(a, b))
    with pytest.raises(SpecError, match="the codes of these SAEs"):
        reseed.match(A, B, view="contribution", codes=(b, a))
    with pytest.raises(SpecError, match="no geometry"):
        reseed.reject_threshold(A, B, view="contribution")
