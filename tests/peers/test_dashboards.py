"""Batches for Neuronpedia, read by the class that SAEDashboard writes them with (0.8.0)."""

import json

import numpy as np
import pytest

from reseed.publish.dashboards import Dashboard, Logits
from reseed.publish.neuronpedia import _run

pytestmark = pytest.mark.peers


def test_its_own_class_takes_a_batch_and_gives_it_back():
    peer = pytest.importorskip("sae_dashboard.neuronpedia.neuronpedia_dashboard")
    context = {"tokens": ["a", " b"], "activations": [0.0, 2.0], "quantile": 3}
    logits = Logits(top=[(" b", 2.5)], bottom=[("a", -1.0)], bars=([0.5], [2.0]))
    shown = [
        Dashboard(
            latent=n, row={"firing_rate": 0.1, "n_matched": 2, "explanation": "cats"},
            strongest=[context], sample=[context], bars=([1.25], [7.0]), logits=logits,
        )
        for n in range(3)
    ]  # fmt: skip
    about = {"model_id": "m", "layer": 1, "sae_set": "s", "sae_id_suffix": "i0-d0"}
    common = {"n_prompts_total": 4, "n_tokens_in_prompt": 8, "dataset": "d"}
    decoder = np.eye(3, dtype=np.float32)
    files = dict(_run("r", about, common, shown, decoder, {"version": 1}))
    batch = json.loads(json.dumps(files["r/batch-0.json"]))
    assert peer.NeuronpediaDashboardBatch(**batch).to_dict() == batch
    assert files["r/reseed-0.json"]["features"]["0"]["n_matched"] == 2
