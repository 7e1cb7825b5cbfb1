"""The whole room on a study written by hand: features that are there come out, poor input is said.

No torch: runs are arrays with planted features, matched and assessed as those of a study.
"""

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from reseed.events import Events
from reseed.formats import own
from reseed.matching.stage import stage as match
from reseed.records import SAEArrays
from reseed.report.study import write_report
from reseed.runs import Group, evidence_name, stability_name
from reseed.spec.analysis import MatchingSpec, StabilitySpec
from reseed.spec.summary import GroupSummary
from reseed.stability.latents import COLUMNS
from reseed.stability.notes import notes
from reseed.stability.stage import stage as assess
from reseed.store import Store, json_bytes, parquet_bytes, snapshot_folder

F, D, SURE, MAYBE = 60, 32, 20, 20
"""Latents; dimensions; latents that every run finds; latents found half of the time. The rest are
junk of each run, of which the last 5 are dead."""


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def sae(rows) -> SAEArrays:
    none = {"b_enc": np.zeros(len(rows), np.float32), "b_dec": np.zeros(D, np.float32)}
    return SAEArrays(W_enc=rows, W_dec=rows, activation={"kind": "topk", "k": 4}, about={}, **none)


def write_run(store: Store, init: int, data: int, dead: int) -> str:
    """A run; where it starts depends on the init seed, what it finds on both."""
    run = f"toy-i{init}-d{data}"
    truth = unit(np.random.default_rng(0).normal(size=(SURE + MAYBE, D)))
    start = unit(np.random.default_rng([1, init]).normal(size=(F, D)))
    rng = np.random.default_rng([2, init, data])
    end = start.copy()
    end[:SURE] = unit(truth[:SURE] + 0.01 * rng.normal(size=(SURE, D)))
    found = rng.random(MAYBE) < 0.5
    end[SURE : SURE + MAYBE][found] = unit(truth[SURE:][found] + 0.01 * rng.normal(size=D))
    junk = np.arange(F) >= SURE + MAYBE
    junk[SURE : SURE + MAYBE] = ~found
    end[junk] = unit(rng.normal(size=(int(junk.sum()), D)))
    end[F - 5 :] = start[F - 5 :]
    fired = np.where(np.arange(F) < F - dead, np.arange(F, 0, -1) * 10, 0)
    with store.piece(f"runs/{run}") as folder:
        for step, rows in ((0, start), (10, end)):
            (folder / snapshot_folder(step)).mkdir(parents=True)
            own.write(folder / snapshot_folder(step), sae(rows))
        spec = {"init_seed": init, "data_seed": data, "site": "toy", "sae": {}}
        (folder / "spec.json").write_bytes(json_bytes(spec))
        steps = {"step": [10], "tokens": [40], "fvu": [0.2], "l0": [4.0], "dead": [0.0]}
        (folder / "metrics.parquet").write_bytes(parquet_bytes(pl.DataFrame(steps)))
    firing = pl.DataFrame(
        {"latent": np.arange(F), "fired": fired, "rate": fired / 5000, "mean_act": np.ones(F),
         "max_act": np.ones(F)}
    )  # fmt: skip
    with store.piece(evidence_name(run)) as folder:
        (folder / "firing.parquet").write_bytes(parquet_bytes(firing))
        held_out = {"rows": 5000, "fvu": 0.2, "l0": 4.0}
        (folder / "reconstruction.json").write_bytes(json_bytes(held_out))
        lists = {"tokens": pl.List(pl.String), "activations": pl.List(pl.Float32)}
        empty = pl.DataFrame(schema={"latent": pl.Int64, **lists})
        (folder / "contexts.parquet").write_bytes(parquet_bytes(empty))
    return run


