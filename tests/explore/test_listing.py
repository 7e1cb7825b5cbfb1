"""Sorting, filters, pages, search and histograms of the table, beside the same done by Polars."""

import numpy as np
import polars as pl
import pytest

from reseed.errors import SpecError
from reseed.explore.tables.listing import PAGE, TableRows, columns_of, read_listing


def rows_of(shelf, only=(), **query):
    listing = read_listing(query, columns_of(shelf.database))
    return TableRows(shelf.database, listing, only)


def keys(rows):
    return [(row["run"], row["latent"]) for row in rows]


def all_keys(table):
    total = table.count()
    pages = [table.rows(first, PAGE, total) for first in range(0, total, PAGE)]
    return [key for page in pages for key in keys(page)]


@pytest.fixture(scope="module")
def latents(made_up):
    return made_up.latents


SORTS = ["firing_rate", "-firing_rate", "n_matched", "-n_matched", "verdict", "-explanation"]


@pytest.mark.parametrize("sort", [*SORTS, "family", "-family", "run", "-alive", "-score_detection"])
def test_every_page_of_every_sort_is_that_of_a_plain_sort(shelf, latents, sort):
    name, down = sort.removeprefix("-"), sort.startswith("-")
    plain = latents.with_row_index("place").sort(
        [name, "place"], descending=[down, False], nulls_last=True
    )
    assert all_keys(rows_of(shelf, sort=sort)) == plain.select("run", "latent").rows()


@pytest.mark.parametrize(
    ("query", "plain"),
    [
        ({"firing_rate": "0.001..0.01"}, pl.col("firing_rate").is_between(0.001, 0.01)),
        ({"firing_rate": "0.001.."}, pl.col("firing_rate") >= 0.001),
        ({"n_matched": "..1", "alive": "true"}, (pl.col("n_matched") <= 1) & pl.col("alive")),
        ({"n_matched": "2"}, pl.col("n_matched") == 2),
        ({"family": "null"}, pl.col("family").is_null()),
        ({"family": "!null", "dense": "false"}, pl.col("family").is_not_null() & ~pl.col("dense")),
        ({"verdict": "unstable"}, pl.col("verdict") == "unstable"),
        ({"sae_sha256": "000"}, pl.lit(True)),
        ({"explanation": "NUMBER 1"}, pl.col("explanation").str.contains("number 1")),
        ({"score_detection": "0.5.."}, pl.col("score_detection") >= 0.5),
        ({"q": "17"}, pl.col("latent").eq(17) | pl.col("explanation").str.contains("17")),
    ],
)
def test_filters_keep_what_they_say(shelf, latents, query, plain):
    table = rows_of(shelf, **query)
    expected = set(latents.filter(plain).select("run", "latent").rows())
    found = all_keys(table)
    assert set(found) == expected
    assert len(found) == len(expected) == table.count()


def test_a_search_by_place_finds_what_a_search_of_each_context_finds(shelf, monkeypatch):
    """Also where most latents are found, which are kept as those that are not."""
    for words in ("river", "n7 ", "born was", "k o", "n1 ", "zebra"):
        query = {"q": words, "in": "contexts"}
        with monkeypatch.context() as without:
            without.setattr(shelf.database.folder, "has", lambda *_: False)
            plain = all_keys(rows_of(shelf, **query))
        shelf.database._hits.clear()
        table = rows_of(shelf, **query)
        assert all_keys(table) == plain
        assert table.count() == len(plain)
        assert shelf.database.hits(words, "contexts").found is (len(plain) <= 96)


def test_text_is_searched_in_explanations_and_in_contexts(shelf, made_up):
    runs = made_up.groups()[0].runs
    contexts = made_up.store.table(f"evidence/{runs[0]}", "contexts.parquet")
    text = pl.col("tokens").list.join("").str.to_lowercase()
    expected = set(contexts.filter(text.str.contains("n7 "))["latent"])
    assert expected
    found = all_keys(rows_of(shelf, q="N7 born", **{"in": "contexts"}))
    assert set(found) <= {(run, latent) for run in runs for latent in expected}
    hits = shelf.database.hits("n7 ", "contexts")
    assert hits.size == 3 * len(expected)
    assert rows_of(shelf, q="number 63", **{"in": "explanations"}).count() == len(runs)
    assert rows_of(shelf, q="number 63", **{"in": "contexts"}).count() == 0
    assert rows_of(shelf, q="n63", sort="-firing_rate").count() == len(runs)
    assert rows_of(shelf, q="'; DROP VIEW latents; --").count() == 0
    assert rows_of(shelf).count() == 3 * 64


