"""Which families are taken, and what the mean of their members is."""

import numpy as np
import polars as pl
import pytest

from reseed.consensus_sae.average import Rule, about_members, average, choose, reproducibility
from reseed.errors import SpecError
from reseed.records import SAEArrays

FAMILIES = pl.DataFrame(
    {
        "family": [0, 0, 0, 1, 1, 2, 2],
        "run": ["a", "b", "c", "a", "c", "a", "b"],
        "latent": [0, 1, 2, 1, 0, 2, 2],
    }
)


def latents(dead: tuple[tuple[str, int], ...] = ()) -> pl.DataFrame:
    rows = [(run, latent, (run, latent) not in dead) for run in "abc" for latent in range(3)]
    return pl.DataFrame(rows, schema=["run", "latent", "alive"], orient="row")


def found(table: pl.DataFrame) -> list[set[tuple[str, int]]]:
    return [
        set(part.select("run", "member").iter_rows())
        for part in table.partition_by(table.columns[0], maintain_order=True)
    ]


def test_families_and_orphans_by_hand() -> None:
    every = reproducibility(FAMILIES, latents())
    assert found(every) == [
        {("a", 0), ("b", 1), ("c", 2)}, {("a", 1), ("c", 0)}, {("a", 2), ("b", 2)},
        {("b", 0)}, {("c", 1)},
    ]  # fmt: skip
    assert every["reproducibility"].unique().sort().to_list() == [1 / 3, 2 / 3, 1.0]
    assert every.filter(pl.col("family").is_null())["size"].to_list() == [1, 1]


def test_dead_members_do_not_count() -> None:
    every = reproducibility(FAMILIES, latents(dead=(("c", 0), ("a", 2), ("b", 2), ("b", 0))))
    assert found(every) == [{("a", 0), ("b", 1), ("c", 2)}, {("a", 1)}, {("c", 1)}]


def test_a_posterior_takes_the_place_of_the_share() -> None:
    with_posterior = latents().with_columns(recurrence_mean=pl.int_range(pl.len()) / 10)
    every = reproducibility(FAMILIES, with_posterior)
    assert found(every)[0] == {("c", 1)}
    assert every["reproducibility"][0] == pytest.approx(0.7)
    first = every.filter(family=0)["reproducibility"]
    assert first.to_list() == pytest.approx([(0.0 + 0.4 + 0.8) / 3] * 3)


@pytest.mark.parametrize(
    ("rule", "families"),
    [
        (Rule(found_in=3), 1),
        (Rule(found_in=2), 3),
        (Rule(), 3),
        (Rule(least=2 / 3), 3),
        (Rule(least=0.67), 1),
        (Rule(found_in=1), 5),
    ],
)
def test_rules(rule, families) -> None:
    every = reproducibility(FAMILIES, latents())
    if families < 2:
        with pytest.raises(SpecError, match="1 families are left.*1 in exactly 3, 2 in exactly 2"):
            choose(every, rule, runs=3, k=1)
        return
    kept = choose(every, rule, runs=3, k=1)
    assert kept["latent"].unique().sort().to_list() == list(range(families))


def test_rules_that_cannot_be() -> None:
    every = reproducibility(FAMILIES, latents())
    with pytest.raises(SpecError, match="either"):
        Rule(least=0.5, found_in=2)
    for wrong in ({"least": 0.0}, {"least": 1.1}, {"found_in": 0}, {"least": float("nan")}):
        with pytest.raises(SpecError):
            Rule(**wrong)
    with pytest.raises(SpecError, match="3 runs"):
        choose(every, Rule(found_in=4), runs=3, k=1)
    with pytest.raises(SpecError, match="k = 4"):
        choose(every, Rule(), runs=3, k=4)
    with pytest.raises(SpecError, match="one run only"):
        choose(every, Rule(), runs=1, k=1)
    dead = reproducibility(FAMILIES, latents().with_columns(alive=False))
    with pytest.raises(SpecError, match="0 families.*none"):
        choose(dead, Rule(), runs=3, k=1)


def sae(seed: int, latents: int = 3, dimensions: int = 5, **changes) -> SAEArrays:
    draw = np.random.default_rng(seed)
    arrays = {
        "W_enc": draw.normal(size=(latents, dimensions)).astype(np.float32),
        "b_enc": draw.normal(size=latents).astype(np.float32),
        "W_dec": draw.normal(size=(latents, dimensions)).astype(np.float32),
        "b_dec": draw.normal(size=dimensions).astype(np.float32),
        "activation": {"kind": "topk", "k": 2},
        "about": {},
    }
    return SAEArrays(**(arrays | changes))


def pre_activations(one: SAEArrays, x: np.ndarray) -> np.ndarray:
    return (x - one.b_dec if one.centred else x) @ one.W_enc.T + one.b_enc


