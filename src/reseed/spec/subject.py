"""What a study says about its subject and its text. Read without torch."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_serializer, model_validator

from reseed.records import Spec
from reseed.spec.subjects.optional import OptionalSpec
from reseed.spec.subjects.toy import ToySpec

PRECISION = "activations/precision"
"""Piece that says what another format than float32 changed; only where the subject has one."""

RandomWeights = Annotated[int, Field(ge=0)] | None


class LanguageModelSpec(OptionalSpec):
    """A causal or masked language model in the transformers library."""

    kind: Literal["language_model"] = "language_model"
    model: str
    """A hub name, a local folder, a GGUF file, or `package:NAME/path/file.gguf`."""
    revision: str | None = None
    """Of a hub name."""
    dtype: Literal["float32", "bfloat16", "int8"] = "float32"
    """In which the subject computes; activations are handed on in float32. `int8`: products of
    linear layers only, on a processor. What it changes is measured and written down."""
    batch_blocks: Annotated[int, Field(ge=1)] = 8
    """Blocks of tokens in one forward pass."""
    random_weights: RandomWeights = None
    """Seed of random weights in place of the trained ones, drawn as for a new training, embeddings
    too; left out, the trained ones."""


Layout = Literal["features_last", "channels_first", "patches"]


class ModuleSpec(OptionalSpec):
    """Any torch module, made by a function of yours: `factory() -> (module, batches)`."""

    optional: ClassVar[frozenset[str]] = frozenset(
        {"random_weights", "layout", "positions", "rows"}
    )

    kind: Literal["module"]
    factory: str
    """`package.module:function`, or `file.py:function` with a path seen from this file. `batches`
    is a sequence of inputs, each a tensor, a tuple or a dict. It may give more:
    `(module, batches, show, labels)`; `show(sample)` is the picture of a sample, uint8 `[H, W, 3]`,
    `labels` has a word for each."""
    layout: Layout | dict[str, Layout] = "features_last"
    """Where the features of a site stand: `[B, ..., D]`, or `[B, D, ...]` as convolutions give them
    (`channels_first`), or `[B, tokens, D]` whose last tokens are a square of patches, of which
    class tokens are left out (`patches`). By pattern of sites:
    `layout = { "features.*" = "channels_first" }`; the first that fits counts."""
    positions: Annotated[int, Field(ge=1)] | None = None
    """Places drawn in the map of each sample, evenly and by seed, the same at all sites; left out,
    every place is a row."""
    rows: Literal["equal", "ragged"] = "equal"
    """`ragged`: samples may give different numbers of rows, as experts do that see a part of the
    tokens. They are counted in one more pass over the inputs."""
    random_weights: RandomWeights = None
    """Seed of random weights in place of those that the function gives; left out, those."""


class ArraysSpec(Spec):
    """Activations that are already stored; each array is a site, rows are tokens or samples."""

    kind: Literal["arrays"]
    paths: dict[str, str]
    """Site name to a `.npy` file `[N, D]`, or `file.safetensors#key`; all have the same N. Also a
    folder or a pattern of files of one kind, whose rows follow each other: `.npy`, `.pt` (a tensor,
    or `states` of a dict, as activault writes), `.parquet` and `.arrow` (columns `dim_0`, ... as
    BioNeMo writes, or a column of lists, as SAELens does); `#` names one of several columns."""
    block: Annotated[int, Field(ge=1)] = 256
    """Neighbouring rows that are kept together when the order is shuffled."""


SubjectSpec = Annotated[
    LanguageModelSpec | ModuleSpec | ArraysSpec | ToySpec, Field(discriminator="kind")
]


class TextSpec(OptionalSpec):
    """The documents, and how they become blocks of tokens."""

    optional: ClassVar[frozenset[str]] = frozenset({"special_tokens", "ids"})

    source: str
    """File, folder, glob, `package:NAME/path`, or `datasets:NAME[[:CONFIGURATION]:SPLIT]`. Files:
    `.txt`, `.md` (one document each), `.jsonl`, `.json` (a list or a mapping of records),
    `.parquet`; with token ids also `.npy` and `.safetensors`."""
    template: str = "{text}"
    """How a record becomes a document, e.g. `"{title}\\n{extract}"`."""
    special_tokens: Literal["text", "parse"] = "text"
    """What the spelling of a special token inside a document is: ordinary `text`, or that token
    (`parse`). A field that holds chat messages goes through the tokenizer's chat template, which
    needs `parse`."""
    ids: str | None = None
    """Field of a record (or array of a `.safetensors` file) that holds token ids; then nothing is
    tokenised and `template` is not used. A `.npy` file of ids needs no name."""
    label: str | None = None
    """Field of a record kept beside its document, for probing."""
    block: Annotated[int, Field(ge=2)] = 256
    """L, tokens in a block."""
    layout: Literal["packed", "padded"] = "packed"
    """`packed`: documents follow each other, blocks cut anywhere, attention crosses borders;
    `padded`: every block holds one document (or a part of one), filled up with padding."""
    bos: bool = True
    """Begin every block with the tokenizer's BOS token (EOS where it has no BOS)."""
    separator: bool = True
    """In `packed`: put the tokenizer's EOS token between documents."""
    exclude: frozenset[Literal["special", "first", "border"]] = frozenset({"special", "first"})
    """Positions whose activations are left out: `special` tokens (BOS, separators); the `first`
    position of a block, where language models park attention; the first token after a document
    `border`. Padding is always left out."""
    seed: int = 0
    """Order in which documents are packed; it fixes which ones are held out."""

    @model_validator(mode="after")
    def _parts_used(self) -> TextSpec:
        self.refuse_idle('layout = "packed"', self.layout == "packed", "separator")
        self.refuse_idle("text that has no ids yet", self.ids is None, "template", "special_tokens")
        return self

    @field_serializer("exclude")
    def _in_order(self, exclude: frozenset[str]) -> list[str]:
        return sorted(exclude)  # a set has no order, and digests are taken of what is written


