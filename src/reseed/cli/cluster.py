"""The commands of what several processes share: a study, and a cache of activations."""

from pathlib import Path
from typing import Annotated

import typer

from reseed.cli.options import DeviceName, OutPath, Quiet, StudyPath, load_study
from reseed.errors import BusyError
from reseed.screen import Screen


def work(
    study: StudyPath,
    out: OutPath = None,
    stage: Annotated[
        str | None,
        typer.Option(
            help="One stage alone; explain and score ask models.", show_default="all, and the page"
        ),
    ] = None,
    share: Annotated[
        str, typer.Option(help="Which of how many processes this is, e.g. 3/16.")
    ] = "1/1",
    minutes: Annotated[
        float | None, typer.Option(help="Save and end after this time.", min=0.01)
    ] = None,
    part: Annotated[str | None, typer.Option(hidden=True)] = None,
    ranks: Annotated[int, typer.Option(hidden=True)] = 1,
    device: DeviceName = "cpu",
    quiet: Quiet = False,
) -> None:
    """Make what is missing of a study until nothing is left; start it as often as you like.

    For schedulers that reseed does not know, and for none: all processes need is to see the folder.
    """
    from reseed.pipeline.parts import make_part, read_share
    from reseed.pipeline.work import work

    opened = load_study(study, out)
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
    """Ask every process that runs or works at a study, on any machine, to save and to end.

    One that explains, scores or does the like is named, and ends by Ctrl-C where it runs.
    """
    from reseed.pipeline.work import cancel

    left = cancel(load_study(study, out))
    if left:
        raise BusyError(f"still there: {', '.join(left)}")
    Screen().print("Nobody works at it any more; `reseed run` continues.")


def cache(
    folder: Annotated[Path, typer.Argument(help="What `activations.cache` of studies names.")],
    keep: Annotated[
        float | None,
        typer.Option(help="Delete what was longest unused until this many GB are left.", min=0),
    ] = None,
) -> None:
    """Show the activations that studies share, or make room.

    A study keeps its own links to what it has taken; nothing of it is lost.
    """
    from rich.table import Table

    from reseed.store.cache import entries, trim

    screen, there = Screen(), entries(folder)
    gone = [] if keep is None else trim(folder, keep * 1e9)
    table = Table("activations", "GB", "last used", box=None)
    for entry in there:
        read, sites = entry.about["subject"]["model"], ", ".join(entry.about["sites"])
        used = "deleted" if entry in gone else f"{entry.used:%Y-%m-%d %H:%M}"
        table.add_row(f"{read}, {sites}", f"{entry.bytes / 1e9:.2f}", used)
    screen.print(table if there else f"{folder} holds nothing yet.")


COMMANDS = (work, cancel, cache)
