"""A study of a language model that computes in another format than float32 says what that did."""

import json

import numpy as np
import pytest

import reseed
from reseed.errors import SpecError
from reseed.spec.subject import PRECISION
from reseed.study import Study

SITE = "layers.1.mlp"


@pytest.fixture
def text_study(write_study, tmp_path, tiny_folder):
    """A tiny study of documents of several lengths, each padded to its block."""
    words = ["the", "cat", "sat", "on", "a", "mat", "dog", "ran", "far", "away", "red", "blue"]
    lines = [
        json.dumps({"text": " ".join(words[(i * 7 + j) % 12] for j in range(3 + i % 11))})
        for i in range(150)
    ]
    (tmp_path / "text.jsonl").write_text("\n".join(lines))

    def write(name, keep="shards", **subject):
        return write_study(
            name,
            subject={"kind": "language_model", "model": str(tiny_folder), **subject},
            text={"source": str(tmp_path / "text.jsonl"), "block": 12, "layout": "padded"},
            activations={"sites": [SITE], "tokens": 1440, "keep": keep},
            training={"tokens": 1280, "snapshots": [], "checkpoint_tokens": 1280},
        )

    return write


@pytest.mark.parametrize(("keep", "dtype"), [("shards", "bfloat16"), ("live", "int8")])
def test_the_change_is_said_and_kept(text_study, cli, keep, dtype):
    path = text_study("other", keep=keep, dtype=dtype)
    done = cli("run", path)
    assert done.returncode == 0, done.stderr
    assert f"{dtype} changes the activations" in done.stdout + done.stderr
    study = Study.load(path)
    change = study.summary["activations"]["change_from_float32"]
    assert change == study.store.document(PRECISION, "change.json")
    assert change["dtype"] == dtype
    assert 0 < change["sites"][SITE]["relative_rmse"] < 0.1
    assert f"change by {dtype}" in (study.folder / "report.html").read_text()
    if keep == "shards":
        assert study.store.document("activations/index", "index.json")["change_from_float32"] == (
            change
        )
    assert "changes the activations" not in cli("run", path).stdout


def test_float32_has_nothing_to_say(text_study, cli):
    path = text_study("plain")
    assert cli("run", path).returncode == 0
    study = Study.load(path)
    assert "change_from_float32" not in study.summary["activations"]
    assert not study.store.has(PRECISION)
    assert "change_from_float32" not in study.store.document("activations/index", "index.json")


def test_live_and_shards_train_the_same_sae_on_padded_text(text_study):
    """But for last bits: live rows are read in other company than those of a shard."""
    trained = []
    for keep in ("shards", "live"):
        study = Study.load(text_study(keep, keep=keep))
        reseed.run(study, progress=False)
        files = sorted((study.folder / "runs").rglob("sae.safetensors"))
        trained.append([reseed.load(path.parent).arrays() for path in files])
    assert len(trained[0]) == len(trained[1]) == 2 * 2  # with the first snapshot
    for stored, live in zip(*trained, strict=True):
        np.testing.assert_allclose(
            live.W_enc, stored.W_enc, rtol=1e-4, atol=1e-5 * np.abs(stored.W_enc).max()
        )
        np.testing.assert_allclose(live.W_dec, stored.W_dec, rtol=1e-4, atol=1e-5)


def test_int8_cannot_be_trained_through(text_study):
    path = text_study("through", dtype="int8")
    sae = path.read_text().replace("lr = 0.003", "lr = 0.003\nend_to_end = {kl = 1.0}")
    path.write_text(sae)
    with pytest.raises(SpecError, match="int8 has none of"):
        Study.load(path)
