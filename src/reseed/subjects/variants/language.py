"""The variants of a language model: its body or the whole of it, altered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from reseed.errors import SubjectError
from reseed.events import Events
from reseed.runs import variant_name
from reseed.seeds import digest, generator
from reseed.spec.subject import LanguageModelSpec, beside, subject_beside
from reseed.spec.variants import (
    CheckpointSpec,
    GGUFSpec,
    Int4Spec,
    Int8Spec,
    PrunedSpec,
    RandomWeightsSpec,
    VariantSpec,
)
from reseed.study import SUBJECT, Study
from reseed.subjects.controls import seeded
from reseed.subjects.inputs import Inputs
from reseed.subjects.language.activations import TextSource
from reseed.subjects.language.blocks import TokenBlocks
from reseed.subjects.language.linear import to_onednn
from reseed.subjects.language.loading import untrained
from reseed.subjects.language.model import (
    LanguageModel,
    body_without_weights,
    load_body,
    load_causal,
    load_tokenizer,
)
from reseed.subjects.shards import TOKENS
from reseed.subjects.variants.anatomy import StructureSet, check_by_a_pass, structures_of
from reseed.subjects.variants.checkpoint import check_same_shape
from reseed.subjects.variants.importance import (
    Given,
    Taylor,
    apart,
    by_fluctuation,
    by_gradient,
    by_magnitude,
    by_taylor,
    inputs_of_readers,
    scaled,
    together,
)
from reseed.subjects.variants.perplexity import (
    block_loss,
    cross_entropies,
    followed,
    match_cross_entropy,
)
from reseed.subjects.variants.removal import (
    Removal,
    apply_removal,
    choose,
    files_of,
    put_back,
    random_order,
    told,
)
from reseed.subjects.variants.rounding import round_weights

_FILE = "numbers.safetensors"


class LanguageVariants:
    """The variants that a study has of its language model; what is taken out is kept in its store.

    One model is in memory at a time.
    """

    def __init__(self, study: Study, events: Events, device: str) -> None:
        subject = subject_beside(study.spec.subject, study.base)
        assert isinstance(subject, LanguageModelSpec)
        self._study, self._events, self._device, self._subject = study, events, device, subject

    def check(self, variant: VariantSpec) -> None:
        """Refuse a variant that this model cannot have; weights are not read.

        Raises:
            SpecError: with the layer, shape or word that is in the way.
            SubjectError: if a checkpoint cannot be found.
        """
        name = self._subject.model
        if isinstance(variant, CheckpointSpec):
            check_same_shape(self._subject, self._spec_of(variant), variant.label)
        elif isinstance(variant, PrunedSpec):
            structures = structures_of(body_without_weights(self._subject), name)
            choose(structures, random_order(structures, 0), variant.share or 0.0, variant)

    def source(self, variant: VariantSpec, inputs: Inputs) -> TextSource:
        """The variant reading the blocks of the study."""
        sites = list(self._study.store.document(SUBJECT, "subject.json")["read"])
        removal = self._removal(variant, inputs)
        body = load_body(self._spec_of(variant), sites)
        self._alter(body, variant, removal)
        to_onednn(body)
        tokenizer, name = load_tokenizer(self._subject), f"{self._subject.model} ({variant.label})"
        model = LanguageModel(body.to(self._place(variant)), tokenizer, sites, name)
        return TextSource(
            model, TokenBlocks.open(self._study.store, TOKENS), self._subject.batch_blocks
        )

    def cross_entropy(
        self, variant: VariantSpec | None, blocks: Sequence[int], inputs: Inputs
    ) -> NDArray[np.float64]:
        """[blocks] nats; see `block_loss`."""
        if self._subject.random_weights is not None:
            raise SubjectError(f"{self._subject.model} with random weights predicts nothing")
        return cross_entropies(self._causal(variant, inputs), inputs.text, blocks, self._events)

    def _spec_of(self, variant: VariantSpec | None) -> LanguageModelSpec:
        change: dict[str, Any] = {}
        if isinstance(variant, CheckpointSpec):
            model = beside(variant.model, self._study.base)
            change = {"model": model, "revision": variant.revision, "random_weights": None}
        elif isinstance(variant, RandomWeightsSpec):
            change = {"random_weights": variant.seed}
        return self._subject.model_copy(update=change)

    def _causal(self, variant: VariantSpec | None, inputs: Inputs) -> nn.Module:
        """The whole model, with its head, altered."""
        spec, removal = self._spec_of(variant), self._removal(variant, inputs)
        model: Any = load_causal(spec.model_copy(update={"random_weights": None})).model
        model.requires_grad_(False)
        model.config.use_cache = False
        if spec.random_weights is not None:
            _randomise(model, spec, spec.random_weights)
        self._alter(model.base_model, variant, removal)
        return model.to(self._place(variant))

    def _place(self, variant: VariantSpec | None) -> str:
        """Where it computes: products of int8 on a processor."""
        return "cpu" if isinstance(variant, Int8Spec) else self._device

    def _alter(self, body: nn.Module, variant: VariantSpec | None, removal: Removal | None) -> None:
        if isinstance(variant, Int8Spec | Int4Spec | GGUFSpec):
            round_weights(body, variant, self._subject.model, self._events)
        elif removal is not None:
            apply_removal(body, structures_of(body, self._subject.model), removal)

    # -- what is taken out -------------------------------------------------------------------------

    def _removal(self, variant: VariantSpec | None, inputs: Inputs) -> Removal | None:
        """What is taken out for a variant, from the store if it is there; None for other kinds."""
        if not isinstance(variant, PrunedSpec):
            return None
        store, name = self._study.store, variant_name(variant.label)
        wanted = self._named(variant)
        made_from = [self._study.spec.data, [v.model_dump(mode="json") for v in wanted]]
        if store.make(name, made_from, lambda: files_of(self._chosen(variant, inputs))):
            about = store.document(name, "removed.json")
            kinds = ", ".join(f"{n:,} of {kind}" for kind, n in about["structures"].items())
            self._events.say(
                f"{variant.label}: {kinds} taken out, {about['share']:.4f} of all parameters of "
                "such structures"
            )
        about = store.document(name, "removed.json")
        taken = {key: np.array(which, np.int64) for key, which in about.pop("taken").items()}
        return Removal(taken, store.tensors(name, "bias.safetensors"), about)

    def _named(self, variant: PrunedSpec) -> list[VariantSpec]:
        """The variant, and the one whose perplexity it has."""
        same = variant.equal_perplexity
        return [variant, *(v for v in self._study.spec.variant if same and v.label == same)]

    def _chosen(self, variant: PrunedSpec, inputs: Inputs) -> Removal:
        if variant.equal_perplexity is not None:
            return self._as_bad_as(variant, inputs)
        assert variant.share is not None
        given: dict[str, Given] = {}
        if variant.by_gradient:
            taylor = self._taylor(variant, inputs)
            body = body_without_weights(self._subject)
            structures = structures_of(body, self._subject.model)
            scores = by_taylor(taylor, variant)
        else:
            body = self._body()
            structures = self._structures(body)
            if variant.method == "flap":
                given = self._given(body, structures, variant, inputs)
                scores = by_fluctuation(body, structures, given)
            elif variant.method == "magnitude":
                scores = scaled(by_magnitude(body, structures))
            else:
                scores = random_order(structures, variant.seed)
        taken = choose(structures, scores, variant.share, variant)
        bias = put_back(body, structures, taken, given) if given else {}
        return Removal(taken, bias, told(structures, taken))

    def _taylor(self, variant: PrunedSpec, inputs: Inputs) -> Taylor:
        """From gradients, which all shares of all methods by gradient have in common."""

        def write() -> dict[str, Any]:
            model: Any = self._causal(None, inputs)
            structures = self._structures(model.base_model)
            blocks = _drawn(inputs.split[0], inputs.text, variant)
            loss = partial(block_loss, model, inputs.text)
            taylor = by_gradient(model.base_model, structures, blocks, loss, self._events)
            return {_FILE: together(taylor._asdict())}

        return Taylor(**apart(self._kept("gradients", variant, write)))

    def _given(
        self,
        body: nn.Module,
        structures: Sequence[StructureSet],
        variant: PrunedSpec,
        inputs: Inputs,
    ) -> dict[str, Given]:
        """From forward passes, which all shares of `flap` have in common."""

        def write() -> dict[str, Any]:
            blocks = _drawn(inputs.split[0], inputs.text, variant)
            given = inputs_of_readers(body, structures, inputs.text, blocks, self._events)
            return {_FILE: together({key: one._asdict() for key, one in given.items()})}

        kept = apart(self._kept("inputs", variant, write))
        return {key: Given(**one) for key, one in kept.items()}

    def _kept(
        self, what: str, variant: PrunedSpec, write: Callable[[], dict[str, Any]]
    ) -> dict[str, NDArray[np.float64]]:
        """Arrays of a piece that belongs to the blocks that a variant is calibrated on."""
        of = [self._study.spec.data, variant.calibration_blocks, variant.seed]
        name = variant_name(f"_{what}-{digest(of, 8)}")
        self._study.store.make(name, of, write)
        return self._study.store.tensors(name, _FILE)

    def _body(self) -> nn.Module:
        body: Any = load_body(self._subject, ()).eval().requires_grad_(False)
        body.config.use_cache = False
        return body.to(self._device)

    def _structures(self, body: nn.Module) -> list[StructureSet]:
        """Those of the body, held to what it computes."""
        structures = structures_of(body, self._subject.model)
        check_by_a_pass(body, structures, self._subject.model)
        return structures

    def _as_bad_as(self, variant: PrunedSpec, inputs: Inputs) -> Removal:
        """Random removal with the cross-entropy of another variant on the same held-out blocks."""
        other = self._named(variant)[1]
        blocks = _predicted(inputs.split[1], inputs.text, variant)[: variant.calibration_blocks]
        goal = float(self.cross_entropy(other, blocks, inputs).mean())
        model: Any = self._causal(None, inputs)
        body: nn.Module = model.base_model
        structures = self._structures(body)

        def measure() -> float:
            return float(cross_entropies(model, inputs.text, blocks, self._events).mean())

        found = match_cross_entropy(body, structures, variant, goal, measure)
        about = {
            "goal": goal,
            "cross_entropy": found.cross_entropy,
            "whole": dict(found.tried)[0.0],
            "tried": found.tried,
            "blocks": blocks,
        }
        return Removal(found.taken, {}, told(structures, found.taken) | {"equal": about})


def _drawn(blocks: NDArray[np.int64], text: TokenBlocks, variant: PrunedSpec) -> list[int]:
    """Some of these blocks, by the seed of a variant."""
    there = _predicted(blocks, text, variant)
    draw = generator("calibration-blocks", variant.seed)
    size = min(len(there), variant.calibration_blocks)
    return sorted(draw.choice(there, size, replace=False).tolist())


def _predicted(blocks: NDArray[np.int64], text: TokenBlocks, variant: PrunedSpec) -> list[int]:
    """Those of these blocks in which something is predicted."""
    there = [block for block in blocks.tolist() if followed(text, block).any()]
    if not there:
        raise SubjectError(
            f"variant {variant.label!r}: in no block of the text a kept position is followed by a "
            "token of its document, so nothing is predicted; take longer blocks"
        )
    return there


def _randomise(model: Any, spec: LanguageModelSpec, seed: int) -> None:
    """The same random body as where activations are read; a head of its own random too."""
    model.base_model.load_state_dict(untrained(spec, seed).state_dict())
    head = model.get_output_embeddings()
    if head.weight is not model.get_input_embeddings().weight:
        with seeded(seed), torch.no_grad():
            head.weight.normal_(0, getattr(model.config, "initializer_range", 0.02))
