"""The command line: a few lines around each door."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from reseed.cli.interpretation import explain, score, select
from reseed.cli.products import consensus, export, predict
from reseed.cli.saes import architectures, compare, convert, inspect
from reseed.errors import ReseedError, SpecError, StoreError, extra_missing
from reseed.study import Study

app = typer.Typer(
    name="reseed",
    help="Which features of a sparse autoencoder come back when it is trained again, "
    "and which belong to the random seed?",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 done, 1 a run failed, 2 cannot be done as written, 3 the study folder "
    "is busy, damaged, full or another study's, 130 or 143 stopped by a signal (run again).",
)

StudyPath = Annotated[
    Path,
    typer.Argument(help="The study's TOML file, or the folder of its results.", metavar="STUDY"),
]

OutPath = Annotated[
    Path | None,
    typer.Option("--out", help="Folder for the results; else the TOML's name without ending."),
]

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]


@app.command()
def run(
    study: StudyPath,
    out: OutPath = None,
    quiet: Quiet = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try again runs that ended in NaN.")
    ] = False,
    device: Annotated[
        str, typer.Option(help="Where to compute: cpu, cuda, or auto for a GPU if there is one.")
    ] = "cpu",
) -> None:
    """Make everything of a study that is not there yet, and its report.

    Stop it whenever you like: the same command continues where it was.
    """
    from reseed.events import Stop
    from reseed.pipeline.doors import events_of
    from reseed.pipeline.run import run_study

    opened = Study.load(study, out)
    with Stop().listening() as stop:
        events = events_of(opened, progress=not quiet)
        command = f"reseed run {study}"
        outcome = run_study(
            opened, events, stop, command=command, retry_failed=retry_failed, device=device
        )
    console = Console()
    show_summary(console, opened.summary)
    console.print(
        f"\nReport: [bold]{outcome.report}[/bold]  ({outcome.seconds:.0f} s)", soft_wrap=True
    )
    if outcome.failed:
        for failed in outcome.failed:
            console.print(f"failed: {failed.id}: {failed.state.reason}", soft_wrap=True)  # pyright: ignore
        raise typer.Exit(1)


@app.command()
def plan(study: StudyPath, out: OutPath = None) -> None:
    """Say what `run` would do: tokens, time (by a probe), disk, memory, and what it can tell."""
    from reseed.pipeline.doors import events_of
    from reseed.pipeline.plan import make_plan

    opened = Study.load(study, out)
    found = make_plan(opened, events_of(opened, progress=True))
    table = Table(box=box.SIMPLE_HEAD, title=f"plan of {opened.folder.name}", title_justify="left")
    for name, justify in (
        ("stage", "left"),
        ("what", "left"),
        ("time", "right"),
        ("disk", "right"),
    ):
        table.add_column(name, justify=justify)  # pyright: ignore[reportArgumentType]
    for stage in found.stages:
        disk = f"{stage.disk / 1e6:,.0f} MB" if stage.disk else "–"
        table.add_row(stage.name, stage.what, duration(stage.seconds), disk)
    table.add_section()
    table.add_row("all", "", duration(found.seconds), f"{found.disk / 1e6:,.0f} MB")
    console = Console()
    console.print(table)
    done = found.runs - found.missing - found.failed
    console.print(f"runs: {done} done, {found.missing} missing, {found.failed} failed")
    if found.missing:
        console.print(f"activations: {found.choice.keep}, because {found.choice.reason}")
    console.print(
        f"memory: about {found.memory / 1e9:.1f} GB at the most; "
        f"free disk: {found.free_disk / 1e9:.0f} GB"
    )
    console.print("what it will be able to tell:")
    for line in found.tells:
        console.print(f"  {line}", highlight=False)


@app.command()
def status(study: StudyPath, out: OutPath = None) -> None:
    """Say which runs are done, under way, missing or failed and why."""
    from reseed.runs import Failed, Missing

    opened = Study.load(study, out)
    opened.check_folder()
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("run", "state", ""):
        table.add_column(name, overflow="fold")
    for one in opened.runs:
        note = ""
        if isinstance(one.state, Failed):
            note = f"step {one.state.step}: {one.state.reason}"
        elif isinstance(one.state, Missing) and one.state.tokens_done:
            note = f"{one.state.tokens_done:,} of {one.spec.training.tokens:,} tokens"
        table.add_row(one.id, one.state.state, note)
    console = Console()
    console.print(table)
    report_file = opened.folder / "report.html"
    console.print(f"report: {report_file if report_file.exists() else 'not yet'}", soft_wrap=True)


@app.command()
def report(study: StudyPath, out: OutPath = None) -> None:
    """Write the report page anew from what is in the store. Needs no torch."""
    from reseed.pipeline.run import REPORT, SUMMARY
    from reseed.report.study.page import write_report

    opened = Study.load(study, out)
    opened.check_folder()
    if not opened.store.path(SUMMARY).exists():
        raise StoreError(f"{opened.folder} has no results yet; `reseed run` makes them")
    with opened.store.lock("reseed report"):
        write_report(opened.store, REPORT)
    Console().print(f"Report: {opened.folder / REPORT}", soft_wrap=True)


@app.command()
def sites(
    subject: Annotated[
        str,
        typer.Argument(
            help="Hub name, local folder, GGUF file, `package:NAME/x.gguf`, or a study's TOML file."
        ),
    ],
    pattern: Annotated[
        str, typer.Argument(help="Only sites like this, e.g. 'layers.*.mlp'.")
    ] = "**",
) -> None:
    """List where a subject can be read, as written in `activations.sites`."""
    from reseed.subjects.opening import known_sites

    if subject.endswith(".toml"):
        spec = Study.load(subject).spec.subject
    else:
        from reseed.spec.subject import LanguageModelSpec

        spec = LanguageModelSpec(model=subject)
    for site in known_sites(spec, pattern):
        typer.echo(site)


for command in (
    compare, inspect, convert, architectures, consensus, predict, export, explain, score, select,
):  # fmt: skip
    app.command()(command)


@app.command()
def calibrate(
    what: Annotated[
        str,
        typer.Argument(
            help="A preset (small, laptop, large, full), or a study of the toy: TOML or folder.",
            metavar="[PRESET|STUDY]",
        ),
    ] = "laptop",
    out: OutPath = None,
    quiet: Quiet = False,
    toml: Annotated[
        bool, typer.Option("--toml", help="Print the TOML, to change or to plan; do nothing.")
    ] = False,
) -> None:
    """Train on known features and say how well "found by N of M runs" tells them.

    Stop it whenever you like: the same command continues where it was.
    """
    from reseed.events import Stop
    from reseed.pipeline.doors import events_of
    from reseed.pipeline.known_features import calibrate_study, open_calibration, show_calibration

    study = open_calibration(what, out)
    if toml:
        typer.echo(study.source, nl=False)
        return
    with Stop().listening() as stop:
        events = events_of(study, progress=not quiet)
        found = calibrate_study(study, events, stop, command=f"reseed calibrate {what}")
    console = Console()
    show_calibration(console, found.summary)
    console.print(f"\nPage: [bold]{found.report}[/bold]  ({found.seconds:.0f} s)", soft_wrap=True)
    if found.failed:
        for failed in found.failed:
            console.print(f"failed: {failed.id}: {failed.state.reason}", soft_wrap=True)  # pyright: ignore
        raise typer.Exit(1)


def show_summary(console: Console, summary: dict[str, Any]) -> None:
    """The short table at the end of a run; fits 80 columns."""
    runs, training = summary["runs"], summary["training"]
    title = f"{summary['study']}: {len(runs['done'])} runs of {training['tokens']:,} tokens"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", padding=(0, 1, 0, 0))
    for head in ("", "live", "FVU", "shared (95 %)", "chance", "untrained", "FDR 5 %"):
        table.add_column(head, justify="right" if head else "left")
    for group in summary["groups"]:
        counts, fvu = group["counts"], group["reconstruction"]["fvu"]["mean"]
        live = sum(counts["live"]) / (counts["latents"] * counts["runs"])
        cells = _shared_cells(group.get("headline"))
        table.add_row(group["label"], f"{live:.0%}", f"{fvu:.3f}", *cells)
        for kind, control in group["controls"].items():
            if control["shared"] is not None:
                fvu = control["reconstruction"]["fvu"]["mean"]
                cells = _shared_cells({"shared": control["shared"], "match_at_fdr": {}})
                table.add_row(f"  {kind}", "", f"{fvu:.3f}", *cells, style="dim")
    console.print(table)
    found = next((g["headline"] for g in summary["groups"] if "headline" in g), None)
    if found is not None:
        console.print(
            "shared: latents with the same counterpart by encoder and decoder, both cosines at "
            f"least {found['tau']:g}, in another run; chance: random dictionaries of the same "
            f"covariance; a run against itself gives {found['ceiling_same_run']:.0%}; FDR 5 %: "
            "with a match that chance does not explain, whatever the cosine.",
            style="dim",
        )
    for group in summary["groups"]:
        for note in group["notes"]:
            console.print(f"[yellow]![/yellow] {group['label']}: {note}", highlight=False)


def _shared_cells(found: dict[str, Any] | None) -> Sequence[str]:
    if found is None:
        return ["–"] * 4
    shared, found_at = found["shared"]["all"], found["match_at_fdr"].get("all")
    low_high, null = shared["interval_95"], shared["null_covariance"]
    interval = "" if low_high is None else f" ({_clip(low_high[0])}–{_clip(low_high[1])})"
    return [
        f"{shared['value']:.1%}{interval}",
        "–" if null is None else f"{null['mean']:.1%}",
        f"{shared['null_untrained']:.1%}",
        "–" if found_at is None else f"{found_at['value']:.1%}",
    ]


def _clip(share: float) -> str:
    return f"{100 * min(max(share, 0.0), 1.0):.1f}"


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def main() -> None:
    """Entry point: turns errors into a message and an exit code."""
    try:
        app()
    except ReseedError as error:
        _complain(str(error))
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        message = extra_missing(error, "this")
        if message is None:
            raise
        _complain(message)
        sys.exit(SpecError.exit_code)


def _complain(message: str) -> None:
    text = f"[bold red]reseed:[/bold red] {escape(message)}"
    Console(stderr=True).print(text, soft_wrap=True, highlight=False)


if __name__ == "__main__":
    main()
