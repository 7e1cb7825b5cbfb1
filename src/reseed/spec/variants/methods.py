"""What a study says of other versions of its subject. Read without torch.

A variant is the subject with other weights: it reads the same text in the same blocks, and its
sites have the same names and sizes. It decides no run and no activation of the study, so a table
may be added to a finished study.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import Field, model_validator

from reseed.errors import nearest
from reseed.records import Spec
from reseed.spec.subject import (
    ArraysSpec,
    LanguageModelSpec,
    ModuleSpec,
    SubjectSpec,
    ToySpec,
)

_BY_GRADIENT = ("saap", "taylor_vector", "taylor_element")


class _Variant(Spec):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,59}$")] | None = None
    """How it is called; left out, by its method and what it goes by, e.g. `flap-0.1`."""

    @property
    def label(self) -> str:
        """Its name, fit for a folder."""
        return self.name or self._by_itself()

    def _by_itself(self) -> str:
        raise NotImplementedError


class PrunedSpec(_Variant):
    """Structures of layers are taken out: heads of attention, channels of MLPs.

    A head goes with all that belongs to it; of grouped queries, a key-value head with its query
    heads. Their weights are zero, which computes what removing them computes. A toy's structures
    are its features, and only `random` takes them out.

    `saap` (SAAP-style, after arXiv 2412.15127, its formula rebuilt) is the mean of the next two;
    `taylor_vector` and `taylor_element` come from gradients (LLM-Pruner, arXiv 2305.11627); `flap`
    (arXiv 2312.11983) is the variance of what a structure gives, and puts its mean back as a bias;
    `magnitude` is the root mean square of weights; `random` the null. All but the last and `flap`
    are measured by their mean within a layer and kind, and then compared across the model.
    """

    method: Literal["saap", "taylor_vector", "taylor_element", "flap", "magnitude", "random"]
    share: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of the parameters of all structures that are taken out; those of least importance."""
    equal_perplexity: str | None = None
    """Of `random`, in the place of `share`: the name of another variant; the share is found by
    bisection so that the cross-entropy of held-out text is the same."""
    protect: tuple[int, ...] = ()
    """Numbers of layers that stay whole; -1 is the last."""
    calibration_blocks: Annotated[int, Field(ge=2)] = 16
    """Blocks of the training part of the text that importance is estimated on; or, with
    `equal_perplexity`, the first held-out blocks, on which cross-entropy is measured."""
    fluctuation: bool = False
    """Of `saap`: divide importance by 1 + its standard deviation over blocks as a share of its
    mean, so that unsteady structures go first."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the blocks, and of the order of `random`."""

    @model_validator(mode="after")
    def _possible(self) -> PrunedSpec:
        if (self.share is None) == (self.equal_perplexity is None):
            raise ValueError(
                f"method {self.method!r} needs share, e.g. share = 0.1"
                + (", or equal_perplexity; one of the two" if self.method == "random" else "")
            )
        if self.equal_perplexity is not None and self.method != "random":
            raise ValueError(f'equal_perplexity goes with method = "random", not {self.method!r}')
        if self.fluctuation and self.method != "saap":
            raise ValueError(f'fluctuation goes with method = "saap", not {self.method!r}')
        return self

    @property
    def by_gradient(self) -> bool:
        """Whether importance comes from gradients of the predictions."""
        return self.method in _BY_GRADIENT

    def _by_itself(self) -> str:
        method = f"{self.method}{'-fluctuation' if self.fluctuation else ''}"
        of = f"{self.share:g}" if self.share is not None else f"as-{self.equal_perplexity}"
        return f"{method}-{of}"


class Int8Spec(_Variant):
    """Linear layers of the body in 8 bits, weights and inputs, as `subject.dtype = "int8"`."""

    method: Literal["int8"]

    def _by_itself(self) -> str:
        return self.method


class Int4Spec(_Variant):
    """Weights of linear layers of the body rounded to the nearest of 16 levels.

    They lie between the least and the largest weight of each group of neighbours in a row, 0 among
    them; embeddings and head stay as they are.
    """

    method: Literal["int4"]
    group: Annotated[int, Field(ge=32, le=128)] = 64
    """Weights in a group; the last of a row may have fewer."""

    def _by_itself(self) -> str:
        return f"int4-{self.group}"


class GGUFSpec(_Variant):
    """Weights of linear layers of the body rounded as a level of the GGUF format does.

    Layers whose rows are no multiple of its groups of 32 stay, and embeddings and head.
    """

    method: Literal["gguf"]
    level: Literal["Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"]

    def _by_itself(self) -> str:
        return f"gguf-{self.level}"


