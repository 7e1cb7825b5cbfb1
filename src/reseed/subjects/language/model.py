"""Language models of the transformers library: loaders, and models as subjects.

B sequences, L tokens each, D dimensions of a site. Where activations are read only the body of a
model is loaded and a forward pass ends at the last wanted site, so logits are never computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from reseed.errors import ReseedError, SpecError, SubjectError
from reseed.spec.subject import LanguageModelSpec
from reseed.subjects.language.linear import to_int8, to_onednn
from reseed.subjects.language.loading import (
    check_weights,
    from_files,
    skeleton,
    trained,
    untrained,
)
from reseed.subjects.language.tokenizer import Tokenizer
from reseed.subjects.sites import read_sites, resolve_sites

_HEADS_THAT_MAY_BE_MISSING = ("pooler",)
"""Parts of a body that published checkpoints often lack; they are random then, and no sites."""


class LanguageModel:
    """The body of a language model, its tokenizer and the sites where it is read."""

    together = 1
    """passes that are made at a time"""

    def __init__(
        self, body: nn.Module, tokenizer: Tokenizer, patterns: Sequence[str], name: str
    ) -> None:
        self.body = body.eval()
        self.tokenizer = _fitting(tokenizer, body)
        self.sites = resolve_sites(body, patterns)
        self.name = name
        config: Any = body.config
        config.use_cache = False
        self.context = context_of(body)

    def check_block(self, length: int) -> None:
        """Say whether the model takes sequences of this length."""
        if self.context is not None and length > self.context:
            raise SpecError(
                f"text.block = {length} tokens, but {self.name} takes at most {self.context} "
                "(by its config). Choose a smaller block."
            )

    def forward(self, ids: Tensor, attention: Tensor | None = None) -> dict[str, Tensor]:
        """Site to activations float32 `[B, L, D]`; `attention` `[B, L]` is zero at padding."""
        self.check_block(ids.shape[1])
        inputs = model_inputs(self.body, ids, attention)
        try:
            read = read_sites(self.body, self.sites, lambda: self.body(**inputs))
        except ReseedError:
            raise
        except Exception as error:  # noqa: BLE001  (a model of others: anything may be raised)
            raise self._cannot_read(error) from error
        return {site: self._per_token(site, t, ids.shape) for site, t in read.items()}

    def forward_each(
        self, batches: Sequence[tuple[Tensor, Tensor | None]]
    ) -> list[dict[str, Tensor]]:
        """The same of several batches, ids and attention each."""
        return [self.forward(*batch) for batch in batches]

    def check_causal(self) -> None:
        """Refuse a model that sees what follows, where it is to predict it."""
        body: Any = self.body
        check_causal(lambda ids: body(ids)[0], self.tokenizer, self.name, _device(body))

    def _cannot_read(self, error: Exception) -> SubjectError:
        step = "Study it as a subject of kind 'module', whose batches you make."
        if getattr(self.body.config, "is_encoder_decoder", False):
            step = (
                "Of an encoder and decoder only the encoder reads text alone: choose a site of the "
                "encoder, or study it as a subject of kind 'module' whose batches have input_ids "
                "and decoder_input_ids."
            )
        reason = " ".join(str(error).split())[:200]
        return SubjectError(
            f"{self.name}: a forward pass on token ids failed ({type(error).__name__}: {reason}). "
            + step
        )

    def _per_token(self, site: str, tensor: Tensor, shape: torch.Size) -> Tensor:
        batch, length = shape
        if tensor.ndim == 2 and tensor.shape[0] == batch * length:
            tensor = tensor.view(batch, length, -1)
        if tensor.ndim != 3 or tensor.shape[:2] != shape or not tensor.is_floating_point():
            raise SubjectError(
                f"site {site!r} of {self.name} gives {tensor.dtype} {list(tensor.shape)} for "
                f"[{batch}, {length}] tokens; a vector of floats for each token is needed. "
                "Choose another module, e.g. a layer or its mlp."
            )
        return tensor.to(torch.float32)


def model_inputs(model: nn.Module, ids: Tensor, attention: Tensor | None) -> dict[str, Tensor]:
    """Arguments of a forward pass on `[B, L]` tokens, on the device of the model."""
    device = _device(model)
    inputs = {"input_ids": ids.to(device)}
    if attention is not None:
        inputs["attention_mask"] = attention.to(device, torch.int64)
    return inputs


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def context_of(model: nn.Module) -> int | None:
    """Tokens that a model takes at most; None if its settings do not say."""
    config: Any = model.config
    context: int | None = getattr(config, "max_position_embeddings", None)
    for path, part in model.named_modules():
        # RoBERTa and its kin count positions from behind the id of padding
        if path.endswith("position_embeddings") and isinstance(part, nn.Embedding):
            positions, padding = int(part.num_embeddings), part.padding_idx
            context = context if padding is None else positions - padding - 1
    return context


def _fitting(tokenizer: Tokenizer, body: Any) -> Tokenizer:
    """The tokenizer without roles whose ids the model has no embedding for."""
    try:
        known = int(body.get_input_embeddings().num_embeddings)
    except (AttributeError, NotImplementedError):
        return tokenizer
    roles: dict[str, int | None] = {name: getattr(tokenizer, name) for name in _ROLES}
    there = {name: i if i is not None and i < known else None for name, i in roles.items()}
    return replace(tokenizer, vocabulary=known, **there)


_ROLES = ("bos", "eos", "pad")


def check_causal(
    predict: Callable[[Tensor], Tensor], tokenizer: Tokenizer, name: str, device: torch.device
) -> None:
    """Refuse a model whose outputs at a position depend on what follows: it sees the next token.

    Args:
        predict: from ids `[2, 4]` to `[2, 4, *]`.
        tokenizer: says which ids there are.
        name: of the model.
        device: of the model.
    """
    last = (tokenizer.vocabulary or 8) - 1
    ids = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 4]], device=device) + max(last // 2 - 2, 0)
    with torch.no_grad():
        a, b = predict(ids.clamp(max=last))[:, :3].float()
    if float((a - b).norm()) > _CAUSAL * float(a.norm()):
        raise SubjectError(
            f"{name} sees the tokens that follow (as masked language models do), so it does not "
            "predict the next one, and a cross-entropy of it would mean nothing. Take "
            "evidence.through_tokens and end_to_end out, or name a causal model."
        )


_CAUSAL = 1e-5
"""Share of the outputs' length up to which a difference is rounding."""


