"""Language models of the transformers library: loaders, and models as subjects.

B sequences, L tokens each, D dimensions of a site. Where activations are read only the body of a
model is loaded and a forward pass ends at the last wanted site, so logits are never computed.

In 8 bits, on a processor, a linear layer is y = x W^T + b with W [N, K] as int8 and one scale for
each output, x as int8 and one scale for each row, both symmetric (absolute maximum to 127), sums
exact in int32. Scales by row, found as the rows come, keep a row's result independent of all other
rows; this is the vector-wise quantisation of arXiv 2208.07339 without its outlier columns.
torch.ao's dynamic quantisation is deprecated and has one scale for all rows of a batch.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from reseed.errors import SpecError, SubjectError
from reseed.spec.subject import LanguageModelSpec, package_file
from reseed.subjects.controls import seeded
from reseed.subjects.language.gguf import cached_model
from reseed.subjects.language.tokenizer import Tokenizer, quiet_transformers
from reseed.subjects.sites import read_sites, resolve_sites

_LOADING_ERRORS = (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError)
"""What transformers raises when a model cannot be loaded."""

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.float32}
"""What weights are loaded in; those of linear layers are rounded further for int8."""

_HEADS_THAT_MAY_BE_MISSING = ("pooler",)
"""Parts of a body that published checkpoints often lack; they are random then, and no sites."""


def pretrained(spec: LanguageModelSpec, kind: str, what: str = "model", **options: Any) -> Any:
    """What a class of transformers loads for a spec; no code of the model is run."""
    import transformers

    try:
        with quiet_transformers():
            where, hub = located(spec)
            maker: Any = getattr(transformers, kind)
            return maker.from_pretrained(where, trust_remote_code=False, **hub, **options)
    except _LOADING_ERRORS as error:
        raise _unloadable(spec, what, error) from error


class LanguageModel:
    """The body of a language model, its tokenizer and the sites where it is read."""

    def __init__(
        self, body: nn.Module, tokenizer: Tokenizer, patterns: Sequence[str], name: str
    ) -> None:
        self.body = body.eval()
        self.tokenizer = tokenizer
        self.sites = resolve_sites(body, patterns)
        self.name = name
        config: Any = body.config
        config.use_cache = False
        self.context: int | None = getattr(config, "max_position_embeddings", None)

    def check_block(self, length: int) -> None:
        """Say whether the model takes sequences of this length."""
        if self.context is not None and length > self.context:
            raise SpecError(
                f"text.block = {length} tokens, but {self.name} takes at most {self.context} "
                "(max_position_embeddings of its config). Choose a smaller block."
            )

    def forward(self, ids: Tensor, attention: Tensor | None = None) -> dict[str, Tensor]:
        """Site to activations float32 `[B, L, D]`; `attention` `[B, L]` is zero at padding."""
        self.check_block(ids.shape[1])
        inputs = model_inputs(self.body, ids, attention)
        read = read_sites(self.body, self.sites, lambda: self.body(**inputs))
        return {site: self._per_token(site, t, ids.shape) for site, t in read.items()}

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
    device = next(model.parameters()).device
    inputs = {"input_ids": ids.to(device)}
    if attention is not None:
        inputs["attention_mask"] = attention.to(device, torch.int64)
    return inputs


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
    missing: list[str] = []
    if spec.random_weights is None:
        body, missing = _trained(spec, "AutoModel")
    else:
        body = _random(spec, spec.random_weights)
    _check_weights(
        spec,
        [key for key in missing if not key.startswith(_HEADS_THAT_MAY_BE_MISSING)],
        "The files are incomplete or of another model; fetch them again.",
    )
    if spec.dtype == "int8":
        to_int8(body, spec.model)
    model = LanguageModel(body.to(device), load_tokenizer(spec), patterns, spec.model)
    random = [site for site in model.sites if site.startswith(_HEADS_THAT_MAY_BE_MISSING)]
    if missing and random:
        raise SpecError(f"site {random[0]!r}: {spec.model} has no trained weights for it")
    return model


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
    wrapped = pretrained(spec, "AutoTokenizer", "tokenizer")
    model, missing = _trained(spec, "AutoModelForCausalLM")
    _check_weights(spec, missing, "It is no causal language model, or the files are incomplete.")
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


def _trained(spec: LanguageModelSpec, kind: str) -> tuple[Any, list[str]]:
    """A model with its trained weights, and the names of those that were missing."""
    model, report = pretrained(spec, kind, dtype=_DTYPES[spec.dtype], output_loading_info=True)
    return model, sorted(report["missing_keys"]) + sorted(map(str, report["mismatched_keys"]))


def _random(spec: LanguageModelSpec, seed: int) -> Any:
    """The body with weights as before any training, by the initialiser of its architecture.

    Like "step 0" in arXiv 2501.17727: embeddings are random as well.
    """
    from transformers import AutoModel

    config = pretrained(spec, "AutoConfig")
    maker: Any = AutoModel
    try:
        with quiet_transformers(), seeded(seed):
            return maker.from_config(config, dtype=_DTYPES[spec.dtype], trust_remote_code=False)
    except _LOADING_ERRORS as error:
        raise _unloadable(spec, "model", error) from error


def _check_weights(spec: LanguageModelSpec, missing: Sequence[str], step: str) -> None:
    if missing:
        raise SubjectError(
            f"{spec.model}: {len(missing)} weights are missing or have another shape, the first is "
            f"{missing[0]}. {step}"
        )


def load_tokenizer(spec: LanguageModelSpec) -> Tokenizer:
    """Load the tokenizer of a language model without its weights."""
    return Tokenizer.of(pretrained(spec, "AutoTokenizer", "tokenizer"), spec.model)


def located(spec: LanguageModelSpec) -> tuple[str, dict[str, Any]]:
    """What to hand to transformers: a folder, or a hub name with its options."""
    name = spec.model
    path = package_file(name) if name.startswith("package:") else Path(name).expanduser()
    if path.suffix == ".gguf" and (path.is_file() or not _is_hub_name(name)):
        path = cached_model(path)
    if path.is_dir():
        return str(path), {"local_files_only": True}
    if path.exists() or not _is_hub_name(name):
        raise SubjectError(
            f"model {name!r}: {path} is {'no folder' if path.exists() else 'not there'}. Give a "
            "folder with config.json and safetensors, a .gguf file, package:NAME/file.gguf, or the "
            "name of a model on the hub."
        )
    return name, {"revision": spec.revision} if spec.revision else {}


def _is_hub_name(name: str) -> bool:
    """Whether a name may be `model` or `owner/model`; anything else is a path."""
    return name.count("/") <= 1 and not name.startswith((".", "/", "~", "package:"))


def _unloadable(spec: LanguageModelSpec, what: str, error: BaseException) -> SubjectError:
    """What to tell the person whose model, or its tokenizer, cannot be loaded."""
    path = Path(spec.model).expanduser()
    if spec.model.startswith("package:") or path.exists():
        tried = "its files are there, but cannot be loaded"
        step = "Check that it is a whole transformers model, or fetch it again."
    else:
        offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
        tried = "no such folder or file here, and the hub does not give it" + (
            ", since HF_HUB_OFFLINE is set: only models fetched before can be used"
            if offline
            else ""
        )
        step = "Check the name, or give a local folder, a .gguf file, or package:NAME/file.gguf."
    reason = " ".join(str(error).split())[:300]
    return SubjectError(f"{what} {spec.model!r}: {tried}. {step} ({reason})")


_LEVELS = 127.0


_LEAST = 1e-30
"""Scale of a row of zeros."""


class Int8Linear(nn.Module):
    """A linear layer with its weights rounded to int8; runs without gradients."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        exact = layer.weight.detach().to(torch.float32)
        scale = (exact.abs().amax(dim=1) / _LEVELS).clamp_min(_LEAST)
        self.weight: Tensor
        self.register_buffer("weight", (exact / scale[:, None]).round_().to(torch.int8))
        self.scale: Tensor
        self.register_buffer("scale", scale)
        self.bias: nn.Parameter | None = layer.bias
        self.in_features, self.out_features = layer.in_features, layer.out_features

    def forward(self, x: Tensor) -> Tensor:
        """`[..., K]` to `[..., N]`, in the format of x; a row with NaN or infinity gives NaN."""
        rows = x.reshape(-1, self.in_features).to(torch.float32)
        largest = rows.abs().amax(dim=1, keepdim=True).clamp_min(_LEAST)
        small = (rows * (_LEVELS / largest)).round_().to(torch.int8)
        # the product that torchao calls for this as well; it has no public name in torch
        out = torch.ops.aten._int_mm(small, self.weight.t()).to(torch.float32)
        out *= largest / _LEVELS
        out *= self.scale
        if self.bias is not None:
            out += self.bias
        return out.view(*x.shape[:-1], self.out_features).to(x.dtype)


def to_int8(body: nn.Module, name: str) -> None:
    """Put an `Int8Linear` in place of every linear layer; paths of modules stay."""
    layers = [
        (part, child, layer)
        for part in body.modules()
        for child, layer in part.named_children()
        if type(layer) is nn.Linear
    ]
    if not layers:
        raise SpecError(
            f"subject.dtype = 'int8': {name} has no torch.nn.Linear whose weights could be "
            "rounded; take 'bfloat16' or 'float32'"
        )
    for part, child, layer in layers:
        setattr(part, child, Int8Linear(layer))
