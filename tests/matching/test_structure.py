"""Planted splits, merges, absorptions and subspaces come out as what they are, and nothing else."""

import numpy as np
import polars as pl
import pytest

from reseed.errors import SpecError
from reseed.matching.beyond.labels import LABELS, Settings, earning
from reseed.matching.beyond.structure import Side, structure

D = 128


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def random(n: int, seed: int, d: int = D) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(n, d)))


def side(rows, shared=None) -> Side:
    none = np.full(len(rows), -1)
    return Side(rows, none if shared is None else np.asarray(shared))


def nulls(n: int, m: int, draws: int = 1, d: int = D):
    return [(random(n, 900 + 2 * i, d), random(m, 901 + 2 * i, d)) for i in range(draws)]


def row(found, name: str, latent: int) -> dict:
    return found.table.filter(side=name, latent=latent).row(0, named=True)


def mixed(parts, weights) -> np.ndarray:
    return unit(np.asarray(weights) @ parts)


def planted():
    """40 shared latents, and one of each kind beside noise that is its own on each side."""
    x = np.linalg.qr(np.random.default_rng(0).normal(size=(D, D)))[0]
    shared = x[:40]
    parent, child = x[40], shared[0]
    a = [*shared, mixed(x[41:43], [1, 1]), mixed(x[43:46], [1, 1, 1]), x[46], x[47], parent]
    a += [mixed(np.stack([shared[1], x[48]]), [0.9, 0.3]), x[49], mixed(shared[2:4], [1, 1])]
    b = [mixed(np.stack([child, parent]), [1, 0.7]), *shared[1:], *x[41:46]]
    b += [mixed(x[46:48], [1, 1]), x[50]]
    rng = np.random.default_rng(1)
    a, b = (unit(np.stack(r) + 0.1 * rng.normal(size=(len(r), D)) / np.sqrt(D)) for r in (a, b))
    pairs = np.concatenate([np.arange(40), np.full(max(len(a), len(b)), -1)])
    return side(a, pairs[: len(a)]), side(b, pairs[: len(b)])


def test_planted_kinds() -> None:
    a, b = planted()
    found = structure(a, b, nulls(len(a.decoder), len(b.decoder), 3))
    kinds = {latent: row(found, "a", latent) for latent in range(40, 48)}
    labels = ["split", "split", "merged", "merged", "absorbed", "merged", "novel", "composed"]
    assert [kinds[i]["label"] for i in range(40, 48)] == labels
    assert {kinds[40][f"partner_{i}"] for i in (1, 2)} == {40, 41}
    assert kinds[40]["partner_3"] is None
    assert {kinds[41][f"partner_{i}"] for i in (1, 2, 3)} == {42, 43, 44}
    assert kinds[41]["cos"] > 0.98
    assert kinds[41]["nearest_cos"] == pytest.approx(1 / np.sqrt(3), abs=0.05)
    assert kinds[41]["residual"] == pytest.approx(np.sqrt(1 - kinds[41]["cos"] ** 2))
    assert kinds[42]["into"] == kinds[43]["into"] == 45
    assert kinds[44]["into"] == 0
    assert kinds[45]["into"] == 1
    assert kinds[46]["explained_3"] < 0.6
    assert kinds[46]["into"] is None
    # seen from B the split is a merge, the merge a split, and noise stays noise
    assert [row(found, "b", i)["label"] for i in range(40, 47)] == (
        ["merged"] * 5 + ["split", "novel"]
    )
    assert row(found, "b", 40)["into"] == row(found, "b", 41)["into"] == 40
    assert found.about["a"]["left_over"] == 8
    assert found.about["b"]["labels"]["merged"] == 5


def test_swapping_the_sides_swaps_the_table() -> None:
    a, b = planted()
    both = nulls(len(a.decoder), len(b.decoder), 2)
    forth = structure(a, b, both).table
    back = structure(b, a, [(y, x) for x, y in both]).table
    for name, other in (("a", "b"), ("b", "a")):
        one = forth.filter(side=name).drop("side")
        two = back.filter(side=other).drop("side")
        assert one.select("label", "into", "partners").equals(
            two.select("label", "into", "partners")
        )
        np.testing.assert_allclose(one["cos"], two["cos"], atol=1e-9)