@pytest.fixture
def assessed(tmp_path):
    """Writes, matches and assesses a group; gives its store, summary and table of latents."""

    def make(seeds, dead=5):
        store, events = Store(tmp_path), Events()
        runs = [write_run(store, *pair, dead) for pair in seeds]
        group = Group(name="toy", label="toy", runs=runs, steps=(0, 10), batch=4)
        study = SimpleNamespace(
            store=store,
            spec=SimpleNamespace(matching=MatchingSpec(), stability=StabilitySpec()),
            groups=lambda: [group],
            all_groups=lambda: [group],
        )
        match(study, events)
        assess(study, events)
        name = stability_name("toy")
        summary = store.document(name, "summary.json")
        latents = store.table(name, "latents.parquet")
        assert latents.columns[: len(COLUMNS)] == list(COLUMNS)
        page(store, summary)
        return store, summary, latents

    return make


def said(summary: dict, trend: dict | None = None, **more) -> list[str]:
    """The notes of a group of a study without controls."""
    return notes(GroupSummary.model_validate(summary), {}, trend or {}, 1.0, **more)


def page(store: Store, group: dict) -> None:
    """The page is written of every state."""
    trend = {0: 0.0, 40: 0.5}
    summary = {
        "reseed": "0", "study": "hand", "subject": {"kind": "toy"},
        "activations": {"sites": {"toy": D}, "training_tokens": 40, "held_out_tokens": 5000},
        "training": {"tokens": 40, "epochs": 1.0, "init_seeds": [0, 1], "data_seeds": [0]},
        "runs": {"done": group["runs"], "missing": ["toy-i9-d9"], "failed": {}},
        "groups": [
            {**group, "group": "toy", "controls": {}, "through_subject": None,
             "notes": said(group, trend)}
        ],
        "factors": None,
    }  # fmt: skip
    store.write("summary.json", summary)
    write_report(store, "report.html")
    text = store.path("report.html").read_text("utf-8")
    assert "toy-i9-d9" in text
    assert ">None<" not in text
    assert ">nan" not in text.lower()


def test_planted_features_come_out(assessed):
    store, summary, latents = assessed([(i, 0) for i in range(5)])
    sure = latents.filter(pl.col("latent") < SURE)
    assert (sure["n_matched"] == 4).all()
    assert (sure["recurrence_mean"] > 0.8).all()
    assert (sure["q_fdr"] <= 0.05).all()
    assert (sure["n_matched_fdr"] == 4).all()
    junk = latents.filter((pl.col("latent") >= SURE + MAYBE) & pl.col("alive"))
    assert junk["n_matched"].sum() == 0
    assert (junk["q_fdr"] <= 0.05).mean() <= 0.05
    assert (junk["recurrence_hi"] < 0.75).all()
    known = latents.drop_nulls("recurrence_mean")
    assert (known["recurrence_lo"] <= known["recurrence_mean"]).all()
    assert set(latents.filter(~pl.col("alive"))["rate_bin"]) == {-1}
    assert latents["best_dec_cos"].list.len().unique().to_list() == [4]
    shared = summary["headline"]["shared"]["all"]
    assert summary["headline"]["match_at_fdr"]["all"]["value"] >= shared["value"] - 0.02
    assert summary["headline"]["match_at_fdr"]["all"]["null_covariance"]["mean"] <= 0.05
    assert shared["value"] == pytest.approx((SURE + MAYBE / 4) / F, abs=0.06)
    assert summary["components"] is None
    assert summary["unseen"]["chao2"] >= summary["unseen"]["observed"]
    once = store.table(stability_name("toy"), "only_in_one.parquet").filter(stratum="all")
    assert once["m"].to_list() == [2, 3, 4, 5]
    assert (once["share"].diff().drop_nulls() <= 0).all()
    pairs = store.table(stability_name("toy"), "pairs.parquet")
    assert set(pairs["tokens"]) == {0, 40}
    for measure, stratum in (("shared", "all"), ("match_at_fdr", "all"), ("pw_mcc", "all")):
        found = pairs.filter(measure=measure, tokens=40)["value"]
        assert len(found) == 10
        assert found.mean() == pytest.approx(summary["headline"][measure][stratum]["value"])
    live = pairs.filter(measure="shared_live")["value"].mean()
    assert live == pytest.approx(summary["headline"]["shared"]["live"]["value"])


