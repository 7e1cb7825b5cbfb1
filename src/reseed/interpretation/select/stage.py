"""Choosing latents of a run for a labelled task: features, choices and probes, kept in a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from reseed.errors import SpecError, StoreError, nearest, needs_train
from reseed.events import Events
from reseed.evidence.features import DocumentFeatures, Statistic, features_name, read_features
from reseed.interpretation.records import Asker, Explanation
from reseed.interpretation.select.task import ALL, LEAST, Choice, Task, make_task, random_sides
from reseed.runs import Done
from reseed.seeds import digest
from reseed.store import json_bytes, parquet_bytes
from reseed.study import Study
from reseed.subjects.inputs import Inputs

VERSION = 1
"""Of the methods; raised when the same settings would choose otherwise."""

BASELINES = ("lasso", "mutual-information", "mrmr", "forward", "random")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Latents chosen by several methods, and how well they tell held-out documents apart."""

    run: str
    task: str
    classes: tuple[str, ...]
    candidates: int
    documents: tuple[int, int]
    """to choose and fit on, held out"""
    chosen: pl.DataFrame
    """method, place (from 1, best first), latent, explanation (null without one)"""
    evaluation: pl.DataFrame
    """method, k, balanced_accuracy, auroc, minus_random, each with NAME_lo and NAME_hi, chance,
    calls (to a model), failed (of these)"""
    notes: tuple[str, ...]

    def table(self) -> pl.DataFrame:
        """The evaluation, best first within each k."""
        return self.evaluation.sort("k", "balanced_accuracy", descending=[False, True])

    @property
    def says(self) -> str:
        """The largest k in a sentence."""
        most = self.evaluation.filter(pl.col("method") != "all candidates")["k"].max()
        rows = self.table().filter((pl.col("k") == most) & (pl.col("method") != "all candidates"))
        parts = [
            f"{row['method']} {row['balanced_accuracy']:.3f} [{row['balanced_accuracy_lo']:.3f}, "
            f"{row['balanced_accuracy_hi']:.3f}]"
            + (f" ({row['failed']} of {row['calls']} replies unusable)" if row["failed"] else "")
            for row in rows.iter_rows(named=True)
        ]
        whole = self.evaluation.filter(method="all candidates").row(0, named=True)
        told = (
            f"{self.task}: balanced accuracy on {self.documents[1]} held-out documents with {most} "
            f"of {self.candidates} latents: {', '.join(parts)}; with all "
            f"{whole['balanced_accuracy']:.3f}; chance {whole['chance']:.3f}"
        )
        return "; ".join([told, *self.notes])


def select_latents(
    study: Study,
    run: str,
    task: str = ALL,
    k: int = 10,
    methods: Sequence[str] = BASELINES,
    *,
    events: Events,
    explanations: Mapping[int, Explanation] | None = None,
    asker: Asker | None = None,
    statistic: Statistic = "max",
    held_out: float | None = None,
    seed: int = 0,
) -> Selection:
    """Choose latents of a run for a task and probe them; calling it again only reads the result.

    Candidates are the latents with an explanation, for all methods alike; without explanations
    those that fire in five training documents at least. All choices are made on training documents.

    Args:
        study: with finished runs on a text whose documents have labels (`text.label`).
        run: id of a finished run.
        task: one label against all others, or `*` for all labels.
        k: latents at the most.
        methods: see `reseed.interpretation.select.by_words.METHODS`.
        events: progress.
        explanations: latent to what is said of it; needed by the `llm-` methods.
        asker: answers; needed by the `llm-` methods.
        statistic: of a latent over the tokens of a document.
        held_out: share of the documents to evaluate on, drawn by chance within labels. Left out,
            those that lie in held-out text altogether; a study that holds little out has few.
        seed: of everything that is drawn.

    Raises:
        SpecError: if the run, label or method is not known, there are no labels, or too few
            documents.
        StoreError: if the run is not done, or the study is damaged or busy.
    """
    _check(study, run, held_out)
    found = document_features(study, [run], events)[run]
    candidates = _candidates(found, explanations)
    texts = None if explanations is None else [explanations[n].text for n in candidates]
    wanted = {
        "version": VERSION,
        "features": study.store.checksum(features_name(run)),
        "task": task,
        "k": k,
        "methods": list(methods),
        "candidates": digest([list(candidates), texts]),
        "model": None if asker is None else asker.name,
        "statistic": statistic,
        "held_out": held_out,
        "seed": seed,
    }
    made_from = digest(wanted)
    piece = f"selections/{run}-{made_from[:8]}"
    if not study.store.has(piece, made_from):
        data = _task(found, candidates, task, statistic, held_out, seed)
        choices, evaluation = _chosen(data, k, methods, texts, asker, seed)
        with study.locked("reseed select"), study.store.piece(piece, made_from) as folder:
            about = {
                "settings": wanted,
                "task": data.name,
                "classes": list(data.classes),
                "candidates": list(candidates),
                "documents": [len(data.train_y), len(data.test_y)],
                "choices": [asdict(one) for one in choices],
                "notes": list(data.notes),
            }
            (folder / "selection.json").write_bytes(json_bytes(about))
            (folder / "evaluation.parquet").write_bytes(parquet_bytes(evaluation))
        events.emit("selected", run=run, task=data.name, methods=list(methods))
    return _read(study, piece, run, k, explanations)


