import zlib
from dataclasses import replace

import numpy as np
import pytest

from reseed.errors import SpecError
from reseed.interpretation.records import Failure
from reseed.interpretation.scorers.embedding import score_examples, score_explanations
from reseed.spec.interpretation import EmbeddingSpec


class Noise:
    """Vectors that depend on the text and mean nothing."""

    name = "noise"

    def embed(self, texts):
        seeds = [zlib.crc32(text.encode()) for text in texts]
        return np.stack([np.random.default_rng(seed).normal(size=8) for seed in seeds])


def test_the_area_is_that_of_the_cosines(known):
    metrics = pytest.importorskip("sklearn.metrics")
    noise, item = Noise(), known.item(0)
    (one,) = score_explanations(noise, [item], EmbeddingSpec(instruction="Query: "))
    query = noise.embed(["Query: " + item.explanation.text])[0]
    rows = noise.embed([e.text for e in item.examples])
    cosines = rows @ query / np.linalg.norm(rows, axis=1)
    truth = [e.kind == "firing" for e in item.examples]
    assert one.value == pytest.approx(metrics.roc_auc_score(truth, cosines))
    assert one.value == one.auroc
    assert (one.scorer, one.positives, one.negatives) == ("embedding", 15, 15)


def test_each_text_is_embedded_once(known):
    embedder = known.Embedder()
    items = [known.item(0), replace(known.item(0), of=known.latent(99))]
    score_explanations(embedder, items)
    assert len(embedder.texts) == len(set(embedder.texts)) == 31
    score_examples(embedder, items)
    assert len(embedder.texts) == 31 + 30


@pytest.mark.parametrize("score", [score_explanations, score_examples])
def test_vectors_without_meaning_are_at_chance(known, score):
    items = [replace(known.item(f % 12, seed=f), of=known.latent(f)) for f in range(80)]
    results = score(Noise(), items)
    values = np.array([one.value for one in results])
    assert abs(values.mean() - 0.5) < 4 * values.std() / np.sqrt(len(values))
    assert np.mean([one.interval[0] <= 0.5 <= one.interval[1] for one in results]) >= 0.88


def test_references_and_graded_windows_share_no_document(known):
    """All windows of a document look alike: without care a latent would find itself."""

    class ByDocument:
        name = "documents"

        def embed(self, texts):
            rng = {d: np.random.default_rng(d).normal(size=40) for d in range(50)}
            return np.stack([rng[documents[text]] for text in texts])

    documents, items = {}, []
    for feature in range(40):
        item = known.item(feature % 12, firing=20, silent=20, seed=feature)
        made = [
            replace(e, document=int(np.random.default_rng([feature, i]).integers(8)))
            for i, e in enumerate(item.examples)
        ]
        items.append(replace(item, of=known.latent(feature), examples=tuple(made)))
    values = []
    for item in items:
        documents = {e.text: e.document for e in item.examples}
        (one,) = score_examples(ByDocument(), [item])
        values += [] if isinstance(one, Failure) else [one.value]
    assert len(values) > 30
    assert abs(np.mean(values) - 0.5) < 4 * np.std(values) / np.sqrt(len(values))


def test_without_two_documents_there_is_no_score(known):
    item = known.item(0)
    same = tuple(replace(e, document=7) for e in item.examples)
    (one,) = score_examples(known.Embedder(), [replace(item, examples=same)])
    assert isinstance(one, Failure)
    mixed = tuple(replace(e, document=i % 2) for i, e in enumerate(item.examples[:15]))
    silent = tuple(replace(e, document=i % 2) for i, e in enumerate(item.examples[15:]))
    (one,) = score_examples(known.Embedder(), [replace(item, examples=mixed + silent)])
    assert one.negatives < 15
    assert score_explanations(known.Embedder(), []) == score_examples(known.Embedder(), []) == []


def test_vectors_that_cannot_be_right_are_refused(known):
    class Broken:
        name = "broken"

        def __init__(self, change):
            self.change = change

        def embed(self, texts):
            return self.change(np.ones((len(texts), 4)))

    for change in (lambda v: v * 0, lambda v: v * np.nan, lambda v: v[1:], lambda v: v[0]):
        with pytest.raises(SpecError, match="broken"):
            score_explanations(Broken(change), [known.item(0)])