def beside(path: str, base: Path | None) -> str:
    """A relative path that leads somewhere from a folder, as it is from there; others unchanged.

    Args:
        path: of a file or folder, with wildcards or `#key` behind; or another name of a subject.
        base: the folder, of a study's TOML; None to change nothing.
    """
    expanded = os.path.expanduser(path)
    if base is None or path.startswith(("package:", "datasets:")) or os.path.isabs(expanded):
        return path
    parts = [part for part in (path, path.rpartition("#")[0]) if part]
    there = any(os.path.exists(base / part) for part in parts)
    if not there and re.search(r"[*?]", path):
        patterns = [part.replace("[", "[[]") for part in parts]
        found = (next(glob.iglob(p, root_dir=base, recursive=True), None) for p in patterns)
        there = any(one is not None for one in found)
    return str(base / path) if there else path


def subject_beside(subject: SubjectSpec, base: Path | None) -> SubjectSpec:
    """A subject whose files are looked for beside a study's TOML first."""
    if isinstance(subject, LanguageModelSpec):
        return subject.model_copy(update={"model": beside(subject.model, base)})
    if isinstance(subject, ArraysSpec):
        paths = {site: beside(path, base) for site, path in subject.paths.items()}
        return subject.model_copy(update={"paths": paths})
    if isinstance(subject, ModuleSpec) and is_file_factory(subject.factory):
        file, _, function = subject.factory.rpartition(":")
        return subject.model_copy(update={"factory": f"{beside(file, base)}:{function}"})
    return subject


def is_file_factory(factory: str) -> bool:
    """Whether a subject's factory is a function of a file, `net.py:build`, and not of a package."""
    return factory.rpartition(":")[0].endswith(".py")


def is_hub_name(name: str) -> bool:
    """Whether a name may be `model` or `owner/model`; anything else is a path."""
    begins, ends = (".", "/", "~", "package:"), ("/", *_FILES)
    return name.count("/") <= 1 and not name.startswith(begins) and not name.endswith(ends)


_FILES = (".toml", ".py", ".json", ".jsonl", ".txt", ".npy", ".pt", ".bin", ".safetensors", ".gguf")
"""How names of files end, and none of a model on the hub: there is nothing to ask the hub for."""


def package_file(reference: str) -> Path:
    """The path behind `package:NAME/path`, without importing the package."""
    import importlib.util

    from reseed.errors import SpecError

    name, _, inner = reference.removeprefix("package:").partition("/")
    package = importlib.util.find_spec(name) if name.isidentifier() else None
    folders = list(package.submodule_search_locations or []) if package else []
    if not folders:
        raise SpecError(
            f"{reference}: no package {name!r} is installed here. Install it, for example "
            f"`pip install --no-deps {name.replace('_', '-')}`."
        )
    for folder in folders:
        if inner and (Path(folder) / inner).exists():
            return Path(folder) / inner
    raise SpecError(f"{reference}: the package lies in {folders[0]} but has no {inner!r}")
