"""What is planned and how far it has come, as tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.table import Table

import reseed.cli.tables as tables
from reseed.runs import Damaged, Failed, Missing, Run

if TYPE_CHECKING:
    from reseed.pipeline.plan import Plan
    from reseed.pipeline.progress import StageProgress
    from reseed.store import Known


def plan(plan: Plan, name: str) -> Table:
    """The stages of a plan."""
    out = tables.table(("stage", "what", "time", "disk"), f"plan of {name}", left=("stage", "what"))
    for stage in plan.stages:
        disk = f"{stage.disk / 1e6:,.0f} MB" if stage.disk else "–"
        out.add_row(stage.name, stage.what, tables.duration(stage.seconds), disk)
    out.add_section()
    out.add_row("all", "", tables.duration(plan.seconds), f"{plan.disk / 1e6:,.0f} MB")
    return out


def states(runs: Iterable[tuple[Run, str]]) -> Table:
    """Runs and their states: done, under way, stopped, missing, or damaged or failed and why."""
    out = tables.table(heads := ("run", "state", ""), left=heads)
    for run, state in runs:
        note = ""
        if isinstance(run.state, Failed):
            note = f"step {run.state.step}: {run.state.reason}"
        elif isinstance(run.state, Damaged):
            note = run.state.reason
        elif isinstance(run.state, Missing) and run.state.tokens_done:
            note = f"{run.state.tokens_done:,} of {run.spec.training.tokens:,} tokens"
        out.add_row(run.id, state, note)
    return out


def stages(progress: Iterable[StageProgress]) -> Table:
    """How far the stages have come, what they took, and what is left of them."""
    heads = ("stage", "state", "done", "took", "rate", "left")
    out = tables.table(heads, left=heads[:2])
    total, known = 0.0, True
    for stage in progress:
        share = f"{stage.done:,.0f} of {stage.of:,.0f}"
        if stage.unit != "pieces":
            share = f"{stage.done / max(stage.of, 1):.0%} of {stage.of:,.0f} {stage.unit}"
        out.add_row(
            stage.name,
            stage.state,
            share,
            tables.duration(stage.seconds) if stage.seconds else "–",
            "–" if stage.rate is None else f"{stage.rate:.3g} {stage.rate_unit}/s",
            "–" if stage.left is None else tables.duration(stage.left),
        )
        total += stage.left or 0.0
        known = known and (stage.state == "done" or stage.left is not None)
    out.add_section()
    left = tables.duration(total) if total or known else "–"
    out.add_row("all", "", "", "", "", left if known or not total else f"> {left}")
    return out


def at_work(known: Iterable[Known]) -> Table:
    """The processes that share a study, where they are and what they make."""
    out = tables.table(heads := ("process", "host", "part", ""), left=heads)
    for worker in known:
        heard = (
            "" if worker.alive else f"silent for {tables.duration(worker.silent)}: taken for dead"
        )
        about = worker.about
        out.add_row(
            str(about.get("process")), str(about.get("host")), str(about.get("part")), heard
        )
    return out
