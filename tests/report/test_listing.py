"""The table of all latents: its data, and what a reader does with it in a browser."""

import json
import re

import numpy as np
import polars as pl

from reseed.report.latents.counterparts import classes, pair_data
from reseed.report.latents.partners import shortened

HOSTILE = "</script><img src=x onerror=alert(1)>"


def listing_of(path):
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text())
    assert data is not None
    rows = json.loads(data[1])["groups"][0]["listing"]
    for name in rows["steps"]:
        known = np.cumsum([step or 0 for step in rows[name]]).tolist()
        columns = zip(rows[name], known, strict=True)
        rows[name] = [None if step is None else number for step, number in columns]
    return rows


def test_every_latent_of_every_run_is_listed_with_its_nearest(make_page):
    rows = listing_of(make_page())
    assert len(rows["latent"]) == 3 * 8
    at = rows["latent"].index(5)
    assert rows["run"][at] == 0
    assert rows["latent"] == [*range(8)] * 3
    assert rows["partners"][at] == [1, 5, 0.7, 2, 5, 0.7]
    before, token, after = rows["texts"][at][0]
    assert token == HOSTILE
    assert "\x00" not in before + after
    assert {len(rows[key]) for key, *_ in rows["columns"] if key in rows} == {24}


def test_without_text_the_table_says_so(make_page):
    path = make_page(texts=False)
    assert listing_of(path)["texts"] == []
    assert "the subject reads no text" in path.read_text()


def test_a_place_is_the_strongest_token_with_its_surroundings():
    assert shortened(["a", " b", " c"], [None, 0.1, 0.9]) == ("a b", " c", "")
    assert shortened(["x" * 100, "y", "z" * 100], [0.0, 1.0, 0.0]) == ("x" * 70, "y", "z" * 70)


def pair_table():
    names = ("side", "latent", "decoder_match", "decoder_cos", "encoder_match", "encoder_cos",
             "encoder_cos_at_decoder", "p_null", "q_fdr")  # fmt: skip
    rows = [
        ("a", 0, 1, 0.9, 1, 0.8, 0.8, 0.001, 0.01),
        ("a", 1, 0, 0.6, 0, 0.6, 0.6, 0.001, 0.01),
        ("a", 2, 2, 0.9, 0, 0.8, 0.1, 0.5, 0.9),
        ("a", 3, None, None, None, None, None, 1.0, 1.0),
        ("b", 0, 1, 0.6, 1, 0.6, 0.6, 0.001, 0.01),
    ]
    return pl.DataFrame(rows, schema=names, orient="row")


def test_latents_of_a_pair_are_classed_by_what_is_known_of_them():
    assert classes(pair_table(), 0.7)["kind"].to_list() == [0, 1, 2, 3, 1]
    data = pair_data(pair_table(), ("x", "y"), {("x", 0): [("a", "b", "c")]}, None, 0.7)
    assert data["partners"] == [[1, 1, 0.9], [1, 0, 0.6], [1, 2, 0.9], [], [0, 1, 0.6]]
    assert data["run"] == [0, 0, 0, 0, 1]
    assert data["texts"][0] == [("a", "b", "c")]
