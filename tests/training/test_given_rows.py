"""What `reseed.train` takes as rows, what it refuses before any work, and what it warns of."""

import numpy as np
import polars as pl
import pytest
import torch

import reseed
from reseed.errors import SpecError, SubjectError
from reseed.records import SAEArrays
from reseed.sae.architectures import ARCHITECTURES
from reseed.sae.codes import batch_top
from reseed.sae.model import from_arrays

X = np.random.default_rng(0).standard_normal((200, 8)).astype(np.float32)
SHORT = {"latents": 16, "init_seeds": [0], "batch": 64}


def train(x, *architecture, **settings):
    return reseed.train(x, *architecture, **{**SHORT, **settings})


class Frame:
    """What has rows and says how to get at them."""

    def to_numpy(self):
        return X.astype(np.float64)


GIVEN = {
    "list": X.tolist(),
    "polars": pl.DataFrame(X),
    "frame": Frame(),
    "float64": X.astype(np.float64),
    "not contiguous": np.asfortranarray(X),
    "tensor": torch.tensor(X),
    "needs gradients": torch.tensor(X).requires_grad_(),
}


@pytest.mark.parametrize("kind", GIVEN)
def test_equal_rows_of_any_kind_give_equal_saes(kind) -> None:
    sae, right = train(GIVEN[kind], k=2)[0], train(X, k=2)[0]
    assert torch.equal(sae.W_dec, right.W_dec)


def test_integers_and_halves_are_read() -> None:
    whole = np.round(X * 9)
    right = train(whole, k=2)[0].W_dec
    for given in (whole.astype(np.int64), whole.astype(np.int8), torch.tensor(whole).short()):
        assert torch.equal(train(given, k=2)[0].W_dec, right)
    for given in (whole.astype(np.float16), torch.tensor(whole).bfloat16()):
        assert torch.equal(train(given, k=2)[0].W_dec, right)


