"""A text of one's own: which latents of which run fire on it. Needs the subject, and torch."""

from __future__ import annotations

import threading
from typing import Any

from reseed.errors import SpecError, needs_train
from reseed.explore.shelf import Query, Shelf
from reseed.explore.tables.database import Database
from reseed.explore.tables.of_study import StudyFolder
from reseed.runs import Group
from reseed.spec.subject import LanguageModelSpec, subject_beside

_TOKENS = 256
_LISTED = 40

_LOADED: dict[str, Any] = {}
_LOCK = threading.Lock()


def try_view(query: Query, shelf: Shelf) -> dict[str, Any]:
    """Latents of each run of a `group` that fire on `text`, reproducible ones first.

    Raises:
        SpecError: if the subject reads no text, or the group is not there.
        SubjectError: if the subject cannot be read.
    """
    database, text = shelf.database, query.get("text", "")
    labels = [group.label for group in database.groups]
    label = query.get("group") or (labels[0] if labels else "")
    facts: dict[str, Any] = {
        "labels": labels, "group": label, "text": text, "tokens": [], "rows": [], "cut": False,
        "names": database.names(), "why": _why_not(database), "most": _TOKENS, "listed": _LISTED,
    }  # fmt: skip
    if facts["why"] or not text.strip():
        return facts
    if label not in labels:
        raise SpecError(f"there is no group {label!r} in this study")
    with _LOCK:  # one text at a time: a subject may be large
        fired = _fired(shelf, database.groups[labels.index(label)], text)
    return facts | fired


def _why_not(database: Database) -> str | None:
    if not database.groups:
        return "No run is finished yet; `reseed run` makes them."
    if not isinstance(database.folder, StudyFolder):
        return "SAEs that are compared outside a study have no subject to read a text with."
    subject = database.folder.study.spec.subject
    if not isinstance(subject, LanguageModelSpec):
        kind = subject.kind
        return f"The subject of this study is of kind {kind!r}: it reads no text."
    return None


def _fired(shelf: Shelf, group: Group, text: str) -> dict[str, Any]:
    with needs_train("Trying a text"):
        import torch

        from reseed.subjects.language.model import load_language_model

    database, folder = shelf.database, shelf.database.folder
    assert isinstance(folder, StudyFolder)
    study = folder.study
    site = group.label.partition(" · ")[0]
    subject = subject_beside(study.spec.subject, study.base)
    assert isinstance(subject, LanguageModelSpec)
    key = f"{study.folder} {site}"
    if key not in _LOADED:
        _LOADED.clear()
        _LOADED[key] = load_language_model(subject, [site])
    model = _LOADED[key]
    ids = model.tokenizer.encode([text])[0]
    cut, ids = len(ids) > _TOKENS, ids[:_TOKENS]
    if not ids:
        return {}
    first = [model.tokenizer.bos] if model.tokenizer.bos is not None else []
    with torch.inference_mode():
        rows = model.forward(torch.tensor([first + ids]))[site][0][len(first) :]
    runs = {run.id: run for run in study.runs}
    fired: list[dict[str, Any]] = []
    for run in group.runs:
        codes = runs[run].sae().encode(rows)
        most = codes.amax(dim=0)
        for latent in torch.nonzero(most > 0)[:, 0].tolist():
            fired.append(
                {"run": run, "latent": latent, "most": float(most[latent]),
                 "activations": codes[:, latent].tolist()}
            )  # fmt: skip
    return {
        "tokens": model.tokenizer.pieces(ids), "cut": cut, "rows": _ordered(database, group, fired),
        "fired": len(fired),
    }  # fmt: skip


def _ordered(database: Database, group: Group, fired: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those found in most runs first, of them those that fire most for what they do at most."""
    there = [
        name for name in ("n_matched", "n_seeds", "max_act", "verdict") if name in database.columns
    ]
    known: dict[tuple[str, int], dict[str, Any]] = {}
    for run in group.runs:
        numbers = ", ".join(str(row["latent"]) for row in fired if row["run"] == run)
        if not numbers:
            continue
        rows = database.rows(
            f"SELECT run, latent, firing_rate, {', '.join(there)} FROM latents "
            f"WHERE run = ? AND latent IN ({numbers})",
            [run],
        )
        known |= {(row["run"], row["latent"]): row for row in rows}
    out = [known.get((row["run"], row["latent"]), {}) | row for row in fired]
    for row in out:
        row["share"] = row["most"] / row["max_act"] if row.get("max_act") else 0.0
    out.sort(key=lambda row: (-(row.get("n_matched") or 0), -row["share"], row["latent"]))
    return out[:_LISTED]
