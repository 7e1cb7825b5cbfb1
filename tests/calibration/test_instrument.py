"""The instrument in worlds whose truth is known: tables that say what they are made to say."""

import polars as pl

from reseed.calibration import instrument
from reseed.report.calibration import PIECE, WORLDS, write_calibration
from reseed.store import json_bytes


def test_coverage_by_count_is_near_what_is_claimed():
    table = instrument.coverage_by_count(runs=(3, 5), studies=2)
    assert (
        table.group_by("population", "runs")
        .agg(pl.col("share").sum())["share"]
        .is_between(0.999, 1.001)
        .all()
    )
    many = table.filter(pl.col("share") > 0.02)
    assert many["coverage"].min() > 0.7
    weighted = many["coverage"].dot(many["share"]) / many["share"].sum()
    assert weighted > 0.93
    assert (many["said"] - many["true"]).abs().mean() < 0.05


def test_families_lose_latents_to_tau_and_not_to_the_crowd():
    table = instrument.recall_by_crowding(runs=(3,), features=40, latents=50)
    near = table.filter(pl.col("noise") == 0.4)
    assert near["recall"].min() > 0.95
    assert near["crowd"].max() == 0.7
    far = table.filter(pl.col("noise") == 0.6)
    assert far.filter(pl.col("crowd") == 0.0)["recall"].item() < 0.5
    assert table["precision"].drop_nulls().min() > 0.98


def test_the_page_shows_what_was_measured(known):
    store = known["store"]
    about = {
        "study": "planted",
        "subject": {"features": 60, "dimensions": 48, "active": 4.0},
        "training_tokens": 1000,
        "failed": [],
        "groups": [{"name": "planted", **known["summary"]}],
    }
    store.path("about.json").write_bytes(json_bytes(about))
    write_calibration(store, "about.json", "without.html")
    rates = {"distribution": "Gaussian", "encoder": "tied", "width_a": 8, "width_b": 8, "fdr": 0.0,
             "nominal": 0.04, "power": 1.0}  # fmt: skip
    made = {
        "by_count": instrument.coverage_by_count(runs=(3,), studies=1),
        "by_distribution": pl.DataFrame([rates]),
        "by_crowding": instrument.recall_by_crowding(runs=(3,), features=40, latents=50),
    }
    assert tuple(made) == instrument.TABLES == WORLDS
    assert instrument.PIECE == PIECE
    store.make(PIECE, ["test"], lambda: {f"{n}.parquet": table for n, table in made.items()})
    write_calibration(store, "about.json", "with.html")
    pages = [store.path(f"{name}.html").read_text() for name in ("without", "with")]
    for plot in ("by-count", "by-distribution", "by-crowding"):
        assert [f'data-plot="{plot}"' in page for page in pages] == [False, True]
