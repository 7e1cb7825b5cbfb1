"""The command about other versions of a study's subject."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

import reseed.cli.tables as tables
from reseed.cli.options import DeviceName, GroupName, OutPath, Quiet, StudyPath, open_study, words
from reseed.screen import Screen, bold


def survive(
    study: StudyPath,
    out: OutPath = None,
    group: GroupName = None,
    retrain: Annotated[
        str | None,
        typer.Option(
            help="Variants, separated by commas, on which SAEs and crosscoders are trained too."
        ),
    ] = None,
    crosscoders: Annotated[
        str | None,
        typer.Option(help="Kinds beside the plain one: auxk, exclusive, delta; by commas."),
    ] = None,
    device: DeviceName = "cpu",
    quiet: Quiet = False,
) -> None:
    """Hold the features of a finished study against other versions of its subject.

    The study names them in its variant tables: pruned, quantised, trained further. Stop it whenever
    you like: the same command continues, and what is there is not made again.
    """
    from reseed.survival.stage import survive

    result = survive(
        open_study(study, out), group=group, retrain=words(retrain) or (),
        crosscoders=words(crosscoders) or (), progress=not quiet, device=device,
    )  # fmt: skip
    console, variants = Screen(), result.summary["variants"]
    for label in variants[0]["groups"]:
        heads = ("", "survive (95 %)", "shuffled", "untrained", "reproducible", "orphans", "AUROC")
        shown = tables.table(heads, label)
        for variant in variants:
            shown.add_row(variant["variant"], *_cells(variant["groups"][label]))
        console.print(shown)
    console.print(
        f"survive: r of at least {result.summary['survives']:g} between activations in the whole "
        "and in the variant, on the same tokens; AUROC: of being found by more runs, for survival, "
        "at like firing rate and activation.",
        style="dim",
    )
    console.print("Page: ", bold(result.page), sep="", soft_wrap=True)


def _cells(numbers: Mapping[str, Any]) -> list[str]:
    kinds, area = numbers["kinds"], numbers["auroc"] or {}
    shares = (numbers["survival"], numbers["null_shuffled"], numbers["untrained"])
    shares += tuple(kinds.get(kind, {}) for kind in ("reproducible", "orphan"))
    first, *others = shares
    ends = area.get("interval_95") or ()
    return [
        tables.number(first["value"], ".1%", *(first["interval_95"] or ())),
        *(tables.number(share.get("value"), ".1%") for share in others),
        tables.number(area.get("value"), ".3f", *ends),
    ]


COMMANDS = (survive,)
