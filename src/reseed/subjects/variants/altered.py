"""Doors to the variants of a study's subject: their activations, and how well they predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from reseed.errors import SpecError, SubjectError
from reseed.events import Events
from reseed.seeds import generator
from reseed.spec.subject import LanguageModelSpec, ModuleSpec, ToySpec, subject_beside
from reseed.spec.variants import (
    FactorySpec,
    GGUFSpec,
    Int4Spec,
    Int8Spec,
    PrunedSpec,
    RandomWeightsSpec,
    VariantSpec,
)
from reseed.study import SUBJECT, Study
from reseed.subjects.controls import randomise
from reseed.subjects.inputs import Inputs
from reseed.subjects.language.model import load_causal
from reseed.subjects.module import ModuleSource
from reseed.subjects.networks.factory import open_factory
from reseed.subjects.shards import rounded_source
from reseed.subjects.source import BlockSource
from reseed.subjects.subject import module_source
from reseed.subjects.toy import ToySource
from reseed.subjects.toy_truth import truth_of
from reseed.subjects.variants.language import LanguageVariants
from reseed.subjects.variants.rounding import round_weights


def check_variant(study: Study, variant: VariantSpec, events: Events) -> None:
    """Refuse a variant that the subject cannot have, before any work; weights are not read.

    Raises:
        SpecError, SubjectError: with a sentence.
    """
    if isinstance(study.spec.subject, LanguageModelSpec):
        LanguageVariants(study, events, "cpu").check(variant)


def open_variant(
    study: Study, variant: VariantSpec, events: Events, device: str = "cpu"
) -> BlockSource:
    """The activations of another version of the subject.

    Args:
        study: whose subject is altered.
        variant: one of `study.spec.variant`.
        events: progress of what is estimated first; it is kept in the piece `variants/LABEL`.
        device: where a language model computes.

    Returns:
        The sites of the study (joined ones among them), with the blocks and rows of its own source:
        row i is the same token or sample in both.

    Raises:
        SpecError: if the subject cannot have this variant.
        SubjectError: if the variant gives other sites or rows.
    """
    check_variant(study, variant, events)
    inputs, spec = Inputs(study, events, device), study.spec
    inputs.set_threads()
    subject = subject_beside(spec.subject, study.base)
    if isinstance(subject, LanguageModelSpec):
        source: BlockSource = LanguageVariants(study, events, device).source(variant, inputs)
    elif isinstance(subject, ToySpec):
        source = _toy(subject, variant, -(-spec.activations.tokens // subject.block))
    else:
        source = _module(study, variant, events)
    _check_sizes(study, variant, source, inputs)
    return inputs.as_used(rounded_source(source, spec.activations.dtype))


def variant_cross_entropy(
    study: Study,
    variant: VariantSpec | None,
    blocks: Sequence[int],
    events: Events,
    device: str = "cpu",
) -> NDArray[np.float64]:
    """How well another version of a language model predicts, block by block; None for the whole.

    Returns:
        [blocks] mean cross-entropy in nats of the tokens that follow the positions whose
        activations are used; NaN for a block without one.

    Raises:
        SpecError: if the subject is no language model.
        SubjectError: if it does not predict.
    """
    if not isinstance(study.spec.subject, LanguageModelSpec):
        raise SpecError(f"a subject of kind {study.spec.subject.kind!r} predicts no tokens")
    inputs = Inputs(study, events, device)
    inputs.set_threads()
    return LanguageVariants(study, events, device).cross_entropy(variant, blocks, inputs)


def predicts(study: Study) -> bool:
    """Whether the subject is a language model that predicts the next token; it is opened once."""
    subject = subject_beside(study.spec.subject, study.base)
    if not isinstance(subject, LanguageModelSpec) or subject.random_weights is not None:
        return False
    try:
        load_causal(subject)
    except SubjectError:  # no head, or one that sees what follows
        return False
    return True


def toy_features_left(subject: ToySpec, variant: PrunedSpec) -> NDArray[np.bool_]:
    """[G] which features of a toy are still there, with `round(share * G)` of them cut."""
    assert variant.share is not None
    left = np.ones(subject.features, np.bool_)
    order = generator("toy-cut", variant.seed).permutation(subject.features)
    left[order[: round(variant.share * subject.features)]] = False
    return left


def _toy(subject: ToySpec, variant: VariantSpec, blocks: int) -> ToySource:
    """The same coefficients and noise, with other directions or without some of them."""
    source = ToySource(subject, blocks)
    if isinstance(variant, PrunedSpec):
        left = toy_features_left(subject, variant)
        source.toy.features = source.toy.features * left[:, None].astype(np.float32)
    else:
        assert isinstance(variant, RandomWeightsSpec)
        draw = generator("toy-directions", subject.seed, variant.seed)
        seed = {"seed": int(draw.integers(2**31))}
        source.toy.features = truth_of(subject.model_copy(update=seed)).features
    return source


def _module(study: Study, variant: VariantSpec, events: Events) -> ModuleSource:
    """Another module, or an altered one, reading the inputs of the study."""
    subject, spec = subject_beside(study.spec.subject, study.base), study.spec
    assert isinstance(subject, ModuleSpec)
    network = open_factory(subject)
    if subject.random_weights is not None:
        randomise(network.module, subject.random_weights)
    if isinstance(variant, FactorySpec):
        other = subject.model_copy(update={"factory": variant.factory})
        named = subject_beside(other, study.base)
        assert isinstance(named, ModuleSpec)
        network = replace(network, module=open_factory(named).module)
    elif isinstance(variant, RandomWeightsSpec):
        randomise(network.module, variant.seed)
    else:
        assert isinstance(variant, Int8Spec | Int4Spec | GGUFSpec)
        round_weights(network.module, variant, subject.factory, events)
    return module_source(subject, network, spec.read, spec.activations.tokens, events)


def _check_sizes(study: Study, variant: VariantSpec, source: BlockSource, inputs: Inputs) -> None:
    sizes = study.store.document(SUBJECT, "subject.json")["read"]
    if dict(source.sites) != sizes:
        raise SubjectError(
            f"variant {variant.label!r} gives {dict(source.sites)}, but the subject {sizes}; sites "
            "must have the same names and sizes"
        )
    # the rows of a text are its own, whatever model reads it
    if isinstance(study.spec.subject, ModuleSpec):
        theirs = inputs.opened.source.rows
        if not np.array_equal(theirs, source.rows):
            raise SubjectError(
                f"variant {variant.label!r} gives {int(source.rows.sum()):,} rows, but the subject "
                f"{int(theirs.sum()):,}; its sites must have the same leading shape"
            )
