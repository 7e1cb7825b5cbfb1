"""Scores from text embeddings: of an explanation as a search query, and of a latent without one.

Cosines of vectors; no model is asked anything, so both are cheap enough for every latent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from reseed.errors import SpecError
from reseed.interpretation.models.instruments import Embedder
from reseed.interpretation.prompts.marking import (
    by_class,
    check_items,
    in_seeded_order,
    missing_class,
    unexplained,
)
from reseed.interpretation.records import Example, Failure, Item, Latent, Score
from reseed.interpretation.scorers import accuracy
from reseed.spec.interpretation import EmbeddingSpec

Numbers = NDArray[np.float64]


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

    Raises:
        SpecError: if examples are of the split `explain`, of two splits, or contradict themselves;
            if the embedder gives NaN, zeros or another number of rows.
    """
    check_items(items)
    problems = [unexplained(item) or missing_class(item) for item in items]
    fine = [item for item, problem in zip(items, problems, strict=True) if problem is None]
    queries = {item.of: settings.instruction + _phrase(item) for item in fine}
    vectors = _embedded(embedder, [*queries.values(), *_texts(fine)])
    results: list[Score | Failure] = []
    for item, problem in zip(items, problems, strict=True):
        if problem is not None:
            results.append(problem)
            continue
        query = vectors[queries[item.of]]
        grades = [
            np.array([vectors[e.text] @ query for e in one]) for one in by_class(item.examples)
        ]
        results.append(_area(item.of, "embedding", *by_class(item.examples), *grades))
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

    Raises:
        SpecError: as `score_explanations`.
    """
    check_items(items)
    vectors = _embedded(embedder, _texts(items))
    return [_example_score(item, vectors) for item in items]


def _example_score(item: Item, vectors: Mapping[str, Numbers]) -> Score | Failure:
    problem = missing_class(item)
    if problem is not None:
        return problem
    firing, silent = by_class(item.examples)
    documents = sorted({example.document for example in firing})
    if len(documents) < 2:
        return Failure(reason="the latent fires in one document only; two are needed")
    ordered = in_seeded_order("references", item.of, documents)
    chosen = set(ordered[: len(ordered) // 2])
    centre = np.mean([vectors[e.text] for e in firing if e.document in chosen], axis=0)
    graded = [example for example in firing if example.document not in chosen]
    # a silent window of a reference's document would be near to it whatever the latent does
    silent = [example for example in silent if example.document not in chosen]
    if not silent:
        return Failure(reason="every silent window is of a document that serves as reference")
    grades = [np.array([vectors[e.text] @ centre for e in one]) for one in (graded, silent)]
    return _area(item.of, "example_embedding", graded, silent, *grades)


def _area(
    of: Latent,
    scorer: str,
    firing: Sequence[Example],
    silent: Sequence[Example],
    high: Numbers,
    low: Numbers,
) -> Score:
    documents = [[example.document for example in one] for one in (firing, silent)]
    value, interval = accuracy.auroc_with_interval(high, low, *documents)
    return Score(
        of=of,
        scorer=scorer,
        value=value,
        chance=0.5,
        interval=interval,
        auroc=value,
        auroc_interval=interval,
        positives=len(firing),
        negatives=len(silent),
    )


def _phrase(item: Item) -> str:
    assert item.explanation is not None
    return item.explanation.text


def _texts(items: Sequence[Item]) -> list[str]:
    return [example.text for item in items for example in item.examples]


def _embedded(embedder: Embedder, texts: Sequence[str]) -> dict[str, Numbers]:
    """Vectors of length 1 by text."""
    once = list(dict.fromkeys(texts))
    if not once:
        return {}
    rows = np.asarray(embedder.embed(once), np.float64)
    if rows.ndim != 2 or len(rows) != len(once):
        raise SpecError(f"{embedder.name}: {rows.shape} for {len(once)} texts; each needs a row")
    lengths = np.linalg.norm(rows, axis=1)
    bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if len(bad):
        raise SpecError(
            f"{embedder.name}: the vectors of {len(bad)} of {len(once)} texts are zero or NaN, the "
            f"first of {once[int(bad[0])][:60]!r}. Leave out texts that it has no tokens for."
        )
    return dict(zip(once, rows / lengths[:, None], strict=True))
