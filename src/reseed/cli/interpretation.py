"""The commands that ask language models about latents; each a few lines around its door."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import polars as pl
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from reseed.errors import SpecError, StoreError
from reseed.study import Study

StudyPath = Annotated[
    Path,
    typer.Argument(help="The study's TOML file, or the folder of its results.", metavar="STUDY"),
]

OutPath = Annotated[
    Path | None,
    typer.Option("--out", help="Folder of the results; else the TOML's name without ending."),
]

GroupName = Annotated[
    str | None, typer.Option("--group", help="Label or name of one group of runs; else all.")
]

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]

_SHOWN = 8


def explain(
    study: StudyPath,
    out: OutPath = None,
    group: GroupName = None,
    dry: Annotated[
        bool, typer.Option("--dry", help="Say what it and `score` would ask; ask nothing.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Explain latents that come back and orphans in words, by the model that the study names.

    Whatever was asked before is remembered: stop it whenever you like, the same command continues.
    """
    from reseed.interpretation.costs import table
    from reseed.interpretation.estimate import foreseen
    from reseed.interpretation.results import chosen_groups, spec_of
    from reseed.interpretation.stage import explain_group
    from reseed.pipeline.doors import events_of

    opened, console = Study.load(study, out), Console()
    spec = spec_of(opened)
    for one in chosen_groups(opened, group):
        if dry:
            costs, says = foreseen(opened, spec, one)
            console.print(f"[bold]{one.label}[/bold]: {says}", highlight=False)
            console.print(table(costs), highlight=False)
            continue
        found = explain_group(
            opened, spec, one, events_of(opened, not quiet), command=f"reseed explain {study}"
        )
        console.print(f"[bold]{one.label}[/bold]: {found.says}", highlight=False)
        console.print(_explanations(found.table))
        if found.gain is not None:
            console.print(found.gain, highlight=False)
        _print_accounts(console, found.accounts)
    if not dry:
        _write_report(opened)


def score(
    study: StudyPath, out: OutPath = None, group: GroupName = None, quiet: Quiet = False
) -> None:
    """Score the explanations on text that they were not made from, beside controls.

    Asks whether latents that come back are easier to explain than orphans that fire as often.
    """
    from reseed.interpretation.results import chosen_groups, spec_of
    from reseed.interpretation.stage import score_group
    from reseed.pipeline.doors import events_of

    opened, console = Study.load(study, out), Console()
    spec = spec_of(opened)
    for one in chosen_groups(opened, group):
        events = events_of(opened, not quiet)
        found = score_group(opened, spec, one, events, command=f"reseed score {study}")
        console.print(f"[bold]{one.label}[/bold]", highlight=False)
        console.print(_scores(found.comparison))
        for scorer in found.comparison["scorers"]:
            console.print(scorer["says"], highlight=False)
        for says in found.comparison["unscored"]:
            console.print(says, style="yellow", markup=False, highlight=False)
        if found.comparison["similarity"] is not None:
            console.print(found.comparison["similarity"]["says"], highlight=False)
        console.print(found.functional["says"], highlight=False)
        _print_accounts(console, found.accounts)
    _write_report(opened)


