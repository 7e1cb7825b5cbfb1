"""The folder of a comparison, whose SAEs stand for runs."""

import shutil

import numpy as np
import polars as pl
import pytest

import reseed
from reseed.explore.server import app_of, folder_at
from reseed.explore.shelf import shelves
from reseed.explore.tables.database import Database
from reseed.stability import fdr
from reseed.stability.decoys import q_values


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    rng = np.random.default_rng(0)
    first = rng.standard_normal((40, 12)).astype(np.float32)
    others = [first + s * rng.standard_normal(first.shape).astype(np.float32) for s in (0.2, 0.6)]
    out = tmp_path_factory.mktemp("compared") / "folder"
    reseed.compare(first, *others, names=["a", "b 1", "c"], out=out)
    return out


@pytest.fixture
def client(folder):
    from starlette.testclient import TestClient

    return TestClient(app_of([folder_at(folder)]), base_url="http://127.0.0.1")


def test_each_latent_is_there_over_all_others(client, folder):
    page = client.get("/folder/latents?sort=-n_matched").text
    assert "120 latents" in page
    table = pl.read_parquet(folder / "latents.parquet")
    both = pl.min_horizontal("decoder_cos", "encoder_cos") >= 0.7
    shared = (pl.col("decoder_match") == pl.col("encoder_match")) & both
    most = table.group_by("sae", "latent").agg(shared.sum())["decoder_match"].max()
    assert f"{most} of 2" in page
    drawn = client.get("/folder/histograms?run=a").json()["histograms"]
    assert {axis["name"] for axis in drawn} == {"n_matched", "max_decoder_cos", "q_fdr"}
    assert sum(drawn[0]["counts"]) == 40


def test_what_is_said_over_all_others_is_that_of_a_study(folder):
    database = Database(folder_at(folder))
    database.refresh()
    sql = "SELECT run, latent, p_null, q_fdr, max_decoder_cos FROM latents ORDER BY run, latent"
    shown = pl.DataFrame(database.rows(sql))
    table = pl.read_parquet(folder / "latents.parquet").sort("sae", "latent", "other")
    p = fdr.simes(table["p_null"].to_numpy().reshape(120, 2))
    q = np.concatenate([q_values(of_sae) for of_sae in p.reshape(3, 40)])
    np.testing.assert_allclose(shown["p_null"], p)
    np.testing.assert_allclose(shown["q_fdr"], q)
    cosines = table["decoder_max_cos"].to_numpy().reshape(120, 2).mean(axis=1)
    np.testing.assert_allclose(shown["max_decoder_cos"], cosines)


def test_folders_called_like_a_number_that_is_given_out_are_all_there(folder, tmp_path):
    for place in ("p/a-3", "q/a", "r/a"):
        shutil.copytree(folder, tmp_path / place)
    shown = shelves([folder_at(tmp_path / place) for place in ("p/a-3", "q/a", "r/a")])
    assert list(shown) == ["a-3", "a", "a-4"]


def test_a_latent_stands_beside_its_nearest(client):
    page = client.get("/folder/feature/7/b 1").text
    assert "Latent 7" in page
    assert page.count('class="side near"') == 2
    assert "of 2 other SAEs" in page
    assert "family" not in page
    assert "Nearest by decoder rows" not in page
    assert client.get("/folder/nearest/7/b 1").status_code == 200


def test_what_needs_the_saes_is_said(client):
    assert "holds no SAEs" in client.get("/folder/map").text
    assert "no subject" in client.get("/folder/try").text
    page = client.get("/folder/pair?a=c&b=a").text
    assert "At tau = 0.7 they share" in page
    assert client.get("/folder/report").status_code == 200
    assert client.get("/folder/latents?q=7&in=contexts").status_code == 200


def test_with_activations_it_shows_firing_rates(tmp_path):
    pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((512, 12)).astype(np.float32)
    saes = reseed.train(x, latents=16, k=2, init_seeds=[0, 1], tokens=2048)
    reseed.compare(*saes, names=["a", "b"], activations=x, out=tmp_path / "on")
    from starlette.testclient import TestClient

    client = TestClient(app_of([folder_at(tmp_path / "on")]), base_url="http://127.0.0.1")
    assert "firing_rate" in client.get("/on/latents").text
    assert "32 latents" in client.get("/on/latents?sort=-firing_rate").text
    assert "live latents" in client.get("/on/pair").text
