"""A commented study to begin with."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from reseed.errors import SpecError, nearest
from reseed.sae.architectures import ARCHITECTURES
from reseed.spec.refusals import read_spec
from reseed.spec.study import StudySpec

Kind = Literal["language_model", "module", "arrays", "toy"]

KINDS: tuple[Kind, ...] = ("language_model", "module", "arrays", "toy")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewStudy:
    """What a new study is told; what is left out is the default."""

    kind: Kind
    model: str | None = None
    """a model, a factory, or the file of an array"""
    text: str | None = None
    sites: tuple[str, ...] = ()
    architecture: str = "topk"
    latents: int | None = None
    """1,024; 64 for the toy"""
    k: int | None = None
    """32; 3 for the toy"""
    seeds: int = 3
    tokens: int | None = None
    """a million; 128,000 for the toy"""
    folder: Path = Path()
    """that the study's file will lie in"""


_TOY = """\
kind = "toy"                 # sparse sums of known directions; no files needed
features = 64
dimensions = 32
active = 3.0                 # that fire at a time, on average"""
"""With the sizes below, most features come back within seconds."""


def new_study(choices: NewStudy) -> str:
    """The TOML of a study, checked to be one.

    Raises:
        SpecError: if something that is needed is missing, or cannot be.
    """
    subject, sites = _subject(choices)
    text = _text(choices, subject, sites)
    read_spec(StudySpec, tomllib.loads(text), "the new study")
    return text


def _subject(choices: NewStudy) -> tuple[str, tuple[str, ...]]:
    """Lines of the subject, and the sites."""
    if choices.kind not in KINDS:
        raise SpecError(f"subject {choices.kind!r}: {nearest(choices.kind, KINDS)}")
    if choices.kind == "toy":
        if choices.model or choices.sites not in ((), ("toy",)):
            raise SpecError("the toy is made of numbers; leave --model and --sites out")
        return _TOY, ("toy",)
    if not choices.model:
        what = {
            "language_model": "a hub name, a local folder, or a GGUF file",
            "module": "file.py:function, which gives (module, batches)",
            "arrays": "a .npy file [N, D], file.safetensors#key, or a folder of files",
        }[choices.kind]
        raise SpecError(f"a subject of kind {choices.kind!r} needs --model: {what}")
    model = _quoted(choices.model)
    if choices.kind == "arrays":
        site, *others = choices.sites or ("x",)
        if others:
            raise SpecError(
                f"--sites {','.join(choices.sites)}: {choices.model} is one array, and so one "
                "site; name one, and write the others with their files into paths of [subject]"
            )
        return f'kind = "arrays"\npaths = {{ {_quoted(site)} = {model} }}', (site,)
    if not choices.sites:
        raise SpecError(
            "--sites are needed, e.g. layers.6.mlp; `reseed sites MODEL` lists what there is"
        )
    if choices.kind == "module":
        return f'kind = "module"\nfactory = {model}', choices.sites
    return f"model = {model}", choices.sites


def _text(choices: NewStudy, subject: str, sites: tuple[str, ...]) -> str:
    if choices.architecture not in ARCHITECTURES:
        raise SpecError(
            f"architecture {choices.architecture!r}: {nearest(choices.architecture, ARCHITECTURES)}"
        )
    small = choices.kind == "toy"
    latents = _given(choices.latents, 64 if small else 1024)
    tokens = _given(choices.tokens, 128_000 if small else 1_000_000)
    different = min(tokens, _given(_rows(choices), tokens))
    k = _given(choices.k, min(latents, 3 if small else 32))
    fields = ARCHITECTURES[choices.architecture].settings.model_fields
    active = next((name for name in ("k", "target_l0") if name in fields), None)
    lines = {
        "architecture": choices.architecture,
        "latents": latents,
        **({} if active is None else {active: k}),
        **({"lr": 1e-2} if small and choices.architecture == "topk" else {}),
    }
    written = ", ".join(map(_quoted, sites))
    batch = 1024 if tokens >= 512_000 else max(2, min(256, tokens // 20))
    text = ""
    if choices.kind == "language_model":
        if not choices.text:
            raise SpecError(
                "a language model needs --text: a file, a folder, package:NAME/path or "
                "datasets:NAME"
            )
        text = (
            f"\n[text]\nsource = {_quoted(choices.text)}\n"
            '# template = "{text}"        # how a record becomes a document\n'
        )
    elif choices.text:
        raise SpecError(f"a subject of kind {choices.kind!r} reads no text; leave --text out")
    return (
        "# `reseed plan` says what it takes, `reseed run` makes it; `reseed keys` lists all keys.\n"
        f"\n[subject]\n{subject}\n{text}\n[activations]\nsites = [{written}]\n"
        f"tokens = {different:_}            # different ones; a tenth is held out\n"
        f"\n[[sae]]                       # one table for each SAE; `reseed architectures`\n"
        f"{_toml(lines)}\n"
        f"[seeds]\ninit = {list(range(choices.seeds))}             # three or more: intervals\n"
        f"\n[training]\ntokens = {tokens:_}            # that each run sees\n"
        f"batch = {batch}\n"
        + ("threads = 1                   # matrices this small gain nothing by more\n" * small)
    )


def _rows(choices: NewStudy) -> int | None:
    """Rows of an array that is there: no study reads more."""
    path = choices.folder / (choices.model or "")
    if choices.kind != "arrays" or path.suffix != ".npy" or not path.is_file():
        return None
    import numpy as np

    return len(np.load(path, mmap_mode="r"))


def _given(value: int | None, default: int) -> int:
    return default if value is None else value


def _quoted(text: str) -> str:
    """A text as TOML writes it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SpecError(f"{text!r} cannot be written into a TOML file ({error})") from error
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _toml(table: Mapping[str, Any]) -> str:
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in table.items())
