"""What survives, against sums by hand and against subjects whose loss is known."""

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from scipy.sparse import csr_array

from reseed.errors import SubjectError
from reseed.events import Events
from reseed.evidence.rows import Reader
from reseed.records import SAEArrays
from reseed.sae.architectures.crosscoder import CrosscoderSpec
from reseed.sae.model import from_arrays
from reseed.seeds import generator
from reseed.spec.subject import ToySpec
from reseed.stability.intervals import auroc
from reseed.subjects.source import DerivedSource
from reseed.subjects.toy import ToySource
from reseed.survival import second
from reseed.survival.agreement import Agreement, placed
from reseed.survival.summary import _fit
from reseed.survival.surviving import SURVIVES, OverRuns, curves, group_numbers, with_strata
from reseed.survival.transfer import Frozen, check_alike, transfer

DESIGN = {f"run{n}": (n, 0) for n in range(4)}


def sparse(rows, latents, seed):
    numbers = np.random.default_rng(seed)
    return csr_array(numbers.random((rows, latents)) * (numbers.random((rows, latents)) < 0.3))


def test_correlations_are_those_of_all_tokens_and_equal_codes_give_one():
    counts = np.full(8, 20)
    A, noise = sparse(160, 6, 0), sparse(160, 6, 1)
    B = csr_array(A + noise)
    A = csr_array(A.toarray() * (np.arange(6) != 4))  # one is silent in the whole
    both, same = Agreement(6, 8), Agreement(6, 8)
    for first in (0, 4):
        where = placed(np.arange(first, first + 4), counts[:4], first, 8)
        rows = slice(20 * first, 20 * first + 80)
        both.add(A[rows], B[rows], where)
        same.add(A[rows], A[rows], where)
    table = both.table()
    expected = [
        np.corrcoef(a, b)[0, 1] if a.any() else 0.0
        for a, b in zip(A.toarray().T, B.toarray().T, strict=True)
    ]
    np.testing.assert_allclose(table["r"], expected, atol=1e-12)
    assert table["rate_ratio"][4] is None
    assert table["r_lo"][0] < table["r"][0] < table["r_hi"][0]
    assert abs(table["r_shuffled"][0]) < 0.3 < table["r"][0]
    equal = same.table().filter(pl.col("fired") > 0)
    for column in ("r", "r_lo", "r_hi", "rate_ratio"):
        assert equal[column].to_list() == [1.0] * 5


def test_the_null_shuffles_tokens_inside_their_blocks():
    where = placed(np.array([3, 9]), np.array([5, 7]), 0, 2)
    assert sorted(where.shuffled[:5]) == list(range(5))
    assert sorted(where.shuffled[5:]) == list(range(5, 12))
    assert where.bundle.tolist() == [0] * 5 + [1] * 7


# -- a subject in which half of the features were cut ----------------------------------------------

TOY = ToySpec(kind="toy", features=40, dimensions=64, active=3.0, block=128, noise=0.01)


@pytest.fixture(scope="module")
def cut():
    """Four SAEs that are the toy's features, read from the toy without half of these."""
    source = ToySource(TOY, 24)
    toy, gone = source.toy, np.arange(TOY.features) % 2 == 1

    def without(rows, blocks):
        lost = [toy.coefficients(block)[:, gone] @ toy.features[gone] for block in blocks]
        return {"toy": rows["toy"] - torch.from_numpy(np.concatenate(lost))}

    saes = {}
    for number, run in enumerate(DESIGN):
        noise = generator("test-survival", number).standard_normal(toy.features.shape)
        rows = (toy.features + 0.02 * noise).astype(np.float32)
        zeros = np.zeros(len(rows), np.float32), np.zeros(rows.shape[1], np.float32)
        arrays = SAEArrays(
            W_enc=rows, b_enc=zeros[0] - 0.4, W_dec=rows, b_dec=zeros[1],
            activation={"kind": "relu"}, about={},
        )  # fmt: skip
        saes[run] = Frozen(Reader(from_arrays(arrays), "toy"), "toy")
    other = DerivedSource(source, without)
    passed = transfer(saes, source, other, np.arange(24), Events(), "cut")
    return passed, gone


def joined(passed, found):
    tables = [
        files["latents.parquet"].with_columns(
            pl.lit(run).alias("run"),
            pl.Series("n_matched", found, dtype=pl.Int64),
            pl.lit(4, dtype=pl.Int64).alias("n_seeds"),
            pl.lit(None, dtype=pl.Float64).alias("r_untrained"),
        )
        for run, files in passed.runs.items()
    ]
    rows = with_strata(pl.concat(tables))
    return rows.with_columns((pl.col("r") >= SURVIVES).alias("survives"))


def test_a_subject_without_half_of_its_features_is_told_right(cut):
    passed, gone = cut
    latents = joined(passed, np.where(gone, 0, 3))
    numbers = group_numbers(latents, OverRuns(DESIGN), "cut")
    low, high = numbers["survival"]["interval_95"]
    assert low <= 0.5 <= high
    assert numbers["survival"]["latents"] == 4 * TOY.features
    assert numbers["kinds"]["reproducible"]["value"] == 1.0
    assert numbers["kinds"]["orphan"]["value"] == 0.0
    assert numbers["auroc"]["value"] == 1.0
    assert numbers["auroc"]["null"]["hi"] < 0.75
    assert numbers["auroc_of_r"]["value"] == 1.0
    assert numbers["null_shuffled"]["value"] == 0.0
    assert numbers["clearly"]["value"] == pytest.approx(0.5)
    for files in passed.runs.values():
        assert files["fit.json"]["whole"]["l0"] > 1.5 * files["fit.json"]["variant"]["l0"]