def test_lengths_of_rows_and_the_order_of_latents_do_not_matter() -> None:
    a, b = planted()
    found = structure(a, b, []).table
    rng = np.random.default_rng(5)
    order_a, order_b = rng.permutation(len(a.decoder)), rng.permutation(len(b.decoder))
    to_b = np.append(np.argsort(order_b), -1)
    to_a = np.append(np.argsort(order_a), -1)
    moved = structure(
        Side(a.decoder[order_a] * rng.uniform(0.1, 9, (len(order_a), 1)), to_b[a.shared[order_a]]),
        Side(b.decoder[order_b] * rng.uniform(0.1, 9, (len(order_b), 1)), to_a[b.shared[order_b]]),
        [],
    ).table
    for name, order in (("a", order_a), ("b", order_b)):
        one = found.filter(side=name).sort("latent")
        two = moved.filter(side=name)
        two = two.with_columns(latent=pl.Series(order[two["latent"].to_numpy()])).sort("latent")
        assert one["label"].to_list() == two["label"].to_list()
        np.testing.assert_allclose(one["explained_3"], two["explained_3"], atol=1e-6)


def test_decoder_only_is_a_pair_that_the_encoders_do_not_confirm() -> None:
    rows = random(20, 3)
    found = structure(side(rows), side(rows), [])
    assert set(found.table["label"]) == {"decoder_only"}
    assert (found.table["nearest"] == found.table["latent"]).all()
    np.testing.assert_allclose(found.table["nearest_cos"], 1.0)


def test_a_duplicate_of_a_shared_latent_is_merged() -> None:
    b = random(20, 3)
    a = np.concatenate([b, b[:1]])
    pairs = np.arange(20)
    found = structure(side(a, [*pairs, -1]), side(b, pairs), [])
    one = found.table.row(0, named=True)
    assert found.table.height == 1
    assert (one["label"], one["into"]) == ("merged", 0)


def test_unrelated_dictionaries_are_novel_and_their_fits_are_what_chance_gives() -> None:
    a, b = random(300, 1), random(200, 2)
    found = structure(side(a), side(b), nulls(300, 200, 5))
    assert set(found.table["label"]) == {"novel"}
    for name in "ab":
        about = found.about[name]
        assert about["by_chance"] == {"fit": 0.0, "nearest": 0.0, "gain": 0.0}
        assert about["subspaces"]["stable"] <= 0.03 * about["subspaces"]["tested"]


def test_where_random_rows_reach_tau_the_bar_is_what_they_reach() -> None:
    """In 6 dimensions three random latents explain nearly anything; nobody is split for that."""
    a, b = random(60, 1, 6), random(60, 2, 6)
    found = structure(side(a), side(b), nulls(60, 60, 2, 6))
    assert found.about["a"]["by_chance"]["fit"] > 0.9
    assert found.about["a"]["bars"]["fit"] > 0.98
    assert (found.table["label"] == "novel").mean() > 0.85
    bare = structure(side(a), side(b), []).table
    assert (bare["label"] == "novel").mean() < 0.5


def subspace_pair(seed: int, planted: int, noise: int):
    """Latents at random in one 3-dimensional space, other directions in A than in B, and noise."""
    rng = np.random.default_rng(seed)
    space = np.linalg.qr(rng.normal(size=(D, 3)))[0]
    out = []
    for _ in range(2):
        inside = unit(rng.normal(size=(planted, 3))) @ space.T
        inside += 0.05 * rng.normal(size=inside.shape) / np.sqrt(D)
        out.append(unit(np.concatenate([inside, rng.normal(size=(noise, D))])))
    return out


def test_a_planted_subspace_is_stable_though_its_directions_are_not() -> None:
    a, b = subspace_pair(0, 24, 376)
    found = structure(side(a), side(b), nulls(400, 400, 5)).table
    p = found.filter(side="a")["subspace_p"].to_numpy()
    overlap = found.filter(side="a")["subspace_overlap"].to_numpy()
    assert (p[:24] <= 0.01).mean() > 0.95
    assert overlap[:24].mean() > 0.9
    assert (p[24:] <= 0.01).mean() <= 0.01
    assert overlap[24:].mean() < 0.2


