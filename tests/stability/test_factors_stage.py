"""Groups of a study written by hand: features that a narrow SAE has come back in the wide one."""

import json
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from reseed.events import Events
from reseed.formats import own
from reseed.matching.stage import stage as match
from reseed.records import SAEArrays
from reseed.runs import Group, evidence_name
from reseed.spec.analysis import MatchingSpec, StabilitySpec
from reseed.spec.summary import document_of
from reseed.stability.factors.across import partners
from reseed.stability.factors.design import FACTORS, compare_groups
from reseed.stability.factors.levels import Neighbours, across_name, levels_of, neighbours
from reseed.stability.stage import stage as assess
from reseed.store import Store, json_bytes, parquet_bytes, snapshot_folder

D, STEPS = 32, (0, 5, 10)
SHAPES = {"narrow-2": (12, 2), "narrow-4": (12, 4), "wide-2": (24, 2), "wide-4": (24, 4)}


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def write_run(store, group, init):
    """Finds 8 features if narrow, 12 if wide (the 8 among them); half of them at half time."""
    latents, k = SHAPES[group]
    found = 8 if latents == 12 else 12
    truth = unit(np.random.default_rng(0).normal(size=(12, D)))
    start = unit(np.random.default_rng([1, init]).normal(size=(24, D)))[:latents]
    rng = np.random.default_rng([2, init, latents, k])
    rows = {0: start}
    for step, most in ((5, found // 2), (10, found)):
        rows[step] = unit(rng.normal(size=(latents, D)))
        rows[step][:most] = unit(truth[:most] + 0.01 * rng.normal(size=(most, D)))
    run = f"{group}-i{init}"
    none = {"b_enc": np.zeros(latents, np.float32), "b_dec": np.zeros(D, np.float32)}
    with store.piece(f"runs/{run}") as folder:
        for step, array in rows.items():
            (folder / snapshot_folder(step)).mkdir(parents=True)
            activation = {"kind": "topk", "k": k}
            sae = SAEArrays(W_enc=array, W_dec=array, activation=activation, about={}, **none)
            own.write(folder / snapshot_folder(step), sae)
        about = {"architecture": "topk", "latents": latents, "k": k, "lr": 1e-3}
        spec = {"init_seed": init, "data_seed": 0, "site": "toy", "sae": about}
        (folder / "spec.json").write_bytes(json_bytes(spec))
    firing = pl.DataFrame(
        {"latent": np.arange(latents), "fired": [5] * latents, "rate": [0.01] * latents,
         "mean_act": np.ones(latents), "max_act": np.ones(latents)}
    )  # fmt: skip
    with store.piece(evidence_name(run)) as folder:
        (folder / "firing.parquet").write_bytes(parquet_bytes(firing))
        held_out = {"rows": 5000, "fvu": 0.2, "l0": 2.0}
        (folder / "reconstruction.json").write_bytes(json_bytes(held_out))
    return run


@pytest.fixture
def made(tmp_path):
    """Writes, matches, assesses and compares groups; gives their store and what was found."""
    store, events = Store(tmp_path), Events()

    def make(names, seeds=3):
        groups = [
            Group(
                name=name,
                label=name.replace("-", " k"),
                runs=[write_run(store, name, init) for init in range(seeds)],
                steps=STEPS,
                batch=100,
            )
            for name in names
        ]
        spec = SimpleNamespace(matching=MatchingSpec(), stability=StabilitySpec(null_draws=2))
        study = SimpleNamespace(
            store=store, spec=spec, groups=lambda: groups, all_groups=lambda: groups
        )
        match(study, events)
        factors = assess(study, events)
        return store, groups, factors and document_of(factors)

    return make


def test_a_grid_of_widths_and_ks_is_taken_apart(made):
    store, groups, found = made(SHAPES)
    assert found == json.loads(json.dumps(found)) == store.document(FACTORS, "summary.json")
    shared = found["measures"]["shared"]
    # of the latents of a narrow SAE 8 of 12 come back, of a wide one 12 of 24
    width = shared["effects"]["latents"]
    assert [one["level"] for one in width["levels"]] == [12, 24]
    assert [one["value"] for one in width["levels"]] == pytest.approx([8 / 12, 0.5])
    assert width["doubling"]["value"] == pytest.approx(0.5 - 8 / 12)
    assert shared["effects"]["k"]["doubling"]["value"] == pytest.approx(0)
    assert shared["effects"]["tokens"]["doubling"]["value"] == pytest.approx((8 / 12 + 0.5) / 4)
    assert shared["effects"]["site"]["changes_with"] == []
    parts = shared["spread"]["parts"]
    assert parts["tokens"]["share"] > parts["latents"]["share"] > parts["k"]["share"]
    assert shared["spread"]["cells"] == 8
    # what is known at the end only has no tokens
    for measure in ("match_at_fdr", "shared_live", "chance_corrected"):
        assert "tokens" not in found["measures"][measure]["effects"]
        assert found["measures"][measure]["spread"]["cells"] == 4
    cells = store.table(FACTORS, "cells.parquet")
    assert len(cells.filter(measure="shared")) == 8
    assert set(cells["measure"]) == set(found["measures"])
    text = " ".join(found["words"])
    assert "doubling the width (12 to 24) changes the share that comes back by -16.7 points" in text
    assert "one data seed" in text
    again = compare_groups(groups, MatchingSpec(), store, Events())
    assert document_of(again) == found


def test_what_a_narrow_sae_finds_is_found_in_the_wide_one(made):
    _, _, found = made(["narrow-2", "wide-2"])
    (two,) = found["across"]
    assert (two["small"], two["large"], two["differ"]) == ("narrow-2", "wide-2", "latents")
    assert two["pairs"] == 6
    assert two["found"]["value"] == pytest.approx(8 / 12)
    assert two["found_back"]["value"] == pytest.approx(8 / 24)
    assert two["nearest"]["value"] == pytest.approx(8 / 12)
    assert two["found"]["null"] < 0.1
    low, high = two["found"]["interval_95"]
    assert 0 <= low < 8 / 12 < high <= 1
    assert found["measures"]["shared"]["effects"]["k"]["changes_with"] == []
    assert not [words for words in found["words"] if "of k " in words or "k does" in words]


def test_two_seeds_are_compared_without_intervals(made):
    _, _, found = made(["narrow-2", "wide-2"], seeds=2)
    assert found["measures"]["shared"]["effects"]["latents"]["doubling"]["interval_95"] is None
    assert found["across"][0]["found"]["interval_95"] is None
    assert "fewer than three seeds" in " ".join(found["words"])


def test_one_group_or_one_run_is_nothing_to_compare(made):
    assert made(["narrow-2"])[2] is None
    assert made(["narrow-4", "wide-4"], seeds=1)[2] is None


def test_a_changed_group_is_compared_anew(made):
    store, groups, _ = made(["narrow-2", "wide-2"])
    two = Neighbours("narrow-2", "wide-2", "latents")
    before = store.checksum(across_name(two))
    compare_groups(groups[::-1], MatchingSpec(), store, Events())
    assert store.checksum(across_name(two)) == before
    compare_groups(groups, MatchingSpec(tau=1.0), store, Events())
    assert store.checksum(across_name(two)) != before


def test_neighbours_differ_in_one_of_width_and_k():
    def level(latents, k, site="s", architecture="topk"):
        return {"site": site, "architecture": architecture, "latents": latents, "k": k}

    levels = {
        "b": level(32, 2), "a": level(16, 2), "c": level(16, 4), "d": level(32, 4),
        "e": level(16, 2, site="t"), "f": level(16, 2, architecture="relu"),
    }  # fmt: skip
    found = {(two.small, two.large, two.differ) for two in neighbours(levels)}
    assert found == {
        ("a", "b", "latents"), ("a", "c", "k"), ("b", "d", "k"), ("c", "d", "latents")
    }  # fmt: skip


def test_architectures_without_k_are_one_factor_with_their_settings():
    topk = {"site": "s", "architecture": "topk", "latents": 8, "k": 2, "lr": 1, "auxk_alpha": 0}
    relu = {"site": "s", "architecture": "relu", "latents": 8, "penalty": 0.1, "lr": 2}
    assert levels_of({"a": topk, "b": topk | {"k": 4}})["b"]["k"] == 4
    found = levels_of({"a": topk, "b": relu, "c": relu | {"latents": 16}})
    assert found == {
        "a": {"site": "s", "architecture": "topk", "latents": 8},
        "b": {"site": "s", "architecture": "relu", "latents": 8},
        "c": {"site": "s", "architecture": "relu", "latents": 16},
    }
    assert neighbours(found) == [Neighbours("b", "c", "latents")]
    other = levels_of({"a": topk, "b": relu, "c": relu | {"penalty": 0.2}})
    assert [of["architecture"] for of in other.values()] == [
        "topk", "relu penalty 0.1", "relu penalty 0.2"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("inits", "data", "count"), [(3, 1, 6), (5, 1, 10), (2, 1, 2), (1, 1, 0), (1, 3, 0), (3, 3, 18)]
)
def test_partners_share_no_seed_and_take_their_turns(inits, data, count):
    def runs(group):
        return {f"{group}{i}{d}": (i, d) for i in range(inits) for d in range(data)}

    small, large = runs("s"), runs("l")
    found = partners(small, large)
    assert len(found) == len(set(found)) == count
    for a, b in found:
        assert small[a][0] != large[b][0]
        assert data == 1 or small[a][1] != large[b][1]
    if count:
        turns = [sum(b == other for _, b in found) for other in large]
        assert max(turns) - min(turns) <= (0 if data == 1 else 2)