def load_language_model(
    spec: LanguageModelSpec, patterns: Sequence[str], device: str = "cpu"
) -> LanguageModel:
    """Load the body and the tokenizer of a language model.

    Args:
        spec: which model.
        patterns: sites to read, e.g. `["layers.*.mlp"]`, relative to the body of the model.
        device: where it computes.

    Raises:
        SpecError: if a site is unknown or a package is missing.
        SubjectError: if the model cannot be found or loaded, or lacks weights.
    """
    body = load_body(spec, patterns).to(device)
    to_onednn(body)
    return LanguageModel(body, load_tokenizer(spec), patterns, spec.model)


def load_body(spec: LanguageModelSpec, patterns: Sequence[str]) -> nn.Module:
    """The body alone, on the CPU; arguments and errors as of `load_language_model`."""
    _check_kind(spec, patterns)
    missing: list[str] = []
    if spec.random_weights is None:
        body, missing = trained(spec, "AutoModel")
    else:
        body = untrained(spec, spec.random_weights)
    check_weights(
        spec,
        [key for key in missing if not key.startswith(_HEADS_THAT_MAY_BE_MISSING)],
        "The files are incomplete or of another model; fetch them again.",
    )
    sites = resolve_sites(body, patterns) if missing else []
    random = [site for site in sites if site.startswith(_HEADS_THAT_MAY_BE_MISSING)]
    if random:
        raise SpecError(f"site {random[0]!r}: {spec.model} has no trained weights for it")
    if spec.dtype == "int8":
        to_int8(body, spec.model)
    return body


def body_without_weights(spec: LanguageModelSpec) -> nn.Module:
    """The body for the names of its modules; without weights where that can be done."""
    body = skeleton(spec)
    return load_language_model(spec, ()).body if body is None else body


def _check_kind(spec: LanguageModelSpec, patterns: Sequence[str]) -> None:
    """Refuse what reads no text, and unknown sites, before weights are read."""
    body = skeleton(spec)
    if body is None:
        return
    reads = getattr(body, "main_input_name", "input_ids")
    if reads != "input_ids":
        raise SubjectError(
            f"{spec.model} ({type(body).__name__}) reads {reads}, not text. Study it as a subject "
            "of kind 'module', whose batches you make."
        )
    resolve_sites(body, patterns)


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
    """Load a causal language model, with its head and its trained weights."""
    wrapped = from_files(spec, "AutoTokenizer", "tokenizer")
    model, missing = trained(spec, "AutoModelForCausalLM")
    check_weights(spec, missing, "It is no causal language model, or the files are incomplete.")
    if spec.dtype == "int8":
        to_int8(model.base_model, spec.model)  # the body, as where activations are read
    tokenizer = _fitting(Tokenizer.of(wrapped, spec.model), model)
    model = model.eval().to(device)
    check_causal(lambda ids: model(ids).logits, tokenizer, spec.model, _device(model))
    ends = _ends(model, tokenizer)
    return CausalModel(spec.model, model, tokenizer, wrapped, context_of(model), ends)


def _ends(model: Any, tokenizer: Tokenizer) -> frozenset[int]:
    """What the tokenizer and the model's own settings for generation name."""
    named: Any = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed: list[int] = [named] if isinstance(named, int) else list(named or ())
    return frozenset(listed) | ({tokenizer.eos} if tokenizer.eos is not None else set())


def load_tokenizer(spec: LanguageModelSpec) -> Tokenizer:
    """Load the tokenizer of a language model without its weights."""
    return Tokenizer.of(from_files(spec, "AutoTokenizer", "tokenizer"), spec.model)
