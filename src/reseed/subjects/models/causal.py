"""Causal language models with their head: what writes text, or says how likely a text is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from reseed.errors import SubjectError
from reseed.spec.subject import LanguageModelSpec
from reseed.subjects.models.language_model import DTYPES, LOADING_ERRORS, located, unloadable
from reseed.subjects.models.tokenizer import Tokenizer, quiet_transformers
from reseed.subjects.models.weights import to_int8


@dataclass(frozen=True, slots=True)
class CausalModel:
    """A model that predicts the next token, and its tokenizer."""

    name: str
    model: nn.Module
    """of the transformers library, with head, in eval mode"""
    tokenizer: Tokenizer
    wrapped: Any
    """the tokenizer as the transformers library has it, for its chat template"""
    context: int | None
    """tokens that it takes at most; None if it does not say"""
    ends: frozenset[int]
    """ids that end a reply"""


def load_causal(spec: LanguageModelSpec, device: str = "cpu") -> CausalModel:
    """Load a causal language model with its trained weights.

    Args:
        spec: which model; `batch_blocks` and `random_weights` are not used.
        device: where it computes.

    Raises:
        SpecError: if a package is missing.
        SubjectError: if the model cannot be found or loaded, or lacks weights.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where, hub = located(spec)
    maker: Any = AutoModelForCausalLM
    tokenizers: Any = AutoTokenizer
    part = "tokenizer"
    try:
        with quiet_transformers():
            wrapped = tokenizers.from_pretrained(where, trust_remote_code=False, **hub)
            part = "model"
            model, report = maker.from_pretrained(
                where,
                dtype=DTYPES[spec.dtype],
                trust_remote_code=False,
                output_loading_info=True,
                **hub,
            )
    except LOADING_ERRORS as error:
        raise unloadable(spec, part, error) from error
    missing = sorted(report["missing_keys"]) + sorted(map(str, report["mismatched_keys"]))
    if missing:
        raise SubjectError(
            f"{spec.model}: {len(missing)} weights are missing or have another shape, the first is "
            f"{missing[0]}. It is no causal language model, or the files are incomplete."
        )
    if spec.dtype == "int8":
        to_int8(model.base_model, spec.model)  # the body, as where activations are read
    tokenizer = Tokenizer.of(wrapped, spec.model)
    context: int | None = getattr(model.config, "max_position_embeddings", None)
    ends = _ends(model, tokenizer)
    return CausalModel(spec.model, model.eval().to(device), tokenizer, wrapped, context, ends)


def _ends(model: Any, tokenizer: Tokenizer) -> frozenset[int]:
    """What the tokenizer and the model's own settings for generation name."""
    named: Any = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed: list[int] = [named] if isinstance(named, int) else list(named or ())
    return frozenset(listed) | ({tokenizer.eos} if tokenizer.eos is not None else set())