def test_the_site_itself_stands_beside_it(cut):
    passed, _ = cut
    moments = passed.sites["toy"]
    assert 0.3 < moments.distance() < 0.7
    sites = moments.table(100, "toy")
    counts = dict(sites.group_by("kind").len().iter_rows())
    assert counts == {"dimension": 64, "equal variance": 100, "combination of rows": 100}
    drawn = curves(joined(passed, [3] * 40), sites)
    first = drawn.group_by("of", maintain_order=True).first()
    assert "tokens shuffled" in first["of"].to_list()
    latents = drawn.filter(of="latents").sort("r")["share"].to_numpy()
    assert (np.diff(latents) <= 0).all()
    assert latents[0] > 0.9


def test_versions_that_are_not_alike_are_refused():
    source = ToySource(TOY, 4)
    narrow = ToySource(TOY.model_copy(update={"dimensions": 32}), 4)
    with pytest.raises(SubjectError, match="64 dimensions, the variant has 32"):
        check_alike(source, narrow, ["toy"], "narrow")
    with pytest.raises(SubjectError, match="not the same tokens"):
        check_alike(source, ToySource(TOY, 3), ["toy"], "short")


# -- reproducible latents against orphans that fire as often ---------------------------------------


def population(seed, by_recurrence):
    """Latents that survive by their firing rate, or by how many runs found them."""
    numbers = np.random.default_rng(seed)
    frames = []
    for run in DESIGN:
        rate = numbers.random(600)
        found = np.where(numbers.random(600) < rate, 3, 0)  # what fires more is found more
        decides = found / 3 if by_recurrence else rate
        frames.append(
            pl.DataFrame(
                {
                    "run": run,
                    "latent": np.arange(600),
                    "fired": 1 + (1e4 * rate).astype(np.int64),
                    "rate": rate,
                    "mean_act": numbers.random(600),
                    "n_matched": found,
                    "n_seeds": 4,
                    "survives": numbers.random(600) < 0.2 + 0.6 * decides,
                }
            )
        )
    return with_strata(pl.concat(frames))


@pytest.mark.parametrize("by_recurrence", [True, False])
def test_the_area_is_held_to_latents_that_fire_alike(by_recurrence):
    latents = population(0, by_recurrence)
    asked = "recurrence", pl.col("survives"), generator("test-area")
    found = OverRuns(DESIGN).area(latents, *asked)
    wins = pairs = 0.0
    for _, cell in latents.group_by("run", "stratum"):
        survives = cell["survives"].to_numpy()
        possible = survives.sum() * (~survives).sum()
        if possible:
            wins += possible * auroc(cell["recurrence"].to_numpy(), survives)
            pairs += possible
    assert found["value"] == pytest.approx(wins / pairs)
    assert found["pairs"] == pairs
    low, high = found["interval_95"]
    assert found["null"]["lo"] < 0.5 < found["null"]["hi"]
    if by_recurrence:
        assert low > found["null"]["hi"]
    else:  # rate decides both, so without strata recurrence seems to tell
        assert low < 0.53
        assert high > 0.5
        whole = auroc(latents["recurrence"].to_numpy(), latents["survives"].to_numpy())
        assert whole > found["interval_95"][1]


def test_where_all_survive_there_is_no_area():
    latents = population(1, True).with_columns(pl.lit(True).alias("survives"))
    over = OverRuns(DESIGN)
    found = over.area(latents, "recurrence", pl.col("survives"), generator("test-area"))
    assert found["value"] is None
    assert over.share(latents, pl.col("survives"))["value"] == 1.0
    assert over.share(latents, pl.col("survives"))["interval_95"][1] == 1.0


# -- second opinions and the fit ------------------------------------------------------------------


def crosscoders(codes):
    """What `_exclusive` says of crosscoders by what they fire."""
    spec = CrosscoderSpec(latents=6, parts=(4, 4), k=2)
    W_dec = torch.ones(6, 8)
    runs = [SimpleNamespace(id=name, sae=spec) for name in codes]
    readers = {name: SimpleNamespace(sae=SimpleNamespace(W_dec=W_dec, about={})) for name in codes}
    kept = SimpleNamespace(of=lambda names: iter([{names[0]: csr_array(codes[names[0]])}]))
    return second._exclusive(kept, readers, runs)


def test_a_crosscoder_that_fires_nothing_finds_nothing_again():
    table, told = crosscoders({"x": np.ones((5, 6)), "y": np.zeros((5, 6))})
    assert told == {"seeds": 2, "where": {"both": {"latents": 6, "recurrence": 0.0}}}
    assert set(table["run"]) == {"x"}


def test_of_one_crosscoder_it_is_not_known_what_another_finds():
    table, told = crosscoders({"x": np.ones((5, 6))})
    assert table["recurrence"].null_count() == 6
    assert told["where"]["both"] == {"latents": 6, "recurrence": None}


def test_an_sae_that_a_variant_silences_counts_in_the_mean():
    fits = {
        run: {
            side: {"fvu": 0.5, "fvu_robust": None, "l0": l0}
            for side, l0 in (("whole", 8.0), ("variant", on_variant))
        } | {"site": "x", "distance": 1.0, "rows": 10, "bundles": 2}
        for run, on_variant in zip(DESIGN, (0.0, 0.0, 6.0, 6.0), strict=True)
    }  # fmt: skip
    assert _fit(fits, OverRuns(DESIGN))["l0"]["variant"]["value"] == 3.0
