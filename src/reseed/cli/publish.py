"""The commands that take a study along."""

from pathlib import Path
from typing import Annotated

import typer

import reseed.cli.tables as tables
from reseed.cli.options import GroupName, OutPath, Quiet, StudyPath, open_study
from reseed.screen import Screen, bold


def push(
    study: StudyPath,
    to: Annotated[
        str, typer.Argument(help="The repository, hf:OWNER/NAME; made if it is not there.")
    ],
    out: OutPath = None,
    group: GroupName = None,
    layout: Annotated[
        str, typer.Option(help="Format of the SAEs: saelens, sparsify or reseed.")
    ] = "saelens",
    private: Annotated[bool, typer.Option(help="Whether a new repository is private.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list what would go; asks the hub nothing.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Send SAEs, latents, report and a model card to the Hugging Face hub.

    The token is that of the environment (HF_TOKEN) or of `hf auth login`. Stop it whenever you
    like: the same command continues where it was.
    """
    from reseed.publish.push import push

    sent = push(
        open_study(study, out), to, group=group, layout=layout, private=private, dry_run=dry_run,
        progress=not quiet,
    )  # fmt: skip
    console = Screen()
    for item in sent:
        kept = "  (is there already)" if item.already else ""
        console.print(f"{item.size:>14,}  {item.name}{kept}", soft_wrap=True)
    new = [item for item in sent if not item.already]
    size = f"{len(new):,} of {len(sent):,} files, {sum(item.size for item in new):,} bytes"
    console.print("would go: " if dry_run else "sent: ", bold(size), f" to {to}", sep="")


def demo(
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("quickstart"),
    quiet: Quiet = False,
) -> None:
    """Run the quickstart: three small SAEs on a language model, a few minutes on two cores.

    The study file comes with the package; model and text are two packages that are read as data.
    """
    from reseed.pipeline.demo import demo

    study, outcome = demo(out, progress=not quiet)
    console = Screen()
    tables.show_summary(console, study.summary)
    console.print(f"Study: {study.folder}", soft_wrap=True)
    console.print("Report: ", bold(outcome.report), sep="", soft_wrap=True)


COMMANDS = (push, demo)
"""In the order of the help."""