@pytest.mark.parametrize("centred", [True, False])
def test_pre_activations_are_the_mean_of_the_members(centred) -> None:
    saes = {run: sae(i, centred=centred) for i, run in enumerate("abc")}
    members = choose(reproducibility(FAMILIES, latents()), Rule(), runs=3, k=1)
    mean = average(saes, members, 2, {"x": 1})
    x = np.random.default_rng(9).normal(size=(7, 5)).astype(np.float32)
    ours = pre_activations(mean, x)
    for latent, part in enumerate(members.partition_by("latent", maintain_order=True)):
        each = list(part.select("run", "member").iter_rows())
        lengths = [np.linalg.norm(saes[run].W_dec[row]) for run, row in each]
        theirs = [
            pre_activations(saes[run], x)[:, row] * length
            for (run, row), length in zip(each, lengths, strict=True)
        ]
        np.testing.assert_allclose(ours[:, latent], np.mean(theirs, axis=0), atol=1e-4)
        units = [
            saes[run].W_dec[row] / length for (run, row), length in zip(each, lengths, strict=True)
        ]
        direction = np.mean(units, axis=0)
        np.testing.assert_allclose(
            mean.W_dec[latent], direction / np.linalg.norm(direction), atol=1e-5
        )
    assert (mean.activation, mean.about) == ({"kind": "topk", "k": 2}, {"x": 1})


def test_copies_of_one_sae_average_to_it_whatever_their_order() -> None:
    """Equivariance: permuted copies are one dictionary, and scales of decoder rows cancel."""
    one = sae(0, latents=6)
    orders = {run: np.random.default_rng(i).permutation(6) for i, run in enumerate("abc")}
    scales = {run: np.random.default_rng(i).uniform(0.5, 2, (6, 1)) for i, run in enumerate("abc")}
    saes = {
        run: sae(
            0,
            W_enc=(one.W_enc / scales[run])[order].astype(np.float32),
            b_enc=(one.b_enc / scales[run][:, 0])[order].astype(np.float32),
            W_dec=(one.W_dec * scales[run])[order].astype(np.float32),
            b_dec=one.b_dec,
        )
        for run, order in orders.items()
    }
    families = pl.concat(
        [
            pl.DataFrame({"family": order, "run": [run] * 6, "latent": np.arange(6)})
            for run, order in orders.items()
        ]
    )
    table = families.select("run", "latent", pl.lit(True).alias("alive"))
    members = choose(reproducibility(families, table), Rule(least=1.0), runs=3, k=2)
    mean = average(saes, members, 2, {})
    family = members.unique("latent").sort("latent")["family"].to_numpy()
    length = np.linalg.norm(one.W_dec, axis=1)
    np.testing.assert_allclose(mean.W_dec, (one.W_dec / length[:, None])[family], atol=1e-5)
    np.testing.assert_allclose(mean.W_enc, (one.W_enc * length[:, None])[family], atol=1e-5)
    np.testing.assert_allclose(mean.b_enc, (one.b_enc * length)[family], atol=1e-4)


def test_saes_that_have_no_mean_are_refused() -> None:
    members = choose(reproducibility(FAMILIES, latents()), Rule(), runs=3, k=1)
    whole = {run: sae(i) for i, run in enumerate("abc")}
    with pytest.raises(SpecError, match="b skips"):
        average(whole | {"b": sae(1, normalised=True)}, members, 2, {})
    rows = sae(2).W_dec.copy()
    rows[0] = 0
    with pytest.raises(SpecError, match=r"c: decoder rows \[0\] are zero"):
        average(whole | {"c": sae(2, W_dec=rows)}, members, 2, {})


def test_members_in_few_words() -> None:
    members = choose(reproducibility(FAMILIES, latents()), Rule(found_in=1), runs=3, k=1)
    told = about_members(members, ["a", "b", "c"])
    assert told["family"] == [0, 1, 2, None, None]
    assert told["members"] == {
        "a": [0, 1, 2, None, None],
        "b": [1, None, 2, 0, None],
        "c": [2, 0, None, None, 1],
    }


def test_what_one_start_alone_brings_back_is_found_once() -> None:
    """Three runs of one init are one occasion; --found-in counts occasions."""
    runs = {f"i{i}d{d}": (i, d) for i in range(3) for d in range(3)}
    rows = [
        {"run": run, "latent": latent, "alive": True, "init_seed": i, "data_seed": d,
         "family": [0, 1 + i, 4 + d, 7 if i == d else None][latent], "recurrence_mean": 0.5}
        for run, (i, d) in runs.items()
        for latent in range(4)
    ]  # fmt: skip
    latents = pl.DataFrame(rows)
    every = reproducibility(latents.drop_nulls("family"), latents.drop("family"))
    counted = dict(every.drop_nulls("family").select("family", "occasions").unique().iter_rows())
    assert counted == {0: 3, 1: 1, 2: 1, 3: 1, 4: 1, 5: 1, 6: 1, 7: 3}
    chosen = choose(every, Rule(found_in=2), runs=9, k=1)
    assert set(chosen["family"]) == {0, 7}
    # without crossing, each run counts
    init = latents.filter(data_seed=0).drop("family")
    of_init = latents.filter(pl.col("data_seed") == 0, pl.col("family") == 0)
    assert reproducibility(of_init, init).filter(family=0)["occasions"].unique().to_list() == [3]
