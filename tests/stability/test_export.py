"""The table of latents as a file: what is written is what is read, and what is refused."""

import json
import re
from pathlib import Path

import polars as pl
import pytest

from reseed.errors import SpecError
from reseed.matching.pairs import Views, compare
from reseed.stability.export import VERSION, format_of, per_seed, public, select, write
from reseed.stability.shares import PairTable

TABLE = pl.DataFrame(
    {
        "run": ["a", "a", "b"],
        "latent": [0, 1, 0],
        "firing_rate": [0.1, 1 / 3, float("nan")],
        "alive": [True, False, True],
        "family": [3, None, 3],
        "text": ['say "x", y', "line\nbreak", ""],
        "per_seed": [[{"sae_id": "b", "best_dec_cos": 0.1}], [], None],
    }
)


def read(path: Path, kind: str) -> pl.DataFrame:
    if kind == "parquet":
        assert pl.read_parquet_metadata(path)["latent_table_version"] == str(VERSION)
        return pl.read_parquet(path)
    if kind == "jsonl":
        frame = pl.read_ndjson(path)
    else:
        frame = pl.read_csv(path)
        nested = [None if not v else json.loads(v) for v in frame["per_seed"]]
        frame = frame.with_columns(pl.Series("per_seed", nested))
    assert frame["latent_table_version"].to_list() == [VERSION] * len(frame)
    return frame.drop("latent_table_version")


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_what_is_written_is_read_back(tmp_path, kind) -> None:
    table = public(TABLE)
    path = tmp_path / f"latents.{kind}"
    write(table, path, format_of(path))
    back = read(path, kind)
    assert back.columns == ["sae_id", *TABLE.columns[1:]]
    assert back.rows() == table.rows()
    assert back["firing_rate"].to_list() == [0.1, 1 / 3, None]


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_no_rows_make_a_file_without_rows(tmp_path, kind) -> None:
    write(public(TABLE).clear(), tmp_path / "x", kind)
    text = (tmp_path / "x").read_bytes()
    if kind == "parquet":
        assert pl.read_parquet(tmp_path / "x").is_empty()
    else:
        assert text.decode().count("\n") == (kind == "csv")


def test_names_of_the_file_do_not_hide_newer_columns() -> None:
    both = pl.DataFrame({"n_runs": [3], "n_seeds": [2]})
    assert public(both).columns == ["n_runs", "n_seeds"]
    assert public(both.drop("n_seeds")).columns == ["n_seeds"]


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("alive", [("a", 0), ("b", 0)]),
        ("NOT alive OR latent = 0", [("a", 0), ("a", 1), ("b", 0)]),
        ("firing_rate > 0.2", [("a", 1)]),
        ("firing_rate > 0.2 IS NULL", [("b", 0)]),
        ("sae_id IN ('b', 'c')", [("b", 0)]),
        ("family IS NULL", [("a", 1)]),
        ("text LIKE 'say%'", [("a", 0)]),
        ("firing_rate >= AVG(firing_rate)", [("a", 1)]),
        ("latent > 7", []),
    ],
)
def test_conditions(where, rows) -> None:
    assert select(public(TABLE), where, ["sae_id", "latent"]).rows() == rows


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("firing_rat > 0.1", "did you mean 'firing_rate'"),
        ("run = 'a'", "here it is called 'sae_id'"),
        ('alive AND sae_id = "a"', "Text stands in single quotes"),
        ("alive AND", "cannot be read"),
        ("", "cannot be read"),
        ("alive; DROP TABLE x", "cannot be read"),
        ("read_csv('/etc/passwd')", "cannot be read"),
        ("latent IN (SELECT 1)", "sub-query"),
        ("latent + 1", "does not say yes or no"),
        ("COUNT(*) > 1", "does not say yes or no"),
        ("1 = 1", "does not say yes or no"),
        ("SUM(latent) > 0", "the same of all rows"),
        ("latent > 'x'", "cannot be applied"),
    ],
)
def test_a_bad_condition_is_explained(where, message) -> None:
    with pytest.raises(SpecError, match=re.escape(message)):
        select(public(TABLE), where)


def test_a_bad_column_names_the_nearest() -> None:
    with pytest.raises(SpecError, match="'alife'.*did you mean 'alive'"):
        select(public(TABLE), None, ["latent", "alife"])
    with pytest.raises(SpecError, match="twice"):
        select(public(TABLE), None, ["latent", "latent"])


def test_formats() -> None:
    assert format_of(Path("x.PARQUET")) == "parquet"
    assert format_of(Path("x.txt"), "csv") == "csv"
    with pytest.raises(SpecError, match="did you mean 'jsonl'"):
        format_of(Path("x.parquet"), "json")
    with pytest.raises(SpecError, match="does not say its format"):
        format_of(Path("x.xlsx"))


def test_per_seed_is_the_nearest_latent_of_each_other_run() -> None:
    import numpy as np

    draw = np.random.default_rng(0).normal
    rows = {run: draw(size=(6, 4)).astype(np.float32) for run in "abc"}
    unit = {run: x / np.linalg.norm(x, axis=1, keepdims=True) for run, x in rows.items()}
    views = {run: Views(x, x) for run, x in rows.items()}
    pairs = [("a", "b"), ("a", "c"), ("b", "c")]
    found = per_seed([PairTable(p, compare(views[p[0]], views[p[1]]).table) for p in pairs])
    assert len(found) == 18
    for run, latent, others in found.rows():
        assert [one["sae_id"] for one in others] == [r for r in "abc" if r != run]
        for one in others:
            nearest = (unit[run][latent] @ unit[one["sae_id"]].T).max()
            assert one["best_dec_cos"] == pytest.approx(nearest, abs=1e-6)
            assert one["best_enc_cos"] == pytest.approx(nearest, abs=1e-6)
    assert per_seed([]).schema == found.schema
