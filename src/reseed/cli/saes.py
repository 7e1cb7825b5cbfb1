"""The commands about SAEs that are already there."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import reseed.cli.tables as tables
from reseed.cli.options import Format, Inner, Overwrite, Quiet, Read, Source, words
from reseed.errors import SpecError
from reseed.screen import Screen, bold


def compare(
    saes: Annotated[
        list[str],
        typer.Argument(
            help="Two or more SAEs: folders, files or hf:OWNER/REPO/PATH.", metavar="SAE"
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results.", show_default="compare-A-B")
    ] = None,
    names: Annotated[
        str | None, typer.Option(help="Names of the SAEs, separated by commas.")
    ] = None,
    tau: Annotated[float, typer.Option(help="Cosine at which a latent counts as shared.")] = 0.7,
    draws: Annotated[
        int | None,
        typer.Option(help="Random pairs for each pair.", show_default="3, or 1 for wide SAEs"),
    ] = None,
    activations: Annotated[
        list[str] | None,
        typer.Option(
            help="Activations to run the SAEs on: x.npy, x.safetensors#KEY, or a study's "
            "FOLDER#SITE; give it once for all SAEs, or once for each."
        ),
    ] = None,
    align: Annotated[
        str | None, typer.Option(help="procrustes: turn SAEs of different subjects into one basis.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Language model that makes the activations instead.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="Text that the model reads.")] = None,
    template: Annotated[
        str, typer.Option(help="How a record of the text becomes a document.")
    ] = "{text}",
    site: Annotated[str | None, typer.Option(help="Site of the model, e.g. layers.6.mlp.")] = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            help="Tokens that the model reads, or rows of the activations that are used.",
            show_default="20,000 of a model, all rows",
        ),
    ] = None,
    block: Annotated[
        int | None,
        typer.Option(
            help="Tokens that the model reads at a time.", show_default="256, or all it takes"
        ),
    ] = None,
    read: Read = None,
    quiet: Quiet = False,
) -> None:
    """Compare SAEs that anybody trained: which latents of one are in the other?"""
    from reseed.comparison.dictionary import short_names
    from reseed.comparison.stage import REPORT, compare

    chosen = words(names) or short_names(saes)
    folder = out or Path(re.sub(r"[^\w.-]+", "_", "-".join(["compare", *chosen])))
    rows: Any = activations[0] if activations and len(activations) == 1 else activations
    if model or text or site:
        if rows:
            raise SpecError("give --activations, or --model, --text and --site; not both")
        made = {
            "model": model, "text": text, "site": site, "template": template, "block": block
        }  # fmt: skip
        rows = {key: value for key, value in made.items() if value is not None}
    if align not in (None, "procrustes"):
        raise SpecError(f"--align {align!r}: only 'procrustes' is known")
    result = compare(
        *saes, names=chosen, tau=tau, null_draws=draws, activations=rows, align=align, out=folder,
        tokens=tokens, read=_settings(read), progress=not quiet,
    )  # fmt: skip
    console = Screen()
    tables.show_comparison(console, result)
    console.print("\nReport: ", bold(folder / REPORT), sep="", soft_wrap=True)


def inspect(source: Source, format: Format = None, inner: Inner = None, read: Read = None) -> None:
    """Show what an SAE is: its format, sizes and activation rule, and what looks wrong."""
    from reseed.formats import facts
    from reseed.formats import read as formats

    sae = formats.read(source, format=format, inner=inner, **_settings(read))
    console = Screen()
    console.print(tables.facts(facts.facts(sae), style="dim"))
    tables.warn(console, facts.warnings(sae))


def convert(
    source: Source,
    target: Annotated[Path, typer.Argument(help="Folder or file to write.", metavar="TARGET")],
    to: Annotated[str, typer.Option(help="Format to write.", metavar="FORMAT")],
    format: Format = None,
    inner: Inner = None,
    read: Read = None,
    write: Annotated[
        list[str] | None, typer.Option(help="A setting for writing the format, e.g. layer=6.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write an SAE in another format; what that format cannot express is refused."""
    from reseed.formats import read as formats

    sae = formats.read(source, format=format, inner=inner, **_settings(read))
    formats.write(target, sae, to, overwrite=overwrite, **_settings(write))
    Screen().print(f"Written: {target} ({to}, {len(sae.W_enc):,} latents)", soft_wrap=True)


def _settings(pairs: Sequence[str] | None) -> dict[str, Any]:
    """NAME=VALUE pairs; a value that is JSON (a number, true) is read as such."""
    out: dict[str, Any] = {}
    for pair in pairs or ():
        name, sign, value = pair.partition("=")
        if not sign or not name.isidentifier():
            raise SpecError(f"{pair!r} is not NAME=VALUE, e.g. k=50")
        try:
            out[name] = json.loads(value)
        except ValueError:
            out[name] = value
    return out


def architectures() -> None:
    r"""List the architectures that can be trained, with their sources.

    Each stands as it is written in a study, \[\[sae]] architecture = "NAME".
    """
    from reseed.sae.architectures import ARCHITECTURES

    rows = [
        (name, (architecture.settings.__doc__ or "").partition("\n")[0])
        for name, architecture in ARCHITECTURES.items()
    ]
    Screen().print(tables.facts(rows, style="bold"))


COMMANDS = (compare, inspect, convert, architectures)
"""In the order of the help."""
