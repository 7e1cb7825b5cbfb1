"""Choosing latents of a run for a labelled task: features, choices and probes, kept in a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from reseed.errors import SpecError, StoreError, installing, nearest, needs_train
from reseed.events import Events
from reseed.evidence.features import DocumentFeatures, Statistic, features_name, read_features
from reseed.interpretation.models.of_study import opener
from reseed.interpretation.records import Asker, Explanation
from reseed.interpretation.results import explanations_of, read_explained, spec_of
from reseed.interpretation.select import ALL, LEAST, Choice, Task, make_task, random_sides
from reseed.interpretation.select.by_data import probe_table
from reseed.interpretation.select.methods import BASELINES, LLM_METHODS, choose
from reseed.runs import Done
from reseed.seeds import digest
from reseed.spec.subject import LanguageModelSpec, ModuleSpec
from reseed.study import Study
from reseed.subjects.inputs import Inputs

VERSION = 1
"""Of the methods; raised when the same settings would choose otherwise."""


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
        choices = self.table().filter(pl.col("method") != "all candidates")
        most = choices["k"].max()
        parts = [
            f"{row['method']} {row['balanced_accuracy']:.3f} [{row['balanced_accuracy_lo']:.3f}, "
            f"{row['balanced_accuracy_hi']:.3f}]"
            + (f" ({row['failed']} of {row['calls']} replies unusable)" if row["failed"] else "")
            for row in choices.filter(k=most).iter_rows(named=True)
        ]
        every = self.evaluation.filter(method="all candidates").row(0, named=True)
        sentence = (
            f"{self.task}: balanced accuracy on {self.documents[1]} held-out documents with {most} "
            f"of {self.candidates} latents: {', '.join(parts)}; with all "
            f"{every['balanced_accuracy']:.3f}; chance {every['chance']:.3f}"
        )
        return "; ".join([sentence, *self.notes])


def select(
    study: Study,
    events: Events,
    run: str,
    task: str = ALL,
    k: int = 10,
    methods: Sequence[str] | None = None,
    *,
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
        events: progress.
        run: id of a finished run.
        task: one label against all others, or `*` for all labels.
        k: latents at the most.
        methods: of `reseed.interpretation.select.methods.METHODS`; None for those without a model.
        explanations: latent to what is said of it; left out, the `llm-` methods read those of the
            study and ask its explainer.
        asker: answers; needed with `explanations`.
        statistic: of a latent over the tokens of a document.
        held_out: share of the documents to evaluate on, drawn by chance within labels. Left out,
            those that lie in held-out text altogether; a study that holds little out has few.
        seed: of everything that is drawn.
    """
    methods = list(BASELINES if methods is None else methods)
    _check_run(study, run, held_out)
    with ExitStack() as open_now:
        if explanations is None and not set(LLM_METHODS).isdisjoint(methods):
            spec = spec_of(study)
            explanations = _explanations(study, run, k)
            asker = opener(study.store, spec.budget, events, open_now)(spec.explainer, "select")
        features = document_features(study, events, [run])[run]
        candidates = _candidates(features, explanations)
        texts = None if explanations is None else [explanations[n].text for n in candidates]
        settings = {
            "version": VERSION,
            "features": study.store.checksum(features_name(run)),
            "task": task,
            "k": k,
            "methods": methods,
            "candidates": digest([list(candidates), texts]),
            "model": None if asker is None else asker.name,
            "statistic": statistic,
            "held_out": held_out,
            "seed": seed,
        }

        def write() -> dict[str, Any]:
            labels: list[str | None] = features.documents["label"].to_list()
            side: list[str] = features.documents["side"].to_list()
            if held_out is not None:
                side = random_sides(labels, held_out, seed)
            data = make_task(features.matrix(statistic, candidates), labels, side, candidates, task)
            choices, evaluation = _evaluated(data, k, methods, texts, asker, seed)
            about = {
                "settings": settings,
                "task": data.name,
                "classes": list(data.classes),
                "candidates": list(candidates),
                "documents": [len(data.train_y), len(data.test_y)],
                "choices": [asdict(choice) for choice in choices],
                "notes": list(data.notes),
            }
            events.emit("selected", run=run, task=data.name, methods=methods)
            return {"selection.json": about, "evaluation.parquet": evaluation}

        piece = f"selections/{run}-{digest(settings)[:8]}"
        if not study.store.has(piece, digest(settings)):
            with study.locked("reseed select"):
                study.store.make(piece, settings, write)
    return _read(study, piece, run, k, explanations)