def document_features(
    study: Study, runs: Sequence[str], events: Events
) -> dict[str, DocumentFeatures]:
    """Features of all documents for these finished runs; what is missing is made in one pass.

    Raises:
        SpecError: if the subject reads no text.
        StoreError: if a run is not done, or the study is damaged or busy.
    """
    from reseed.spec.subject import LanguageModelSpec

    store = study.store
    if not isinstance(study.spec.subject, LanguageModelSpec):
        raise SpecError("the subject of this study reads no text, so there are no documents")
    known = {one.id: one for one in study.runs}
    settings = [study.spec.data, study.spec.activations.held_out]
    made_from = {run: digest([store.checksum(f"runs/{run}"), settings]) for run in runs}
    missing = {run: known[run].spec.site for run in runs}
    missing = {r: s for r, s in missing.items() if not store.has(features_name(r), made_from[r])}
    if missing:
        with study.locked("reseed select"), needs_train("reseed select"):
            from reseed.evidence.features import gather_features
            from reseed.subjects.opening import TOKENS
            from reseed.subjects.text.tokens import TokenBlocks

            inputs = Inputs(study, events)
            inputs.look_up_sites()
            source = inputs.source
            tokens = TokenBlocks.open(store, TOKENS)
            gather_features(missing, source, tokens, *inputs.split, store, made_from, events)
    return {run: read_features(store, run) for run in runs}


def _check(study: Study, run: str, held_out: float | None) -> None:
    runs = {one.id: one for one in study.runs}
    if run not in runs:
        raise SpecError(f"no run {run!r} in {study.folder}; {nearest(run, runs)}")
    if not isinstance(runs[run].state, Done):
        raise StoreError(f"run {run} is not done; `reseed run` makes it")
    if runs[run].spec.control is not None:
        raise SpecError(f"run {run} is a control ({runs[run].spec.control}); take one of the study")
    if held_out is not None and not 0 < held_out < 1:
        raise SpecError(f"held_out = {held_out}: a share between 0 and 1")


def _candidates(
    found: DocumentFeatures, explanations: Mapping[int, Explanation] | None
) -> tuple[int, ...]:
    latents = found.max.shape[1]
    if explanations is not None:
        out = tuple(sorted(explanations))
        if not out or not 0 <= out[0] <= out[-1] < latents:
            raise SpecError(
                f"{len(out)} explanations of latents {out[:1]} to {out[-1:]}; this run has latents "
                f"0 to {latents - 1}. Are they of this run?"
            )
        return out
    training = (found.documents["side"] == "training").to_numpy()
    fires = np.bincount(found.max[np.flatnonzero(training)].indices, minlength=latents)
    out = tuple(np.flatnonzero(fires >= LEAST).tolist())
    if not out:
        raise SpecError(f"no latent fires in {LEAST} training documents")
    return out


def _task(
    found: DocumentFeatures,
    candidates: Sequence[int],
    task: str,
    statistic: Statistic,
    held_out: float | None,
    seed: int,
) -> Task:
    labels: list[str | None] = found.documents["label"].to_list()
    side: list[str] = found.documents["side"].to_list()
    if held_out is not None:
        side = random_sides(labels, held_out, seed)
    return make_task(found.matrix(statistic, candidates), labels, side, candidates, task)


def _chosen(
    data: Task,
    k: int,
    methods: Sequence[str],
    texts: Sequence[str] | None,
    asker: Asker | None,
    seed: int,
) -> tuple[list[Choice], pl.DataFrame]:
    try:
        from reseed.interpretation.select.by_data import probe_table
        from reseed.interpretation.select.by_words import select

        choices = select(data, k, methods, texts=texts, asker=asker, seed=seed)
        table = probe_table(data, choices, k, seed=seed)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "sklearn":
            raise
        message = "reseed select needs scikit-learn, which is not installed: pip install"
        raise ImportError(f"{message} 'reseed[llm]'") from error
    counted = pl.DataFrame(
        {
            "method": [one.method for one in choices],
            "calls": [one.calls for one in choices],
            "failed": [one.failed for one in choices],
        }
    )
    joined = table.join(counted, on="method", how="left", maintain_order="left")
    return choices, joined.with_columns(pl.col("calls", "failed").fill_null(0))


def _read(
    study: Study, piece: str, run: str, k: int, explanations: Mapping[int, Explanation] | None
) -> Selection:
    about: dict[str, Any] = study.store.document(piece, "selection.json")
    rows = [
        {
            "method": one["method"],
            "place": place,
            "latent": (latent := about["candidates"][number]),
            "explanation": explanations[latent].text if explanations else None,
        }
        for one in about["choices"]
        for place, number in enumerate(one["order"][:k], 1)
    ]
    notes = [f"{one['method']}: {one['note']}" for one in about["choices"] if one["note"]]
    return Selection(
        run=run,
        task=about["task"],
        classes=tuple(about["classes"]),
        candidates=len(about["candidates"]),
        documents=(about["documents"][0], about["documents"][1]),
        chosen=pl.DataFrame(rows, schema_overrides={"explanation": pl.String}),
        evaluation=study.store.table(piece, "evaluation.parquet"),
        notes=(*about["notes"], *notes),
    )
