"""A text of one's own, on a tiny language model: what fires is what the SAEs say of it."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from reseed.explore.notes import NoteFile  # noqa: E402
from reseed.explore.pages import try_text  # noqa: E402
from reseed.explore.shelf import Shelf  # noqa: E402
from reseed.explore.tables.database import Database  # noqa: E402
from reseed.explore.tables.of_study import StudyFolder  # noqa: E402

TEXT = "the cat sat on a mat"


@pytest.fixture(scope="module")
def language_study(tmp_path_factory, tiny_folder):
    """Two runs on a random llama; finished."""
    import reseed

    folder = tmp_path_factory.mktemp("language")
    rng = np.random.default_rng(0)
    words = ["the", "cat", "sat", "on", "a", "mat", "dog", "ran", "far", "away", "red", "green"]
    lines = [json.dumps({"text": " ".join(rng.choice(words, 40))}) for _ in range(60)]
    (folder / "text.jsonl").write_text("\n".join(lines))
    (folder / "language.toml").write_text(
        f"""
[subject]
model = {json.dumps(str(tiny_folder))}
[text]
source = {json.dumps(str(folder / "text.jsonl"))}
block = 32
[activations]
sites = ["layers.1"]
tokens = 1600
mix_blocks = 8
shard_blocks = 8
[[sae]]
latents = 16
k = 2
lr = 3e-3
[seeds]
init = [0, 1]
[training]
tokens = 2560
batch = 64
threads = 1
[stability]
null_draws = 1
"""
    )
    study = reseed.Study.load(folder / "language.toml")
    reseed.run(study, progress=False)
    return study


@pytest.fixture
def shelf(language_study, tmp_path):
    database = Database(StudyFolder(language_study))
    database.refresh()
    return Shelf("language", database, NoteFile(tmp_path / "language"))


def test_what_fires_is_what_the_saes_say(shelf, language_study, tiny_folder):
    from reseed.spec.subject import LanguageModelSpec
    from reseed.subjects.language.model import load_language_model

    facts = try_text.try_view({"text": TEXT}, shelf)
    assert facts["tokens"] == TEXT.split()
    model = load_language_model(LanguageModelSpec(model=str(tiny_folder)), ["layers.1"])
    ids = [model.tokenizer.bos, *model.tokenizer.encode([TEXT])[0]]
    with torch.inference_mode():
        rows = model.forward(torch.tensor([ids]))["layers.1"][0, 1:]
    expected = {}
    for run in language_study.runs:
        codes = run.sae().encode(rows)
        for latent in range(16):
            if codes[:, latent].max() > 0:
                expected[run.id, latent] = codes[:, latent].tolist()
    found = {(row["run"], row["latent"]): row["activations"] for row in facts["rows"]}
    assert found == expected
    matched = [row["n_matched"] for row in facts["rows"]]
    assert matched == sorted(matched, reverse=True)
    assert facts["fired"] == len(expected)


def test_a_long_text_is_cut_and_said(shelf, monkeypatch):
    monkeypatch.setattr(try_text, "_TOKENS", 4)
    facts = try_text.try_view({"text": TEXT}, shelf)
    assert facts["cut"]
    assert len(facts["tokens"]) == 4
    assert try_text.try_view({"text": "  "}, shelf)["tokens"] == []
