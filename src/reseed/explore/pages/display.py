"""How strongly the latents of a feature fire, and which tokens their decoder rows make likely."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from reseed.evidence.display.logits import ABOUT
from reseed.evidence.display.logits import FILE as LOGITS
from reseed.evidence.display.strengths import FILE as STRENGTHS
from reseed.evidence.display.strengths import bin_edges
from reseed.explore.pages.features import members_of
from reseed.explore.shelf import Query, Shelf
from reseed.explore.tables.database import Database
from reseed.explore.tables.of_study import StudyFolder
from reseed.runs import evidence_name, logits_name
from reseed.spec.subject import LanguageModelSpec

Member = tuple[str, int]


def display_view(query: Query, shelf: Shelf) -> dict[str, Any]:
    """Of each latent of the feature, in the order of its page."""
    database = shelf.database
    members = list(members_of(database, str(query["_run"]), int(query["_latent"])))
    strengths = _table(database, members, evidence_name, STRENGTHS)
    logits = _table(database, members, logits_name, LOGITS)
    bars = {member: _bars(row["first"], row["counts"]) for member, row in strengths.items()}
    ends = [edge for found in bars.values() for edge in (found[0]["low"], found[-1]["high"])]
    return {
        "members": [
            {
                "run": member[0],
                "latent": member[1],
                "bars": bars.get(member),
                "logits": logits.get(member) if logits.get(member, {}).get("top") else None,
            }
            for member in members
        ],
        "range": (min(ends), max(ends)) if ends else None,
        "why_no_strengths": _why_no_strengths(database, members),
        "why_no_logits": _why_no_logits(database, members),
        "norm": _about(database, members).get("norm"),
        "names": database.names(),
    }


def _table(
    database: Database, members: Sequence[Member], piece: Callable[[str], str], file: str
) -> dict[Member, dict[str, Any]]:
    """The rows of these latents in a table of each run."""
    folder = database.folder
    parts = [
        f"SELECT {at} AS at, * FROM {folder.source(piece(run), file)} WHERE latent = {latent:d}"
        for at, (run, latent) in enumerate(members)
        if folder.has(piece(run), file)
    ]
    rows = database.rows(" UNION ALL ".join(parts)) if parts else []
    return {members[row["at"]]: row for row in rows}


def _bars(first: int, counts: Sequence[int]) -> list[dict[str, float]]:
    edges, most = bin_edges(first, len(counts)), max(counts)
    return [
        {"low": float(low), "high": float(high), "count": count, "part": count / most}
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]


def _about(database: Database, members: Sequence[Member]) -> dict[str, Any]:
    """What the logits of the first of these runs are."""
    folder, piece = database.folder, logits_name(members[0][0])
    return folder.store.document(piece, ABOUT) if folder.has(piece, ABOUT) else {}


def _why_no_strengths(database: Database, members: Sequence[Member]) -> str | None:
    if not isinstance(database.folder, StudyFolder):
        return "The folder of a comparison keeps no histograms of activations."
    if database.folder.has(evidence_name(members[0][0]), STRENGTHS):
        return None
    return (
        "This study was made before histograms of activations were kept; `reseed run` makes them."
    )


def _why_no_logits(database: Database, members: Sequence[Member]) -> str | None:
    folder = database.folder
    if not isinstance(folder, StudyFolder):
        return "The folder of a comparison keeps no logits."
    if folder.has(logits_name(members[0][0]), LOGITS):
        why = _about(database, members)["why"]
        return f"No logits: {why}." if why else None
    subject = folder.study.spec.subject
    if not isinstance(subject, LanguageModelSpec):
        return f"No logits: the subject is of kind {subject.kind!r} and has no vocabulary."
    return "This study was made before logits were kept; `reseed run` makes them."
