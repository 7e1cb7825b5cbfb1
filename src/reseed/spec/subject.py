"""What a study says about its subject and its text. Read without torch."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    field_serializer,
    model_serializer,
    model_validator,
)

from reseed.records import Spec

PRECISION = "activations/precision"
"""Piece that says what another format than float32 changed; only where the subject has one."""

RandomWeights = Annotated[int, Field(ge=0)] | None


class _Optional(Spec):
    """Some settings are written, and so are part of digests, only where they are set."""

    optional: ClassVar[frozenset[str]] = frozenset({"random_weights"})

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        return {
            name: value
            for name, value in handler(self).items()
            if name not in self.optional or value != fields[name].default
        }


class LanguageModelSpec(_Optional):
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


class ModuleSpec(_Optional):
    """Any torch module, made by a function of yours: `factory() -> (module, batches)`."""

    kind: Literal["module"]
    factory: str
    """`package.module:function`; `batches` is a sequence of inputs, each a tensor or a dict."""
    random_weights: RandomWeights = None
    """Seed of random weights in place of those that the function gives; left out, those."""


class ArraysSpec(Spec):
    """Activations that are already stored; each array is a site, rows are tokens or samples."""

    kind: Literal["arrays"]
    paths: dict[str, str]
    """Site name to a `.npy` file `[N, D]`, or `file.safetensors#key`; all have the same N."""
    block: Annotated[int, Field(ge=1)] = 256
    """Neighbouring rows that are kept together when the order is shuffled."""


class ToySpec(_Optional):
    """A subject whose features are known: sparse sums of fixed directions."""

    optional: ClassVar[frozenset[str]] = frozenset(
        {"factors", "factor_share", "roots", "children", "depth", "subspaces", "rank"}
        | {"draw", "pools", "decay", "magnitude"}
    )

    kind: Literal["toy"]
    features: Annotated[int, Field(ge=1)] = 512
    """G, how many features there are."""
    dimensions: Annotated[int, Field(ge=2)] = 64
    """D, in how many dimensions they live."""
    active: Annotated[float, Field(gt=0)] = 8.0
    """Features that fire on average in one sample."""
    zipf: Annotated[float, Field(ge=0)] = 0.5
    """Firing probability of the i-th feature falls as i^-zipf; 0 is equal firing."""
    correlation: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Of the Gaussian copula inside a group: features of a group fire together."""
    group: Annotated[int, Field(ge=1)] = 1
    """Features in a group; 1 for independent features."""
    hierarchy: bool = False
    """Whether the first feature of a group is the parent without which the others are silent."""
    factors: Annotated[int, Field(ge=0)] = 0
    """Rank of a Gaussian copula through which all features but children fire together; 0: none."""
    factor_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the variance of each feature's level that the factors make."""
    roots: Annotated[int, Field(ge=0)] = 0
    """Features at the top of a tree; 0: no trees. A child fires only with its parent."""
    children: Annotated[int, Field(ge=1)] = 4
    """Of each feature of a tree that is not at the bottom."""
    depth: Annotated[int, Field(ge=1)] = 3
    """Levels of a tree below its root."""
    subspaces: Annotated[int, Field(ge=0)] = 0
    """Planted features of several dimensions, each `rank` of the features: they fire together,
    in a direction that is uniform in their subspace."""
    rank: Annotated[int, Field(ge=2)] = 2
    """Dimensions of each planted subspace."""
    draw: Literal["copula", "exactly"] = "copula"
    """`copula`: each feature fires by its own probability. `exactly`: a sample picks one of `pools`
    and draws `active` features of it without replacement (arXiv 2411.01220, 2505.20254); then
    `zipf` says nothing."""
    pools: Annotated[int, Field(ge=1)] = 1
    """With `exactly`: equal shares of the features, of which each sample uses one."""
    decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """With `exactly`: the i-th feature of a pool is drawn with probability proportional to
    decay^i."""
    magnitude: Literal["normal", "uniform"] = "normal"
    """How strongly a feature fires: max(0.1, 1 + 0.25 normal), or uniform in (0, 1)."""
    noise: Annotated[float, Field(ge=0)] = 0.01
    """Standard deviation of isotropic noise, each dimension."""
    seed: int = 0
    """Of the features and of the samples."""
    block: Annotated[int, Field(ge=1)] = 256
    """Samples made at a time."""

    @model_validator(mode="after")
    def _possible(self) -> ToySpec:
        if self.active > self.features:
            raise ValueError(f"active = {self.active:g} is above features = {self.features}")
        if self.group > self.features:
            raise ValueError(f"group = {self.group} is above features = {self.features}")
        if self.structured:
            self._check_structure()
        self._check_draw()
        return self

    @property
    def structured(self) -> bool:
        """Whether features have factors, trees or planted subspaces."""
        return self.factors > 0 or self.roots > 0 or self.subspaces > 0

    @property
    def tree_features(self) -> int:
        """Features that belong to trees."""
        return self.roots * sum(self.children**level for level in range(self.depth + 1))

    def _check_draw(self) -> None:
        if self.draw == "copula":
            if self.pools > 1 or self.decay < 1:
                raise ValueError('pools and decay go with draw = "exactly"; set it or leave them')
            return
        if self.structured or self.group > 1 or self.correlation > 0 or self.hierarchy:
            raise ValueError('draw = "exactly" has pools and no other structure; leave that out')
        least = self.features // self.pools
        if self.active != round(self.active) or self.active > least:
            raise ValueError(
                f"active = {self.active:g} features are drawn from a pool of {least} without "
                "replacement; it must be a whole number of at most that"
            )

    def _check_structure(self) -> None:
        if self.group > 1 or self.correlation > 0 or self.hierarchy:
            raise ValueError(
                "group, correlation and hierarchy do not go with factors, roots or subspaces; "
                "take one of the two kinds of structure"
            )
        if self.rank > self.dimensions:
            raise ValueError(f"rank = {self.rank} is above dimensions = {self.dimensions}")
        trees, planted = self.tree_features, self.subspaces * self.rank
        if trees + planted > self.features:
            raise ValueError(
                f"{trees} features in trees and {planted} in subspaces are more than features = "
                f"{self.features}"
            )


SubjectSpec = Annotated[
    LanguageModelSpec | ModuleSpec | ArraysSpec | ToySpec, Field(discriminator="kind")
]


class TextSpec(_Optional):
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
    there = any(part and os.path.exists(base / part) for part in (path, path.rpartition("#")[0]))
    if not there and re.search(r"[*?]", path):
        pattern = path.replace("[", "[[]")
        there = next(glob.iglob(pattern, root_dir=base, recursive=True), None) is not None
    return str(base / path) if there else path


def subject_beside(subject: SubjectSpec, base: Path | None) -> SubjectSpec:
    """A subject whose files are looked for beside a study's TOML first."""
    if isinstance(subject, LanguageModelSpec):
        return subject.model_copy(update={"model": beside(subject.model, base)})
    if isinstance(subject, ArraysSpec):
        paths = {site: beside(path, base) for site, path in subject.paths.items()}
        return subject.model_copy(update={"paths": paths})
    return subject


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
