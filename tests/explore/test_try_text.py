"""A text of one's own, on a tiny language model: what fires is what the SAEs say of it."""

import pytest

torch = pytest.importorskip("torch")

from reseed.explore.notes import NoteFile  # noqa: E402
from reseed.explore.pages import try_text  # noqa: E402
from reseed.explore.shelf import Shelf  # noqa: E402
from reseed.explore.tables.database import Database  # noqa: E402
from reseed.explore.tables.of_study import StudyFolder  # noqa: E402

TEXT = "the cat sat on a mat"


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