def select(
    study: StudyPath,
    run: Annotated[str, typer.Option("--run", help="Id of a finished run, or its beginning.")],
    task: Annotated[
        str, typer.Option("--task", help="A label of the text against the others; * for all.")
    ] = "*",
    k: Annotated[int, typer.Option("--k", help="Latents to choose, at most.")] = 10,
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods",
            help="By commas; llm-score, llm-rank and llm-sequential need explanations and a model.",
        ),
    ] = None,
    out: OutPath = None,
    quiet: Quiet = False,
) -> None:
    """Choose latents for a labelled task in several ways, and probe with what was chosen."""
    from reseed.interpretation.stage import select_for_task
    from reseed.pipeline.doors import events_of

    opened = Study.load(study, out)
    found = select_for_task(
        opened,
        _run_of(opened, run),
        task,
        k,
        None if methods is None else [one.strip() for one in methods.split(",")],
        events_of(opened, not quiet),
    )
    console = Console()
    shown = Table(box=box.SIMPLE_HEAD, title=f"{found.task}: {found.run}", title_justify="left")
    for name in ("method", "k", "balanced accuracy (95 %)", "minus random"):
        shown.add_column(name, justify="left" if name == "method" else "right")
    for row in found.table().iter_rows(named=True):
        minus = row["minus_random"]
        shown.add_row(
            row["method"],
            str(row["k"]),
            _number(
                row["balanced_accuracy"], row["balanced_accuracy_lo"], row["balanced_accuracy_hi"]
            ),
            "–" if minus is None else f"{minus:+.3f}",
        )
    console.print(shown)
    console.print(found.says, highlight=False)


def _run_of(study: Study, begins: str) -> str:
    hits = [run.id for run in study.runs if run.id.startswith(begins)]
    if begins in hits:
        return begins
    if len(hits) != 1:
        known = ", ".join(run.id for run in study.runs)
        raise SpecError(f"--run {begins!r} fits {len(hits)} runs; give one of {known}")
    return hits[0]


def _explanations(table: pl.DataFrame) -> Table:
    shown = Table(box=box.SIMPLE_HEAD)
    for name in ("kind", "latent", "explanation"):
        shown.add_column(name, overflow="fold")
    for kind in table["kind"].unique(maintain_order=True):
        mine = table.filter(kind=kind)
        for row in mine.head(_SHOWN).iter_rows(named=True):
            failed = f"[dim]failed: {row['failure']}[/dim]"
            said = failed if row["explanation"] is None else _plain(row["explanation"])
            shown.add_row(kind, str(row["latent"]), said)
        if len(mine) > _SHOWN:
            shown.add_row(kind, "...", f"[dim]{len(mine) - _SHOWN} more[/dim]")
    return shown


def _plain(text: str) -> str:
    return text.replace("[", "\\[")


def _scores(comparison: Any) -> Table:
    shown = Table(box=box.SIMPLE_HEAD)
    heads = ("scorer", "reproducible", "partly", "orphan", "shuffled", "random", "chance", "failed")
    for name in heads:
        shown.add_column(name, justify="left" if name == "scorer" else "right")
    for one in comparison["scorers"]:
        kinds = {row["kind"]: row for row in one["kinds"]}
        cells = [
            _number(*(kinds[kind][part] for part in ("mean", "lo", "hi"))) if kind in kinds else "–"
            for kind in heads[1:4]
        ]
        beside = [one["controls"].get(name) for name in ("shuffled", "random")] + [one["chance"]]
        numbers = ["–" if value is None else f"{value:.3f}" for value in beside]
        shown.add_row(one["scorer"], *cells, *numbers, str(one["failed_questions"]))
    return shown


def _number(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if low is None else f"{value:.3f} ({low:.3f}–{high:.3f})"


def _print_accounts(console: Console, accounts: Any) -> None:
    for purpose, one in accounts.items():
        tokens = f"{one['prompt_tokens']:,} + {one['reply_tokens']:,} tokens"
        cost = f", cost {one['cost']:.4g}" if one["cost"] else ""
        console.print(
            f"{purpose}: {one['asked']:,} asked, {one['remembered']:,} remembered, "
            f"{one['failed']:,} failed, {tokens}{cost}",
            style="dim",
            highlight=False,
        )


def _write_report(study: Study) -> None:
    from reseed.pipeline.run import REPORT, SUMMARY
    from reseed.report.study.page import write_report

    if not study.store.path(SUMMARY).exists():
        raise StoreError(f"{study.folder} has no results yet; `reseed run` makes them")
    write_report(study.store, REPORT)
    Console().print(f"Report: {study.folder / REPORT}", soft_wrap=True)
