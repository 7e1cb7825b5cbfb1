"""Scores from text embeddings: of an explanation as a search query, and of a latent without one.

Cosines of vectors; no model is asked anything, so both are cheap enough for every latent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from reseed.errors import SpecError
from reseed.interpretation.models import Embedder
from reseed.interpretation.prompts.windows import (
    by_class,
    check_items,
    in_seeded_order,
    missing_class,
    unexplained,
)
from reseed.interpretation.records import Example, Failure, Item, Score
from reseed.interpretation.scorers.accuracy import score_of_grades
from reseed.spec.interpretation import EmbeddingSpec

Vectors = Mapping[str, NDArray[np.float64]]
"""Text to its vector, of length 1."""


def score_explanations(
    embedder: Embedder,
    items: Sequence[Item],
    settings: EmbeddingSpec = EmbeddingSpec(),  # noqa: B008  (frozen)
) -> list[Score | Failure]:
    """How well the cosine to the explanation finds the windows in which a latent fires.

    Args:
        embedder: of texts. Each text is embedded once, however many items have it.
        items: latents with explanation and with examples of both kinds, not of the split `explain`.
        settings: how an explanation becomes a query.

    Returns:
        one result for each item, in order; scorer `embedding`, `value` is the AUROC.
    """
    check_items(items)
    queries = {
        item.of: settings.instruction + item.explanation.text
        for item in items
        if item.explanation is not None and missing_class(item) is None
    }
    vectors = _embedded(embedder, queries.values(), [item for item in items if item.of in queries])
    results: list[Score | Failure] = []
    for item in items:
        problem = unexplained(item) or missing_class(item)
        if problem is not None:
            results.append(problem)
            continue
        query = vectors[queries[item.of]]
        sides = (_graded(side, vectors, query) for side in by_class(item.examples))
        results.append(score_of_grades(item.of, "embedding", *sides))
    return results


def score_examples(embedder: Embedder, items: Sequence[Item]) -> list[Score | Failure]:
    """How well the windows in which a latent fires find each other; no explanation is needed.

    Half of the documents in which it fires are references; the other half and the silent windows
    are graded by their mean cosine to the references. References and graded windows come from
    different documents, so a latent that fires at random is at chance, not above.

    Args:
        embedder: of texts.
        items: latents with examples, not of the split `explain`; explanations are not looked at.

    Returns:
        one result for each item, in order; scorer `example_embedding`, `value` is the AUROC and
        `positives` the windows that were graded, references not counted.
    """
    check_items(items)
    vectors = _embedded(embedder, (), items)
    return [missing_class(item) or _example_score(item, vectors) for item in items]


def _example_score(item: Item, vectors: Vectors) -> Score | Failure:
    firing, silent = by_class(item.examples)
    documents = sorted({example.document for example in firing})
    if len(documents) < 2:
        return Failure(reason="the latent fires in one document only; two are needed")
    ordered = in_seeded_order("references", item.of, documents)
    chosen = set(ordered[: len(ordered) // 2])
    centre = np.mean([vectors[e.text] for e in firing if e.document in chosen], axis=0)
    # a silent window of a reference's document would be near to it whatever the latent does
    sides = [[e for e in side if e.document not in chosen] for side in (firing, silent)]
    if not sides[1]:
        return Failure(reason="every silent window is of a document that serves as reference")
    graded = (_graded(side, vectors, centre) for side in sides)
    return score_of_grades(item.of, "example_embedding", *graded)


def _graded(
    side: Sequence[Example], vectors: Vectors, query: NDArray[np.float64]
) -> list[tuple[Example, float]]:
    return [(example, float(vectors[example.text] @ query)) for example in side]


def _embedded(embedder: Embedder, queries: Iterable[str], items: Sequence[Item]) -> Vectors:
    """Vectors of queries and of all windows of some items."""
    windows = [example.text for item in items for example in item.examples]
    texts = list(dict.fromkeys([*queries, *windows]))
    if not texts:
        return {}
    rows = np.asarray(embedder.embed(texts), np.float64)
    if rows.ndim != 2 or len(rows) != len(texts):
        raise SpecError(f"{embedder.name}: {rows.shape} for {len(texts)} texts; each needs a row")
    lengths = np.linalg.norm(rows, axis=1)
    bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if len(bad):
        raise SpecError(
            f"{embedder.name}: the vectors of {len(bad)} of {len(texts)} texts are zero or NaN, "
            f"the first of {texts[int(bad[0])][:60]!r}. Leave out texts that it has no tokens for."
        )
    return dict(zip(texts, rows / lengths[:, None], strict=True))