WRONG = {
    "ragged": [[1.0, 2.0], [3.0]],
    "words": [["a", "b"]] * 100,
    "objects": np.array([[None, 1.0]] * 100, dtype=object),
    "complex": X + 1j,
    "complex tensor": torch.tensor(X) + 1j,
    "sparse": torch.tensor(X).to_sparse(),
    "one row": X[0],
    "three axes": X[None],
    "none": np.zeros((0, 8), np.float32),
    "a number": 3.0,
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_matrix_of_numbers_is_refused(kind) -> None:
    with pytest.raises(SubjectError, match="x"):
        train(WRONG[kind], k=2)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_named_before_any_work(bad) -> None:
    for given in (X.copy(), torch.tensor(X)):
        given[157, 5] = bad
        with pytest.raises(SubjectError, match="x: row 157, column 5 is"):
            train(given, k=2, tokens=64)
    far = X.astype(np.float64)
    far[3, 1] = 1e39
    with pytest.raises(SubjectError, match="row 3, column 1 is inf as float32"):
        train(far, k=2)


def test_a_target_is_looked_at_too() -> None:
    target = X.copy()
    target[4, 2] = np.nan
    with pytest.raises(SubjectError, match="target: row 4, column 2 is nan"):
        train(X, "transcoder", k=2, target=target)


RULES = {
    "topk": {"k": 2}, "groupmax": {"k": 2}, "relu": {}, "jumprelu": {}, "batchtopk": {"k": 2},
    "one_hot": {}, "matching_pursuit": {"k": 2},
}  # fmt: skip


@pytest.mark.parametrize("kind", RULES)
@pytest.mark.parametrize("quick", [True, False])
def test_no_rule_makes_finite_codes_of_rows_that_are_not(kind, quick, monkeypatch) -> None:
    """By the loops and by their plain twins."""
    if not quick:
        monkeypatch.setattr("reseed.sae.codes.compiles", lambda: False)
    draw = np.random.default_rng(1)
    rows = draw.standard_normal((2, 16, 8)).astype(np.float32)
    sae = from_arrays(
        SAEArrays(
            W_enc=rows[0], W_dec=rows[1], b_enc=np.zeros(16, np.float32),
            b_dec=np.zeros(8, np.float32), activation={"kind": kind, **RULES[kind]},
            threshold=np.full(16, 0.1, np.float32) if kind == "jumprelu" else None, about={},
        )
    )  # fmt: skip
    for bad in (np.nan, np.inf):
        x = X[:5].copy()
        x[3, 6] = bad
        for read in (sae.encode, sae.encode_sparse, sae.reconstruct, sae.pre_activations):
            with pytest.raises(SubjectError, match="row 3, column 6"):
                read(x)
    assert torch.isfinite(sae.reconstruct(np.full((2, 8), 3e38, np.float32)).sum(1)).ndim == 1


@pytest.mark.filterwarnings("ignore:.*latents fire in a row")
def test_a_mean_of_k_over_rows_need_not_be_whole(monkeypatch) -> None:
    pre = torch.tensor(np.random.default_rng(5).standard_normal((64, 16)))
    assert int((batch_top(pre, 1.5) > 0).sum()) == 96
    assert int((batch_top(pre, 0.001) > 0).sum()) == 1
    by_loops = train(X, "batchtopk", k=1.5)[0]
    monkeypatch.setattr("reseed.training.step.compiles", lambda: False)
    torch.testing.assert_close(train(X, "batchtopk", k=1.5)[0].W_dec, by_loops.W_dec)
    settings = ARCHITECTURES["batchtopk"].settings
    assert settings(latents=8, k=2.0) == settings(latents=8, k=2)
    assert "k1.5" in settings(latents=8, k=1.5).shape
    with pytest.raises(SpecError, match="k"):
        train(X, k=1.5)


def test_seeds_that_are_no_list_are_told_what_to_be() -> None:
    with pytest.raises(SpecError, match=r"init_seeds = 3 is no list.*init_seeds=\[0, 1, 2\]"):
        train(X, k=2, init_seeds=3)
    for wrong in ([], [0, 0], [0.5], ["a"], [True]):
        with pytest.raises(SpecError, match="init_seeds"):
            train(X, k=2, init_seeds=wrong)
    for name in ("seeds", "seed"):
        with pytest.raises(SpecError, match=f"{name}: unknown key; did you mean 'init_seeds'"):
            train(X, k=2, **{name: [0]})
    with pytest.raises(SpecError, match="did you mean 'lr'"):
        train(X, k=2, learning_rate=1e-3)
    assert len(train(X, k=2, init_seeds=range(2))) == 2
    assert train(X, k=2, init_seeds=np.array([4]))[0].about["init_seed"] == 4


def test_what_is_worse_than_the_mean_is_said() -> None:
    with pytest.warns(UserWarning, match="init seed 0: FVU is .*, worse than giving the mean"):
        train(X, "relu", lr=3.0, tokens=640, penalty=0.0)
    with pytest.warns(UserWarning, match=r"latents fire in a row where 1 were asked for"):
        train(X, "relu", lr=1e-9, target_l0=1)


def test_progress_is_shown_where_it_is_asked_for(capsys) -> None:
    train(X, "pca", latents=4, progress=True)
    assert "pca 4 is found from 192 rows" in capsys.readouterr().err
    train(X, "pca", latents=4)
    assert capsys.readouterr().err == ""


def test_nmf_of_many_rows_takes_mini_batches_and_is_about_as_good() -> None:
    rows = np.abs(np.random.default_rng(2).standard_normal((5000, 4)))
    x = (rows @ np.abs(np.random.default_rng(3).standard_normal((4, 8)))).astype(np.float32)
    settings = {"latents": 6, "tokens": 4992, "rounds": 60}
    many, few = (train(x, "nmf", fit_rows=n, **settings)[0] for n in (4992, 4000))

    def left(sae) -> float:
        return float(
            np.square(sae.reconstruct(x).numpy() - x).sum() / np.square(x - x.mean(0)).sum()
        )

    assert left(many) < left(few) + 0.1
