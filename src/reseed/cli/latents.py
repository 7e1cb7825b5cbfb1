"""The commands about the latents of finished studies."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import reseed.cli.tables as tables
from reseed.cli.options import (
    DeviceName,
    GroupName,
    OutPath,
    Overwrite,
    Quiet,
    StudyPath,
    open_study,
    words,
)
from reseed.errors import SpecError
from reseed.screen import Screen, bold

if TYPE_CHECKING:
    import polars as pl

    from reseed.study import Study


def consensus(
    study: StudyPath,
    out: OutPath = None,
    group: GroupName = None,
    least: Annotated[
        float | None,
        typer.Option(help="Smallest reproducibility of a family; 0.5 if --found-in is not given."),
    ] = None,
    found_in: Annotated[
        int | None, typer.Option(help="Smallest number of runs that have a family.")
    ] = None,
    k: Annotated[
        int | None, typer.Option(help="Latents that fire at a time; left out, that of the group.")
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(help="Tokens of the refit.", show_default="a quarter of a training"),
    ] = None,
    same_width: Annotated[
        bool, typer.Option(help="Whether to train one SAE of the same width for comparison.")
    ] = True,
    device: DeviceName = "cpu",
    quiet: Quiet = False,
) -> None:
    """Make one SAE of the families that come back, refit its encoder, and evaluate it.

    It is kept in the study's folder as `consensus/...`; run again, the command only shows it.
    """
    from reseed.consensus_sae.stage import consensus

    console = Screen()
    made = consensus(
        open_study(study, out), group=group, least=least, found_in=found_in, k=k, tokens=tokens,
        same_width=same_width, progress=not quiet, device=device,
    )  # fmt: skip
    about = made.about
    console.print(
        f"{about['families']:,} families ({tables.by_size(about['families_by_size'])}) among "
        f"{len(about['runs'])} runs of {about['group']}; rule: {about['rule']}",
    )
    console.print(tables.evaluation(made.evaluation))
    if about["same_width_missing"] is not None:
        console.print(f"same width: none, {about['same_width_missing']}")
    console.print("SAE: ", bold(made.path), sep="", soft_wrap=True)


def predict(
    studies: Annotated[
        list[Path],
        typer.Argument(help="Studies to learn from: TOML files or folders.", metavar="STUDY"),
    ],
    apply: Annotated[
        Path | None, typer.Option(help="Predict this instead: a study, or a table of latents.")
    ] = None,
    group: GroupName = None,
    out: Annotated[
        Path | None, typer.Option(help="File for the predictions: .parquet, .csv or .jsonl.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Predict the reproducibility of latents from what a single run shows. Needs no torch.

    A prediction from everything that a run shows is compared with one from the frequency of
    firing alone.
    """
    from reseed.prediction.export import check_target, write
    from reseed.prediction.predict import predict

    console = Screen()
    kind = None if out is None else check_target(out, overwrite=overwrite)
    target = None if apply is None else _target(apply)
    result = predict([open_study(path) for path in studies], target, group=group, progress=True)
    title = f"on held-out runs; learned from {result.runs} runs"
    console.print(tables.skill(result.skill, title))
    console.print(tables.each_feature(result.each))
    console.print(tables.reliability(result.reliability))
    if result.transfer is not None:
        console.print(tables.skill(result.transfer, "where it was applied"))
    console.print(result.says)
    if out is not None and kind is not None:
        write(result.latents, out, kind)
        console.print(f"{len(result.latents):,} latents: ", bold(out), sep="", soft_wrap=True)