def test_crossed_seeds_count_only_what_shares_neither(assessed):
    seeds = [(i, d) for d in range(3) for i in range(3)]
    _, summary, latents = assessed(seeds)
    assert summary["independent"] == {"pairs": 18, "they": "share neither seed", "trials": 4}
    assert set(latents["n_seeds"]) == {5}
    assert set(latents["n_runs"]) == {9}
    assert latents["other_runs"].list.len().unique().to_list() == [8]
    # dead latents stay where they started: matched with runs of their init, and not counted
    dead = latents.filter(~pl.col("alive"))
    assert dead["n_matched"].sum() == 0
    assert (dead["match_cos"].list.max() > 0.99).all()
    parts = summary["components"]["parts"]
    assert abs(parts["data"]["value"]) < 0.1
    assert summary["components"]["classes"]["share the init seed"]["untrained"]["value"] == 1
    assert summary["unseen"]["runs"] == 3
    assert any("18 of 36 pairs are left out" in note for note in said(summary))


def test_a_missing_run_of_a_crossed_design_is_no_loss(assessed):
    seeds = [(i, d) for d in range(3) for i in range(3) if (i, d) != (1, 1)]
    _, summary, latents = assessed(seeds)
    assert summary["independent"]["pairs"] == 14
    assert set(latents["n_seeds"]) == {4, 5}
    assert latents["recurrence_mean"].null_count() == 0
    assert summary["components"]["parts"]["init"]["value"] is not None


def test_one_run_says_nothing_and_loses_nothing(assessed):
    _, summary, latents = assessed([(0, 0)])
    assert "headline" not in summary
    assert len(latents) == F
    assert set(latents["n_seeds"]) == {1}
    for name in ("recurrence", "recurrence_mean", "recurrence_lo", "p_null", "other_runs"):
        assert latents[name].null_count() == F
    assert "nothing can be said" in said(summary)[0]


def test_two_runs_have_no_interval_but_a_posterior(assessed):
    _, summary, latents = assessed([(0, 0), (1, 0)])
    assert summary["headline"]["shared"]["all"]["interval_95"] is None
    assert summary["headline"]["match_at_fdr"]["all"]["interval_95"] is None
    width = latents["recurrence_hi"] - latents["recurrence_lo"]
    assert latents["recurrence_mean"].null_count() == 0
    assert width.max() > 0.5
    assert "no interval" in said(summary)[0]
    assert "pulled towards each other" in said(summary, pulled=True)[1]
    near = summary | {"distance_from_init": {"mean": 0.93, "lo": 0.9, "hi": 0.95}}
    told = [any("hardly left" in note for note in said(of)) for of in (near, summary)]
    assert told == [True, False]


def test_runs_of_one_init_are_told_apart_from_agreement(assessed):
    _, summary, _ = assessed([(0, d) for d in range(3)])
    assert summary["independent"]["they"] == "share the init seed"
    assert summary["headline"]["shared"]["all"]["null_untrained"] == 1
    assert any("start from the same weights" in note for note in said(summary))


def test_all_latents_dead(assessed):
    _, summary, latents = assessed([(i, 0) for i in range(3)], dead=F)
    assert summary["counts"]["live"] == [0, 0, 0]
    assert summary["headline"]["shared"]["live"]["value"] is None
    assert summary["headline"]["shared"]["dead"]["value"] > 0
    assert "live" not in summary["headline"]["match_at_fdr"]
    assert summary["unseen"]["observed"] == 0
    assert latents["recurrence_mean"].null_count() == 0
    assert set(latents["null_id"]) == {"N2 all"}
    assert summary["distance_from_init"]["mean"] is None
