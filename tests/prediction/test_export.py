"""The table of latents as a file: what is written is what is read, and what is refused."""

import json
import re
from pathlib import Path

import polars as pl
import pytest

from reseed.errors import SpecError
from reseed.prediction.export import VERSION, format_of, public, select, write

TABLE = pl.DataFrame(
    {
        "run": ["a", "a", "b"],
        "latent": [0, 1, 0],
        "firing_rate": [0.1, 1 / 3, float("nan")],
        "alive": [True, False, True],
        "family": [3, None, 3],
        "text": ['say "x", y', "line\nbreak", ""],
        "best_dec_cos": [[0.1, 0.25], [], None],
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
        nested = [None if not v else json.loads(v) for v in frame["best_dec_cos"]]
        frame = frame.with_columns(pl.Series("best_dec_cos", nested))
    assert frame["latent_table_version"].to_list() == [VERSION] * len(frame)
    return frame.drop("latent_table_version")


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_what_is_written_is_read_back(tmp_path, kind) -> None:
    table = public(TABLE)
    path = tmp_path / f"latents.{kind}"
    write(table, path, format_of(path))
    back = read(path, kind)
    assert back.columns == TABLE.columns
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


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("alive", [("a", 0), ("b", 0)]),
        ("NOT alive OR latent = 0", [("a", 0), ("a", 1), ("b", 0)]),
        ("firing_rate > 0.2", [("a", 1)]),
        ("firing_rate > 0.2 IS NULL", [("b", 0)]),
        ("run IN ('b', 'c')", [("b", 0)]),
        ("family IS NULL", [("a", 1)]),
        ("text LIKE 'say%'", [("a", 0)]),
        ("firing_rate >= AVG(firing_rate)", [("a", 1)]),
        ("latent > 7", []),
    ],
)
def test_conditions(where, rows) -> None:
    assert select(public(TABLE), where, ["run", "latent"]).rows() == rows


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("firing_rat > 0.1", "did you mean 'firing_rate'"),
        ('alive AND run = "a"', "Text stands in single quotes"),
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