def _explanations(study: Study, run: str, k: int) -> dict[int, Explanation]:
    """What is said of latents of a run, at least of so many."""
    group = next(group for group in study.groups() if run in group.runs)
    every = explanations_of(read_explained(study, group).table)
    explanations = {of.latent: words for of, words in every.items() if of.run == run}
    if len(explanations) < k:
        raise SpecError(
            f"{len(explanations)} latents of {run} are explained and {k} are to be chosen; raise "
            "interpretation.per_kind, explain again, or lower --k"
        )
    return explanations


def document_features(
    study: Study, events: Events, runs: Sequence[str]
) -> dict[str, DocumentFeatures]:
    """Features of all documents for these finished runs; what is missing is made in one pass.

    Raises:
        SpecError: if the subject reads no text and has no samples with labels.
        StoreError: if a run is not done, or the study is damaged or busy.
    """
    store = study.store
    if not isinstance(study.spec.subject, LanguageModelSpec | ModuleSpec):
        raise SpecError("the subject of this study reads no text, so there are no documents")
    known = {run.id: run for run in study.runs}
    settings = [study.spec.data, study.spec.activations.held_out]
    made_from = {run: digest([store.checksum(f"runs/{run}"), settings]) for run in runs}
    missing = {run: known[run].spec.site for run in runs}
    missing = {r: s for r, s in missing.items() if not store.has(features_name(r), made_from[r])}
    if missing:
        with study.locked("reseed select"), needs_train("reseed select"):
            from reseed.evidence.features import gather_features

            inputs = Inputs(study, events)
            labelled = inputs.pictures() or inputs.text
            where = *inputs.split, store, made_from, events
            gather_features(missing, inputs.source, labelled, *where)
    return {run: read_features(store, run) for run in runs}


def _check_run(study: Study, name: str, held_out: float | None) -> None:
    runs = {run.id: run for run in study.runs}
    if name not in runs:
        raise SpecError(f"no run {name!r} in {study.folder}; {nearest(name, runs)}")
    control = runs[name].spec.control
    if not isinstance(runs[name].state, Done):
        raise StoreError(f"run {name} is not done; `reseed run` makes it")
    if control is not None:
        raise SpecError(f"run {name} is a control ({control}); take one of the study")
    if held_out is not None and not 0 < held_out < 1:
        raise SpecError(f"held_out = {held_out}: a share between 0 and 1")


def _candidates(
    features: DocumentFeatures, explanations: Mapping[int, Explanation] | None
) -> tuple[int, ...]:
    latents = features.max.shape[1]
    if explanations is not None:
        out = tuple(sorted(explanations))
        if not out or not 0 <= out[0] <= out[-1] < latents:
            raise SpecError(
                f"{len(out)} explanations of latents {out[:1]} to {out[-1:]}; this run has latents "
                f"0 to {latents - 1}. Are they of this run?"
            )
        return out
    training = (features.documents["side"] == "training").to_numpy()
    fires = np.bincount(features.max[np.flatnonzero(training)].indices, minlength=latents)
    out = tuple(np.flatnonzero(fires >= LEAST).tolist())
    if not out:
        raise SpecError(f"no latent fires in {LEAST} training documents")
    return out


def _evaluated(
    data: Task,
    k: int,
    methods: Sequence[str],
    texts: Sequence[str] | None,
    asker: Asker | None,
    seed: int,
) -> tuple[list[Choice], pl.DataFrame]:
    try:
        choices = choose(data, k, methods, texts=texts, asker=asker, seed=seed)
        table = probe_table(data, choices, k, seed=seed)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "sklearn":
            raise
        message = "reseed select needs scikit-learn, which is not installed:"
        raise ImportError(f"{message} {installing('llm')}") from error
    names = ("method", "calls", "failed")
    counted = pl.DataFrame([(c.method, c.calls, c.failed) for c in choices], names, orient="row")
    joined = table.join(counted, on="method", how="left", maintain_order="left")
    return choices, joined.with_columns(pl.col("calls", "failed").fill_null(0))


def _read(
    study: Study, piece: str, run: str, k: int, explanations: Mapping[int, Explanation] | None
) -> Selection:
    about: dict[str, Any] = study.store.document(piece, "selection.json")
    rows = [
        {
            "method": choice["method"],
            "place": place,
            "latent": (latent := about["candidates"][number]),
            "explanation": explanations[latent].text if explanations else None,
        }
        for choice in about["choices"]
        for place, number in enumerate(choice["order"][:k], 1)
    ]
    notes = [f"{c['method']}: {c['note']}" for c in about["choices"] if c["note"]]
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