class CheckpointSpec(_Variant):
    """Another model of the same shape and vocabulary: trained further, or before that."""

    method: Literal["checkpoint"]
    model: str
    """As `subject.model`."""
    revision: str | None = None
    """Of a hub name."""

    def _by_itself(self) -> str:
        stem = PurePosixPath(self.model.replace("\\", "/")).name or "model"
        plain = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in stem)
        of = f"{plain}-{self.revision}" if self.revision else plain
        return f"checkpoint-{of}"[:60]


class RandomWeightsSpec(_Variant):
    """The subject with random weights, drawn as for a new training; a toy's directions anew."""

    method: Literal["random_weights"]
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the weights."""

    def _by_itself(self) -> str:
        return f"random_weights-{self.seed}"


class FactorySpec(_Variant):
    """Another module for a subject of kind `module`; it reads the batches of the study's own."""

    method: Literal["factory"]
    factory: str
    """`package.module:function`, as `subject.factory`; its sites have the same names and sizes."""

    def _by_itself(self) -> str:
        plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in self.factory)
        return f"factory-{plain.strip('-')}"[-60:].lstrip("-")


VariantSpec = Annotated[
    PrunedSpec | Int8Spec | Int4Spec | GGUFSpec | CheckpointSpec | RandomWeightsSpec | FactorySpec,
    Field(discriminator="method"),
]

_ROUNDED = ("int8", "int4", "gguf")

_OF_KIND: dict[type[Spec], tuple[str, ...]] = {
    LanguageModelSpec: (
        *(*_BY_GRADIENT, "flap", "magnitude", "random"),
        *(*_ROUNDED, "checkpoint", "random_weights"),
    ),
    ModuleSpec: (*_ROUNDED, "random_weights", "factory"),
    ToySpec: ("random", "random_weights"),
    ArraysSpec: (),
}
"""Methods that each kind of subject has."""


def check_variants(subject: SubjectSpec, variants: Sequence[VariantSpec]) -> None:
    """Refuse variants that this subject cannot have, and names that are given twice.

    Raises:
        ValueError: with a sentence.
    """
    known = _OF_KIND[type(subject)]
    labels = [variant.label for variant in variants]
    for variant in variants:
        if not known:
            raise ValueError(
                f"variant {variant.label!r}: activations that are stored have no weights to alter; "
                "store those of the other version too and compare two studies"
            )
        if variant.method not in known:
            raise ValueError(
                f"variant {variant.label!r}: a subject of kind {subject.kind!r} has no method "
                f"{variant.method!r}, but {', '.join(known)}"
            )
        if labels.count(variant.label) > 1:
            raise ValueError(
                f"two [[variant]] tables are called {variant.label!r}; give one a `name`"
            )
        if isinstance(variant, PrunedSpec):
            _check_pruned(subject, variant, variants)
        _check_weights(subject, variant)


def _check_pruned(
    subject: SubjectSpec, variant: PrunedSpec, variants: Sequence[VariantSpec]
) -> None:
    wanted = variant.equal_perplexity
    if wanted is not None:
        by_name = {other.label: other for other in variants if other is not variant}
        if wanted not in by_name:
            raise ValueError(
                f"variant {variant.label!r}: equal_perplexity names no other variant; "
                + nearest(wanted, by_name)
            )
        if getattr(by_name[wanted], "equal_perplexity", None) is not None:
            raise ValueError(
                f"variant {variant.label!r}: {wanted!r} has its share from a variant too; name "
                "that one"
            )
    reads = variant.by_gradient or wanted is not None
    if not reads and variant.method != "flap":
        return
    if not isinstance(subject, LanguageModelSpec):
        raise ValueError(f"variant {variant.label!r} reads a text; a {subject.kind} has none")
    if reads and subject.random_weights is not None:
        raise ValueError(f"variant {variant.label!r}: random weights predict nothing")


def _check_weights(subject: SubjectSpec, variant: VariantSpec) -> None:
    whole = variant.method in ("checkpoint", "random_weights", "factory")
    if isinstance(subject, LanguageModelSpec) and subject.dtype == "int8" and not whole:
        raise ValueError(
            f"variant {variant.label!r} alters weights, which subject.dtype = 'int8' has rounded "
            "already; take 'float32' for the subject"
        )
    random = getattr(subject, "random_weights", None)
    if variant.method == "random_weights" and random == getattr(variant, "seed", None):
        raise ValueError(f"variant {variant.label!r} is the subject itself; take another seed")
