"""The commands of a study that many processes share."""

from __future__ import annotations

from typing import Annotated

import typer

from reseed.cli.options import OutPath, Quiet, StudyPath
from reseed.errors import BusyError
from reseed.screen import Screen
from reseed.study import Study


def work(
    study: StudyPath,
    out: OutPath = None,
    stage: Annotated[
        str | None, typer.Option(help="One stage alone.", show_default="all, and the page")
    ] = None,
    share: Annotated[
        str, typer.Option(help="Which of how many processes this is, e.g. 3/16.")
    ] = "1/1",
    minutes: Annotated[
        float | None, typer.Option(help="Save and end after this time.", min=0.01)
    ] = None,
    part: Annotated[str | None, typer.Option(hidden=True)] = None,
    ranks: Annotated[int, typer.Option(hidden=True)] = 1,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, auto.")] = "cpu",
    quiet: Quiet = False,
) -> None:
    """Make what is missing of a study until nothing is left; start it as often as you like.

    For schedulers that reseed does not know, and for none: all processes need is to see the folder.
    """
    from reseed.pipeline.parts import make_part, read_share
    from reseed.pipeline.work import work

    opened = Study.load(study, out)
    if part is not None:
        make_part(str(opened.folder), part, device, ranks)
        return
    done = work(
        opened,
        stage=stage,
        share=read_share(share),
        minutes=minutes,
        device=device,
        progress=not quiet,
    )
    if not done:
        Screen().print("The time is up and all is saved; the same command continues.")


def cancel(study: StudyPath, out: OutPath = None) -> None:
    """Ask every process that works at a study, on any machine, to save and to end."""
    from reseed.pipeline.work import cancel

    left = cancel(Study.load(study, out))
    if left:
        raise BusyError(f"still there after two minutes: {', '.join(left)}")
    Screen().print("Nobody works at it any more; `reseed run` continues.")


COMMANDS = (work, cancel)