def test_random_latents_are_called_stable_at_most_at_the_nominal_level() -> None:
    stable = tested = 0
    for seed in range(6):
        found = structure(
            side(random(250, seed)), side(random(250, seed + 50)), nulls(250, 250, 4)
        ).about
        stable += sum(found[name]["subspaces"]["stable"] for name in "ab")
        tested += sum(found[name]["subspaces"]["tested"] for name in "ab")
    assert tested == 3000
    assert stable / tested <= 0.01


def test_a_direction_half_found_again_is_no_stable_subspace() -> None:
    """Cosine .6: the mean angle alone would call all of them stable."""
    a, b = random(400, 1, 256), random(400, 2, 256)
    b[:100] = unit(0.6 * a[:100] + 0.8 * b[:100])
    found = structure(side(a), side(b), nulls(400, 400, 5, 256))
    one = found.table.filter(side="a")
    high = found.about["a"]["subspaces"]["null_high"]
    assert (one["subspace_overlap"][:100] > high).mean() > 0.8
    assert (one["subspace_p"][:100] <= 0.01).mean() < 0.2


def test_nothing_left_is_an_empty_table() -> None:
    rows, pairs = random(20, 3), np.arange(20)
    found = structure(side(rows, pairs), side(rows, pairs), nulls(20, 20))
    assert found.table.is_empty()
    assert {"label", "subspace_p", "partner_3"} <= set(found.table.columns)
    assert found.about["a"]["left_over"] == 0
    assert sum(found.about["a"]["labels"].values()) == 0


def test_unequal_widths() -> None:
    """A narrow dictionary that is wholly shared, and a wide one with 30 latents more."""
    a = random(10, 3)
    b = np.concatenate([a, random(30, 4)])
    pairs = np.arange(10)
    found = structure(side(a, pairs), side(b, [*pairs, *[-1] * 30]), nulls(10, 40))
    assert found.table["side"].to_list() == ["b"] * 30
    assert found.table["subspace_p"].null_count() == 30
    assert set(found.table["label"]) == {"novel"}


def test_one_latent_on_each_side() -> None:
    found = structure(side(random(1, 3)), side(random(1, 4)), nulls(1, 1)).table
    assert found["label"].to_list() == ["novel"] * 2
    assert found["subspace_overlap"].null_count() == 2


def test_zero_rows_have_no_label_and_poison_nothing() -> None:
    a, b = random(30, 3), random(30, 4)
    a[4], b[7] = 0, 0
    found = structure(side(a), side(b), nulls(30, 30))
    assert row(found, "a", 4)["label"] is None
    assert row(found, "a", 4)["subspace_p"] is None
    assert found.table["label"].null_count() == 2
    assert found.table.filter(pl.col("label").is_not_null())["subspace_p"].null_count() == 0
    partners = found.table.filter(side="a").select("partner_1", "partner_2", "partner_3")
    assert 7 not in set(partners.unpivot()["value"])


def test_bad_input_is_refused() -> None:
    rows = random(5, 1)
    broken = rows.copy()
    broken[2, 3] = np.nan
    with pytest.raises(SpecError, match=r"A's decoder: 1 of 5 rows have NaN"):
        structure(side(broken), side(rows), [])
    with pytest.raises(SpecError, match="different spaces"):
        structure(side(rows), side(random(5, 1, 64)), [])
    with pytest.raises(SpecError, match="A has 5 latents, but 4 counterparts"):
        structure(side(rows, [-1] * 4), side(rows), [])
    with pytest.raises(SpecError, match="both ways"):
        structure(side(rows, [0, -1, -1, -1, -1]), side(rows), [])


def test_partners_that_earn_their_place() -> None:
    cosines = np.array([
        [0.995, 1.0, 1.0],  # one explains it
        [np.sqrt(0.5), 1.0, 1.0],
        [np.sqrt(1 / 3), np.sqrt(2 / 3), 1.0],
        [0.6, 0.65, 0.95],  # the second alone would not
        [0.2, 0.3, 0.35],
        [0.0, 0.0, 0.0],
    ])  # fmt: skip
    assert earning(cosines, 0.5).tolist() == [1, 2, 3, 3, 1, 1]


def test_settings_are_used() -> None:
    a, b = planted()
    strict = structure(a, b, [], Settings(tau=0.999))
    assert {row(strict, "a", i)["label"] for i in range(40, 48)} == {"novel"}
    assert set(LABELS) == set(strict.about["a"]["labels"])
