"""The commands about SAEs that are already there; each a few lines around its door."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from reseed.errors import SpecError

if TYPE_CHECKING:
    from reseed.comparison.result import Comparison


SourceArg = Annotated[
    str,
    typer.Argument(help="File, folder, or hf:OWNER/REPO/PATH@REVISION.", metavar="SRC"),
]

FormatOpt = Annotated[
    str | None, typer.Option("--format", help="Format of the source, where several fit.")
]

InnerOpt = Annotated[
    str | None, typer.Option("--inner", help="Which SAE, where the source holds several.")
]

ReadOpt = Annotated[
    list[str] | None,
    typer.Option("--read", help="Further choice of the format read, NAME=VALUE, e.g. k=50."),
]


def architectures() -> None:
    """List what can be trained, as written in `[[sae]] architecture = "NAME"`, with its source."""
    from reseed.sae.architectures.names import ARCHITECTURES

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, spec in ARCHITECTURES.items():
        table.add_row(name, escape((spec.__doc__ or "").partition("\n")[0]))
    Console().print(table)


def inspect(
    source: SourceArg,
    format: FormatOpt = None,
    inner: InnerOpt = None,
    read: ReadOpt = None,
) -> None:
    """Say what an SAE is: its format, sizes and rule, what was folded, what looks wrong."""
    from reseed.formats import read as reading
    from reseed.formats.facts import facts, warnings

    sae = reading.read(source, format=format, inner=inner, **_choices(read))
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, text in facts(sae):
        table.add_row(name, escape(text))
    console = Console()
    console.print(table)
    for one in warnings(sae):
        console.print(f"[yellow]![/yellow] {escape(one)}", highlight=False)


def convert(
    source: SourceArg,
    target: Annotated[Path, typer.Argument(help="Folder or file to write.", metavar="DST")],
    to: Annotated[str, typer.Option("--to", help="Format to write.", metavar="FORMAT")],
    format: FormatOpt = None,
    inner: InnerOpt = None,
    read: ReadOpt = None,
    write: Annotated[
        list[str] | None,
        typer.Option("--write", help="Further choice of the format written, e.g. layer=6."),
    ] = None,
) -> None:
    """Write an SAE in another format; what that format cannot express is refused."""
    from reseed.formats import read as reading

    sae = reading.read(source, format=format, inner=inner, **_choices(read))
    reading.write(target, sae, to, **_choices(write))
    Console().print(f"Written: {target} ({to}, {len(sae.W_enc):,} latents)", soft_wrap=True)


def _choices(given: Sequence[str] | None) -> dict[str, Any]:
    """NAME=VALUE pairs; a value that is JSON (a number, true) is read as such."""
    out: dict[str, Any] = {}
    for one in given or ():
        name, sign, value = one.partition("=")
        if not sign or not name.isidentifier():
            raise SpecError(f"{one!r} is not NAME=VALUE, e.g. k=50")
        try:
            out[name] = json.loads(value)
        except ValueError:
            out[name] = value
    return out


def compare(
    saes: Annotated[
        list[str],
        typer.Argument(help="Two or more: folders, files or hf:owner/repo/path.", metavar="A B"),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the results; else compare-A-B here.")
    ] = None,
    names: Annotated[str | None, typer.Option(help="Of the SAEs, with commas between.")] = None,
    tau: Annotated[float, typer.Option(help="Cosine from which on a latent is shared.")] = 0.7,
    draws: Annotated[
        int | None, typer.Option(help="Random pairs for each pair; else 3, or 1 for wide SAEs.")
    ] = None,
    activations: Annotated[
        list[str] | None,
        typer.Option(
            help="Rows to run the SAEs on: .npy, file.safetensors#key, or a study's folder#site; "
            "once, or once for each SAE."
        ),
    ] = None,
    align: Annotated[
        str | None, typer.Option(help="'procrustes': SAEs of different subjects.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Language model that makes the rows.")] = None,
    text: Annotated[str | None, typer.Option(help="What it reads.")] = None,
    template: Annotated[str, typer.Option(help="How a record becomes a document.")] = "{text}",
    site: Annotated[str | None, typer.Option(help="Where, e.g. layers.6.mlp.")] = None,
    tokens: Annotated[int, typer.Option(help="How many rows it makes.")] = 20_000,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Compare SAEs that anybody trained: which latents of one are in the other?"""
    from reseed.comparison.dictionary import short_names
    from reseed.comparison.stage import REPORT
    from reseed.comparison.stage import compare as compare_saes

    chosen = names.split(",") if names else short_names(saes)
    folder = out or Path("-".join(["compare", *chosen]))
    rows: Any = activations[0] if activations and len(activations) == 1 else activations
    if model or text or site:
        if rows:
            raise SpecError("give --activations, or --model, --text and --site; not both")
        made = {"model": model, "text": text, "site": site, "template": template, "tokens": tokens}
        rows = {key: value for key, value in made.items() if value is not None}
    if align not in (None, "procrustes"):
        raise SpecError(f"--align {align!r}: only 'procrustes' is known")
    found = compare_saes(
        *saes,
        names=chosen,
        tau=tau,
        null_draws=draws,
        activations=rows,
        align=align,  # pyright: ignore[reportArgumentType]
        out=folder,
        progress=not quiet,
    )
    console = Console()
    _show_comparison(console, found)
    console.print(f"\nReport: [bold]{folder / REPORT}[/bold]", soft_wrap=True)


def _show_comparison(console: Console, found: Comparison) -> None:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for head in ("A", "B", "A's shared", "B's shared", "chance", "at FDR 5 %", "PW-MCC", "proven"):
        table.add_column(head, justify="left" if head in "AB" else "right", overflow="fold")
    for one in found.pairs:
        shared, mcc = one.numbers["shared"], one.numbers["pw_mcc"]
        fdr = one.numbers["match_at_fdr"]
        proven = sum(view["optimal"] for view in one.certificates.values())
        table.add_row(
            one.a,
            one.b,
            f"{shared['a']:.1%}",
            f"{shared['b']:.1%}",
            f"{shared['null']['mean']:.1%}",
            f"{fdr['a']:.1%} / {fdr['b']:.1%}",
            f"{mcc['value']:.3f} ({mcc['null']['mean']:.3f})",
            f"{proven} of {len(one.certificates)}",
        )
    console.print(table)
    over = found.summary["over_pairs"]["shared"]
    if over["interval_95"] is None:
        words = "two SAEs are one pair: there is no interval over trainings"
    else:
        low, high = (f"{100 * min(max(end, 0.0), 1.0):.1f}" for end in over["interval_95"])
        words = f"all pairs: {over['value']:.1%} shared (95 % {low} to {high}, unit: the SAE)"
    console.print(
        f"shared: same counterpart by encoder and decoder, both cosines at least "
        f"{found.summary['tau']:g}; chance: random dictionaries of the same covariance; {words}.",
        style="dim",
    )
    for warning in found.warnings:
        console.print(f"[yellow]![/yellow] {escape(warning)}", highlight=False)
