"""The commands about a study."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

import reseed.cli.tables as tables
from reseed.cli.options import (
    DeviceName,
    EngineFile,
    OutPath,
    Quiet,
    StudyPath,
    load_study,
    open_study,
    words,
)
from reseed.errors import SpecError
from reseed.screen import Screen, bold

if TYPE_CHECKING:
    from reseed.runs import Run
    from reseed.spec.new_study import Kind


def init(
    out: Annotated[Path, typer.Option(help="The TOML file to write.")] = Path("study.toml"),
    subject: Annotated[
        str | None, typer.Option(help="language_model, module, arrays or toy.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A model; package.module:function or file.py:function; or a .npy file."),
    ] = None,
    text: Annotated[str | None, typer.Option(help="Text that a language model reads.")] = None,
    sites: Annotated[
        str | None, typer.Option(help="Where to read, separated by commas: layers.6.mlp.")
    ] = None,
    architecture: Annotated[str, typer.Option(help="See `reseed architectures`.")] = "topk",
    latents: Annotated[
        int | None, typer.Option(help="Width.", show_default="1024, or 64 for the toy")
    ] = None,
    k: Annotated[
        int | None,
        typer.Option(help="Latents that fire at a time.", show_default="32, or 3 for the toy"),
    ] = None,
    seeds: Annotated[int, typer.Option(help="How many init seeds.", min=1, max=1000)] = 3,
    tokens: Annotated[
        int | None,
        typer.Option(help="Read and trained on.", show_default="1000000, or 128000 for the toy"),
    ] = None,
) -> None:
    """Write a commented study to begin with; what is needed and not given is asked for.

    A file that is there is never overwritten.
    """
    from reseed.spec.new_study import KINDS, NewStudy, new_study
    from reseed.store import write_bytes

    if out.exists():
        raise SpecError(f"{out} is there already; choose another name with --out")
    subject = subject or _ask("--subject", f"What is studied ({', '.join(KINDS)})", KINDS[0])
    if subject != "toy":
        model = model or _ask("--model", "Model, factory or file of the array")
    if subject == "language_model":
        text = text or _ask("--text", "Text: a file, a folder, package:NAME/path, datasets:NAME")
    if subject in ("language_model", "module"):
        sites = sites or _ask("--sites", "Sites, e.g. layers.6.mlp (`reseed sites MODEL`)")
    choices = NewStudy(
        kind=cast("Kind", subject), model=model, text=text, sites=tuple(words(sites) or ()),
        architecture=architecture, latents=latents, k=k, seeds=seeds, tokens=tokens,
        folder=out.parent,
    )  # fmt: skip
    write_bytes(out, new_study(choices).encode())
    Screen().print("Written: ", bold(out), f"; next: reseed plan {out}", sep="", soft_wrap=True)


def _ask(flag: str, question: str, default: str | None = None) -> str:
    if not sys.stdin.isatty():
        raise SpecError(f"{flag} is needed, since there is nobody to ask: {question}")
    return str(typer.prompt(question, default=default))


def keys(
    table: Annotated[
        str | None, typer.Argument(help="One table, e.g. training.", show_default="all tables")
    ] = None,
) -> None:
    """List every key that a study can have, as Markdown."""
    from reseed.spec.keys import keys

    Screen().print(keys(table), soft_wrap=True)


def run(
    study: StudyPath,
    out: OutPath = None,
    quiet: Quiet = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Train the runs that failed once more.")
    ] = False,
    device: DeviceName = "cpu",
    on: Annotated[
        str | None,
        typer.Option(help="Make parts in other processes: local, slurm or ray.", metavar="ENGINE"),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Parts at a time.", min=1)] = None,
    gpus: Annotated[
        int | None, typer.Option("--gpus-per-worker", help="GPUs of each part.", min=0)
    ] = None,
    partition: Annotated[str | None, typer.Option(help="Of Slurm.")] = None,
    mixed: Annotated[
        bool, typer.Option("--mixed", help="Accept runs of one group from unlike machines.")
    ] = False,
    engine: EngineFile = None,
) -> None:
    """Train, match and judge the SAEs of a study, and write its report.

    Stop it whenever you like: the same command continues where it was.
    """
    from reseed.cluster.engine import read_engine
    from reseed.pipeline.run import run

    opened, console = load_study(study, out), Screen()
    options = {"on": on, "workers": workers, "gpus": gpus, "partition": partition}
    elsewhere = any(value is not None for value in (on, workers, gpus, partition, engine))
    settings = read_engine(engine, **options) if elsewhere else None
    outcome = run(
        opened,
        progress=not quiet,
        retry_failed=retry_failed,
        device=device,
        engine=settings,
        mixed=mixed,
    )
    tables.show_summary(console, opened.summary)
    _end(console, "Report: ", outcome.report, outcome.seconds, outcome.failed)


def plan(
    study: StudyPath,
    out: OutPath = None,
    workers: Annotated[
        int | None, typer.Option(help="Say what so many workers would take.", min=1)
    ] = None,
    engine: EngineFile = None,
) -> None:
    """Show what `run` would take (time, disk, memory), and what its results could show.

    The time is measured by a short probe; nothing is trained.
    """
    import reseed.cli.progress as progress
    from reseed.pipeline.plan import plan

    opened, console = load_study(study, out), Screen()
    planned = plan(opened, progress=True)
    console.print(progress.plan(planned, opened.folder.name))
    done = planned.runs - planned.missing - planned.failed
    console.print(f"runs: {done} done, {planned.missing} missing, {planned.failed} failed")
    if planned.missing:
        console.print(f"activations: {planned.choice.keep}, because {planned.choice.reason}")
    console.print(
        f"memory: about {planned.memory / 1e9:.1f} GB at the most; "
        f"free disk: {planned.free_disk / 1e9:.0f} GB"
    )
    if workers is not None or engine is not None:
        from reseed.cluster.engine import read_engine
        from reseed.pipeline.fan_out import estimate, too_large_for_one_gpu

        settings = read_engine(engine, workers=workers)
        hours, worker_hours, cost = estimate(planned, settings)
        price = "" if cost is None else f", {cost:,.2f} at {settings.price:g} an hour"
        console.print(
            f"on {settings.workers} workers: about {tables.duration(3600 * hours)}; "
            f"{worker_hours:.2g} worker-hours{price}"
        )
        if line := too_large_for_one_gpu(opened, settings):
            console.print(line, soft_wrap=True)
    console.print("what it will be able to tell:")
    for line in planned.tells:
        console.print(f"  {line}")
    tables.warn(console, planned.warnings)


def status(study: StudyPath, out: OutPath = None) -> None:
    """Show how far runs and stages are, with the time left, and why runs failed."""
    import reseed.cli.progress as progress
    from reseed.pipeline.progress import run_states, stages
    from reseed.store import workers
    from reseed.study import REPORT_FILE

    opened, console = open_study(study, out), Screen()
    opened.check_folder()
    console.print(progress.states(run_states(opened)))
    console.print(progress.stages(stages(opened)))
    known = [worker for worker in workers(opened.folder) if "part" in worker.about]
    if known:
        console.print(progress.at_work(known))
    holder = opened.store.holder()
    shared = sum(worker.alive for worker in known)
    someone = f"{shared} processes that share it" if shared else "nobody"
    console.print(f"working now: {holder or someone}", soft_wrap=True)
    page = opened.folder / REPORT_FILE
    console.print(f"report: {page if page.exists() else 'not yet'}", soft_wrap=True)


def report(study: StudyPath, out: OutPath = None) -> None:
    """Write the report again from the results that are there. Needs no torch."""
    from reseed.pipeline.run import rewrite_report

    page = rewrite_report(open_study(study, out))
    Screen().print(f"Report: {page}", soft_wrap=True)


def sites(
    subject: Annotated[
        str,
        typer.Argument(
            help="Hub name, local folder, GGUF file, package:NAME/x.gguf, a study's TOML file, or "
            "net.py:build, a function that gives (module, batches)."
        ),
    ],
    pattern: Annotated[
        str, typer.Argument(help="Show only sites like this, e.g. 'layers.*.mlp'.")
    ] = "**",
) -> None:
    """List the sites of a subject, as they are written in `activations.sites`."""
    import reseed.spec.subject as specs

    is_study = subject.endswith(".toml")
    if is_study:
        study = load_study(subject)
        spec = specs.subject_beside(study.spec.subject, study.base)
    elif specs.is_file_factory(subject):
        spec = specs.ModuleSpec(kind="module", factory=subject)
    else:
        spec = specs.LanguageModelSpec(model=subject)
        inside = specs.is_hub_name(subject) or subject.startswith("package:")
        if not inside and not Path(subject).expanduser().exists():
            raise SpecError(
                f"{subject} is not there. Give a folder, a .gguf file, package:NAME/file.gguf, the "
                "name of a model on the hub, a study's TOML file, or file.py:function."
            )
    from reseed.subjects.subject import known_sites

    for site in known_sites(spec, pattern, lambda line: typer.echo(line, err=True)):
        Screen().print(site, soft_wrap=True)


def calibrate(
    what: Annotated[
        str,
        typer.Argument(
            help="A preset (small, laptop, large, full), or a study of the toy: TOML or folder.",
            metavar="PRESET|STUDY",
        ),
    ] = "laptop",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the results.", show_default="calibration-PRESET, or as for run"
        ),
    ] = None,
    quiet: Quiet = False,
    toml: Annotated[
        bool, typer.Option("--toml", help="Only print the TOML, to change it or to plan with it.")
    ] = False,
) -> None:
    """Train SAEs on known features, and measure how well recurrence tells which ones are real.

    Stop it whenever you like: the same command continues where it was.
    """
    from reseed.pipeline.known_features import calibrate, open_calibration
    from reseed.study import SPEC_FILE

    if toml:
        typer.echo(open_calibration(what, out).beside[SPEC_FILE], nl=False)
        return
    console = Screen()
    calibration = calibrate(what, out=out, progress=not quiet)
    tables.show_calibration(console, calibration.summary)
    _end(console, "Page: ", calibration.report, calibration.seconds, calibration.failed)


def _end(console: Screen, what: str, page: Path, seconds: float, failed: "list[Run]") -> None:
    """Name the page, and the runs that failed with their reasons."""
    from reseed.runs import Failed

    console.print(f"\n{what}", bold(page, f"  ({seconds:.0f} s)"), sep="", soft_wrap=True)
    for run in failed:
        reason = run.state.reason if isinstance(run.state, Failed) else run.state.state
        console.print(f"failed: {run.id}: {reason}", soft_wrap=True)
    raise typer.Exit(1 if failed else 0)


COMMANDS = (init, keys, run, plan, status, report, sites, calibrate)
"""In the order of the help."""
