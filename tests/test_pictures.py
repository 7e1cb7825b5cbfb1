"""A subject that sees pictures, from its factory to the report, the explorer and a task."""

import polars as pl
import pytest

import reseed
from reseed.events import Events
from reseed.interpretation.select.stage import select

FACTORY = '''
import numpy as np
import torch
from torch import nn


def build():
    """Pictures of 8 x 8 with a bar, upright or lying, and a convolution that sees them."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    pictures, labels = rng.random((240, 1, 8, 8)).astype(np.float32) / 4, []
    for picture in pictures:
        labels.append(["lying", "upright"][rng.integers(2)])
        at = rng.integers(1, 7)
        picture[0, :, at] += labels[-1] == "upright"
        picture[0, at] += labels[-1] == "lying"
    module = nn.Sequential(nn.Conv2d(1, 12, 3, 2, 1), nn.ReLU())

    def show(sample):
        return (150 * pictures[sample, 0, :, :, None].repeat(3, 2)).clip(0, 255).astype(np.uint8)

    return module, list(torch.from_numpy(pictures).split(12)), show, labels
'''

STUDY = """
[subject]
kind = "module"
factory = "net.py:build"
layout = "channels_first"

[activations]
sites = ["1"]
tokens = 3_840
held_out = 0.4

[[sae]]
architecture = "topk"
latents = 16
k = 2
lr = 1e-2

[seeds]
init = [0, 1]

[training]
tokens = 8_000
batch = 128
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "net.py").write_text(FACTORY)
    (folder / "bars.toml").write_text(STUDY)
    study = reseed.Study.load(folder / "bars.toml")
    reseed.run(study, progress=False)
    return study


def test_latents_have_a_coherence_with_its_null(study):
    live = study.latents.filter("alive")
    assert live["coherence"].is_between(0, 1).all()
    # a bar is a line of places, so what sees it fires on neighbours
    assert (live["coherence"] > live["coherence_null"]).sum() > len(live) / 2


def test_the_page_shows_crops_and_stays_offline(study):
    page = (study.folder / "report.html").read_text()
    assert page.count('data-picture="') > 20
    assert 0 < page.count("data:image/png;base64,") < page.count('data-picture="')
    assert 'class="heat"' in page
    assert "neighbours fire too" in page
    assert "upright</small>" in page
    assert 'src="http' not in page


def test_labels_are_a_task(study):
    selection = select(
        study, Events(), study.groups()[0].runs[0], "upright", k=4, methods=["lasso"]
    )
    best = selection.evaluation.filter(k=4, method="lasso")
    assert best["balanced_accuracy"].max() > 0.7
    assert sum(selection.documents) == 240 - 12  # the block between both sides is of neither


def test_the_explorer_shows_them(study):
    pytest.importorskip("duckdb")
    from starlette.testclient import TestClient

    from reseed.explore.server import app_of
    from reseed.explore.tables.of_study import StudyFolder

    run = study.groups()[0].runs[0]
    latent = study.latents.filter(pl.col("run") == run, "alive")["latent"][0]
    app = app_of([StudyFolder(study)])
    with TestClient(app, base_url="http://localhost") as client:
        page = client.get(f"/bars/feature/{latent}/{run}").text
    assert page.count('class="crop"') >= 6