def _target(path: Path) -> "Study | pl.DataFrame":
    import polars as pl

    readers = {".parquet": pl.read_parquet, ".csv": pl.read_csv, ".jsonl": pl.read_ndjson}
    if path.suffix not in readers or not path.is_file():
        return open_study(path)
    try:
        return readers[path.suffix](path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise SpecError(f"{path} cannot be read as a table: {error}") from error


def export(
    study: StudyPath,
    out: Annotated[Path, typer.Option(help="The file to write; a folder with --to or --json.")],
    to: Annotated[
        str | None,
        typer.Option(help="Write for others instead: neuronpedia, or circuit-tracer."),
    ] = None,
    json: Annotated[
        str | None, typer.Option(help="Write a record of each pair of runs instead: pw-mcc.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="How Neuronpedia calls the subject, e.g. gemma-2-2b.")
    ] = None,
    where: Annotated[
        str | None, typer.Option(help="A condition in SQL, e.g. 'alive AND n_matched >= 2'.")
    ] = None,
    group: GroupName = None,
    columns: Annotated[
        str | None, typer.Option(help="Columns to write, separated by commas.")
    ] = None,
    format: Annotated[
        str | None, typer.Option(help="parquet, csv or jsonl.", show_default="ending of the name")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a table with one row for each latent, all of them or some. Needs no torch.

    Or features for Neuronpedia or circuit-tracer, or records of how consistent runs are.
    """
    from reseed.prediction.export import export

    opened = open_study(study)
    if to is not None or json is not None:
        if to is not None and json is not None:
            raise SpecError("give --to or --json, not both")
        if where is not None or columns is not None or format is not None:
            raise SpecError(
                "--where, --columns and --format are of the table, not of --to or --json"
            )
        _export_to(opened, out, str(to or json), group, model, overwrite=overwrite)
        return
    written = export(
        opened, out, where=where, group=group, columns=words(columns), format=format,
        overwrite=overwrite,
    )  # fmt: skip
    every = sum(len(opened.latent_table(runs)) for runs in opened.groups_named(group))
    if where is not None and not len(written):
        warn = f"none of {every:,} latents fits {where!r}; the file has columns and no rows."
        tables.warn(Screen(stderr=True), [warn])
    Screen().print(
        f"{len(written):,} of {every:,} latents, {written.width} columns: ",
        bold(out),
        sep="",
        soft_wrap=True,
    )


def _export_to(
    study: "Study", out: Path, to: str, group: str | None, model: str | None, *, overwrite: bool
) -> None:
    from reseed.publish.export import export_to

    files, notes = export_to(study, out, to, group=group, model=model, overwrite=overwrite)
    tables.warn(Screen(stderr=True), notes)
    size = sum(path.stat().st_size for path in files)
    Screen().print(f"{len(files):,} files, {size:,} bytes: ", bold(out), sep="", soft_wrap=True)


def explain(
    study: StudyPath,
    out: OutPath = None,
    group: GroupName = None,
    dry: Annotated[
        bool, typer.Option("--dry", help="Only estimate what this and `score` would cost.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Have a language model explain latents that come back, and orphans.

    The study names the model. Its answers are kept: stop it whenever you like, the same command
    continues.
    """
    from reseed.events import events_of
    from reseed.interpretation.costs import estimate_costs, table
    from reseed.interpretation.results import chosen_groups, spec_of
    from reseed.interpretation.stage import explain
    from reseed.pipeline.run import rewrite_report

    opened, console = open_study(study, out), Screen()
    for runs in chosen_groups(opened, group):
        if dry:
            costs, says = estimate_costs(opened, runs, spec_of(opened))
            console.print(bold(runs.label, f": {says}"))
            console.print(table(costs))
            continue
        explained = explain(opened, events_of(opened.folder, not quiet), runs)
        console.print(bold(runs.label, f": {explained.says}"))
        console.print(tables.explanations(explained.table))
        if explained.gain is not None:
            console.print(explained.gain)
        tables.show_accounts(console, explained.accounts)
    if not dry:
        console.print(f"Report: {rewrite_report(opened)}", soft_wrap=True)


def score(
    study: StudyPath, out: OutPath = None, group: GroupName = None, quiet: Quiet = False
) -> None:
    """Score the explanations, and controls, on text that they were not made from.

    The question is whether latents that come back are easier to explain than orphans that fire as
    often.
    """
    from reseed.events import events_of
    from reseed.interpretation.results import chosen_groups
    from reseed.interpretation.stage import score
    from reseed.pipeline.run import rewrite_report

    opened, console = open_study(study, out), Screen()
    for runs in chosen_groups(opened, group):
        scored = score(opened, events_of(opened.folder, not quiet), runs)
        comparison = scored.comparison
        console.print(bold(runs.label))
        console.print(tables.scores(comparison["scorers"]))
        for scorer in comparison["scorers"]:
            console.print(scorer["says"])
        for says in comparison["unscored"]:
            console.print(says, style="yellow")
        if comparison["similarity"] is not None:
            console.print(comparison["similarity"]["says"])
        console.print(scored.functional["says"])
        tables.show_accounts(console, scored.accounts)
    console.print(f"Report: {rewrite_report(opened)}", soft_wrap=True)


def select(
    study: StudyPath,
    run: Annotated[str, typer.Option(help="Id of a finished run, or how it begins.")],
    task: Annotated[
        str, typer.Option(help="Label to tell from all others; * tells all labels apart.")
    ] = "*",
    k: Annotated[int, typer.Option(help="How many latents to choose at most.")] = 10,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Methods, separated by commas; llm-score, llm-rank and llm-sequential need "
            "explanations and a model.",
            show_default="those without a model",
        ),
    ] = None,
    out: OutPath = None,
    quiet: Quiet = False,
) -> None:
    """Choose latents for a labelled task by several methods, and compare probes on them."""
    from reseed.events import events_of
    from reseed.interpretation.select import stage

    opened, console = open_study(study, out), Screen()
    events = events_of(opened.folder, not quiet)
    result = stage.select(opened, events, _run_of(opened, run), task, k, words(methods))
    console.print(tables.selection(result))
    console.print(result.says)


def _run_of(study: "Study", begins: str) -> str:
    hits = [run.id for run in study.runs if run.id.startswith(begins)]
    if begins in hits:
        return begins
    if len(hits) != 1:
        known = ", ".join(run.id for run in study.runs)
        raise SpecError(f"--run {begins!r} fits {len(hits)} runs; give one of {known}")
    return hits[0]


COMMANDS = (consensus, predict, export, explain, score, select)
"""In the order of the help."""
