"""The page of a comparison names latents, its files and its words."""

import json
import re

import numpy as np
import pytest

import reseed


def listing_of(page):
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page)
    assert data is not None
    return [group["listing"] for group in json.loads(data[1])["groups"]]


def test_latents_are_named_with_their_partner(tmp_path):
    rng = np.random.default_rng(0)
    a = rng.standard_normal((24, 16)).astype(np.float32)
    b = rng.standard_normal((20, 16)).astype(np.float32)
    b[:10] = a[10:20]  # latent 10 + n of A is latent n of B
    reseed.compare(a, b, names=["x", "<b>y"], out=tmp_path)
    page = (tmp_path / "report.html").read_text("utf-8")
    (rows,) = listing_of(page)
    assert len(rows["latent"]) == 24 + 20
    for row in range(24):
        if 10 <= rows["latent"][row] < 20:
            assert rows["partners"][row][:2] == [1, rows["latent"][row] - 10]
            assert rows["words"][rows["kind"][row]] == "shared"
    for words in ("latents.parquet", "covariance-matched", "What the words and columns mean"):
        assert words in page
    assert "&quot;sha256" not in page  # no raw JSON
    assert "<b>y" not in page


def test_what_matched_latents_add_stands_beside_chance(tmp_path):
    pytest.importorskip("torch", reason="SAEs are run on activations")
    x = np.random.default_rng(1).standard_normal((512, 16)).astype(np.float32)
    a, b = reseed.train(x, latents=24, k=4, init_seeds=[0, 1], tokens=4096)
    reseed.compare(a, b, activations=x, out=tmp_path / "run")
    page = (tmp_path / "run/report.html").read_text("utf-8")
    assert "What matched latents add to reconstructions" in page
    assert "cosine of contributions" in page
    reseed.compare(a.W_dec, b.W_dec, out=tmp_path / "weights")
    assert "cosine of contributions" not in (tmp_path / "weights/report.html").read_text("utf-8")