def test_only_so_many_searches_are_kept(shelf):
    from reseed.explore.tables import database

    for number in range(database._KEPT + 3):
        rows_of(shelf, q=f"number {number}").count()
    tables = shelf.database.rows("SELECT table_name FROM duckdb_tables()")
    assert len(tables) == database._KEPT


def test_marked_latents_alone(shelf, latents):
    some = [(latents["run"][0], 3), (latents["run"][0], 5)]
    assert set(all_keys(rows_of(shelf, only=some, marked="star"))) == set(some)
    assert rows_of(shelf, marked="note").count() == 0


def test_histograms_count_what_the_other_filters_keep(shelf, latents):
    query = {"firing_rate": "0.001..0.1", "n_matched": "1.."}
    drawn = {axis["name"]: axis for axis in rows_of(shelf, **query).histograms()}
    by_rate = latents.filter(pl.col("n_matched") >= 1, pl.col("firing_rate") > 0)
    assert sum(drawn["firing_rate"]["counts"]) == len(by_rate)  # its own filter left out
    both = by_rate.filter(pl.col("firing_rate").is_between(0.001, 0.1))
    cosine = drawn["max_decoder_cos"]
    plain, _ = np.histogram(
        both["max_decoder_cos"], len(cosine["counts"]), (cosine["lo"], cosine["hi"])
    )
    assert cosine["counts"] == plain.tolist()
    found = drawn["n_matched"]
    kept = latents.filter(pl.col("firing_rate").is_between(0.001, 0.1))
    assert (found["lo"], found["hi"], found["whole"]) == (-0.5, 2.5, True)
    assert found["counts"] == [kept.filter(n_matched=n).height for n in range(3)]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"firing_rat": "1"}, "did you mean 'firing_rate'"),
        ({"sort": "-recurence"}, "did you mean 'recurrence'"),
        ({"sort": 'latent" DESC; --'}, "no column"),
        ({"columns": "latent,nonsense"}, "no column 'nonsense'"),
        ({"firing_rate": "much"}, "0.1..0.5"),
        ({"firing_rate": "nan.."}, "no number"),
        ({"alive": "perhaps"}, "true or false"),
        ({"match_cos": "0.5"}, "list"),
        ({"page": "-1"}, "no whole number"),
        ({"in": "everywhere"}, "anywhere"),
        ({"marked": "stars"}, "did you mean 'star'"),
    ],
)
def test_what_an_address_cannot_mean_is_said(shelf, query, words):
    with pytest.raises(SpecError, match=words.replace(".", r"\.")):
        rows_of(shelf, **query)


def test_an_address_reads_as_it_was_written(shelf):
    from urllib.parse import parse_qsl

    known = columns_of(shelf.database)
    query = {
        "firing_rate": "0.1..", "verdict": "unstable", "q": "a & b", "in": "contexts",
        "sort": "latent", "columns": "run,verdict", "page": "3", "marked": "note",
    }  # fmt: skip
    listing = read_listing(query, known)
    assert read_listing(dict(parse_qsl(listing.address())), known) == listing
    assert read_listing({}, known).address() == ""
    assert listing.with_filter("verdict", "").filter_of("verdict") == ""


def test_no_file_outside_the_study_can_be_read(shelf, tmp_path):
    from reseed.errors import StoreError

    other = tmp_path / "other.parquet"
    pl.DataFrame({"a": [1]}).write_parquet(other)
    for sql in (
        f"SELECT * FROM read_parquet('{other}')",
        "SELECT * FROM read_text('/etc/passwd')",
        f"COPY latents TO '{tmp_path}/copy.csv'",
        "INSTALL httpfs",
        "SET enable_external_access = true",
    ):
        with pytest.raises(StoreError, match="cannot be read"):
            shelf.database.rows(sql)
    assert not (tmp_path / "copy.csv").exists()
