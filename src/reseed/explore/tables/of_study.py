"""The tables of a study, which may still be computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reseed.explore.tables.layout import Ask, Folder, numbered, quoted, text
from reseed.runs import (
    Done,
    Failed,
    Group,
    Missing,
    evidence_name,
    explanations_name,
    pair_name,
    scores_name,
    stability_name,
)
from reseed.study import Study


class StudyFolder(Folder):
    """The folder of a study."""

    def __init__(self, study: Study) -> None:
        super().__init__(study.folder, study.store)
        self.study = study
        self.tau = study.spec.matching.tau

    def groups(self) -> list[Group]:
        """Its finished runs."""
        return self.study.groups()

    def state(self, groups: Sequence[Group]) -> Any:
        """Of its runs, and of the pieces that are read."""
        kinds = (stability_name, explanations_name, scores_name)
        pieces = [name(group.name) for group in groups for name in kinds]
        pieces += [evidence_name(run) for group in groups for run in group.runs]
        return self.cards(pieces), {run.id: run.state for run in self.study.runs}

    def missing(self, groups: Sequence[Group]) -> list[str]:
        """Runs that are not finished or failed, groups that are not matched yet."""
        runs = self.study.runs
        done = sum(isinstance(run.state, Done) for run in runs)
        out: list[str] = []
        if any(isinstance(run.state, Missing) for run in runs):
            there = f"{done} of {len(runs)} runs are finished; this page shows what is there."
            out.append(f"{there} `reseed run` makes the rest, `reseed status` shows how far it is.")
        bare = [group for group in groups if not self.store.has(stability_name(group.name))]
        if bare:
            out.append(
                f"Not matched yet: {', '.join(group.label for group in bare)}. Until `reseed run` "
                "is through, only how often latents fire is known of them."
            )
        failed = [(run.id, run.state) for run in runs if isinstance(run.state, Failed)]
        return out + [f"{run} failed at step {s.step:,}: {s.reason}" for run, s in failed]

    def latents(self, groups: Sequence[Group]) -> list[str]:
        """The table of each group; where it is not there, how often the latents of a run fire."""
        out: list[str] = []
        for group in groups:
            label = f'{text(group.label)} AS "group"'
            if self.has(stability_name(group.name), "latents.parquet"):
                source = self.source(stability_name(group.name), "latents.parquet")
                out.append(f"SELECT {label}, * FROM {numbered(source, len(out))}")
                continue
            for run in group.runs:
                if self.has(evidence_name(run), "firing.parquet"):
                    source = self.source(evidence_name(run), "firing.parquet")
                    out.append(
                        f"SELECT {label}, {text(run)} AS run, latent, fired, rate AS firing_rate, "
                        "mean_act, max_act, rate > 0 AS alive, place "
                        f"FROM {numbered(source, len(out))}"
                    )
        return out

    def words(self, groups: Sequence[Group], ask: Ask) -> list[str]:
        """Of the groups that were explained."""
        return [
            self._words_of(group, ask)
            for group in groups
            if self.has(explanations_name(group.name), "explanations.parquet")
        ]

    def _words_of(self, group: Group, ask: Ask) -> str:
        piece, scored = explanations_name(group.name), scores_name(group.name)
        sql = (
            "SELECT DISTINCT ON (run, latent) run, latent, explanation FROM "
            f"{self.source(piece, 'explanations.parquet')}"
        )
        if not self.has(scored, "scores.parquet"):
            return sql
        scores = f"(SELECT * FROM {self.source(scored, 'scores.parquet')} WHERE control IS NULL)"
        scorers = sorted(row["scorer"] for row in ask(f"SELECT DISTINCT scorer FROM {scores}"))
        if not scorers:
            return sql
        values = ", ".join(
            f"max(value) FILTER (scorer = {text(name)}) AS {quoted('score_' + name)}"
            for name in scorers
        )
        table = f"(SELECT run, latent, {values} FROM {scores} GROUP BY ALL)"
        return f"SELECT * FROM ({sql}) LEFT JOIN {table} USING (run, latent)"

    def contexts(self, run: str) -> str | None:
        """Of the evidence of a run."""
        piece, file = evidence_name(run), "contexts.parquet"
        return self.source(piece, file) if self.has(piece, file) else None

    def crops(self, run: str) -> str | None:
        """Of the evidence of a run."""
        piece, files = evidence_name(run), ("crops.parquet", "pictures.parquet")
        if not all(self.has(piece, file) for file in files):
            return None
        places, pictures = (self.source(piece, file) for file in files)
        return f"(SELECT * FROM {places} AS a LEFT JOIN {pictures} AS b USING (sample))"

    def match(self, a: str, b: str) -> tuple[str, str] | None:
        """At the end of training."""
        for pair, side in (((a, b), "a"), ((b, a), "b")):
            if self.store.has(pair_name(pair)):
                steps = self.store.document(pair_name(pair), "certificates.json")
                return self.source(pair_name(pair), f"{max(map(int, steps)):08d}.parquet"), side
        return None

    def names(self, groups: Sequence[Group]) -> dict[str, str]:
        """By the seeds in which the runs of a group differ."""
        out: dict[str, str] = {}
        specs = {run.id: run.spec for run in self.study.runs}
        for group in groups:
            own = [specs[run] for run in group.runs]
            seeds = {kind: {getattr(spec, f"{kind}_seed") for spec in own} for kind in _SEEDS}
            kinds = [kind for kind in _SEEDS if len(seeds[kind]) > 1] or ["init"]
            for spec in own:
                named = (f"{kind} {getattr(spec, f'{kind}_seed')}" for kind in kinds)
                out[spec.id] = ", ".join(named)
        return out


_SEEDS = ("init", "data")
