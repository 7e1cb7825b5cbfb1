"""What libraries call a site of a model and a model, and what they do to it before it is read.

TransformerLens (and SAELens) say `blocks.6.hook_resid_post`, dictionary_learning
`resid_post_layer_6`, Gemma Scope `model.layers.6.output`, a path of modules is `layers.6`, and
`layers.7:in` is the input of the next: the same numbers, five names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

Place = tuple[str, int]
"""What is read, and in which block. The residual stream behind block 6 is that before block 7:
`("resid", 7)`."""

_BLOCK = r"(?:.*\.)?(?:layers|layer|h|blocks|block)\.(\d+)"

_IN, _OUT = r"(?::in|\.input)", r"(?:\.output)?"

_ATTENTION = r"(?:attn|attention|self_attn|self_attention)(?:\.attention|\.self)?"

_LAST_OF_ATTENTION = r"(?:c_proj|o_proj|out_proj|dense)"

_LAST_OF_MLP = r"(?:c_proj|down_proj|dense_4h_to_h|fc_out|fc2)"

_PATTERNS: tuple[tuple[str, str, int], ...] = (
    (r"blocks\.(\d+)\.hook_resid_pre", "resid", 0),
    (r"blocks\.(\d+)\.hook_resid_post", "resid", 1),
    (r"blocks\.(\d+)\.hook_resid_mid", "resid_mid", 0),
    (r"blocks\.(\d+)\.hook_mlp_out", "mlp", 0),
    (r"blocks\.(\d+)\.hook_attn_out", "attn", 0),
    (r"blocks\.(\d+)\.attn\.hook_z", "heads", 0),
    (r"blocks\.(\d+)\.mlp\.hook_post", "neurons", 0),
    (r"resid_pre_layer_(\d+)", "resid", 0),
    (r"resid_post_layer_(\d+)", "resid", 1),
    (r"mlp_(?:out_)?layer_(\d+)", "mlp", 0),
    (r"(?:attn|attention)_(?:out_)?layer_(\d+)", "attn", 0),
    (rf"{_BLOCK}{_IN}", "resid", 0),
    (rf"{_BLOCK}{_OUT}", "resid", 1),
    (rf"{_BLOCK}\.(?:mlp|ffn|feed_forward){_OUT}", "mlp", 0),
    (rf"{_BLOCK}\.{_ATTENTION}{_OUT}", "attn", 0),
    (rf"{_BLOCK}\.{_ATTENTION}\.{_LAST_OF_ATTENTION}{_IN}", "heads", 0),
    (rf"{_BLOCK}\.{_ATTENTION}\.{_LAST_OF_ATTENTION}{_OUT}", "attn", 0),
    (rf"{_BLOCK}\.mlp\.{_LAST_OF_MLP}{_IN}", "neurons", 0),
    (rf"{_BLOCK}\.mlp\.{_LAST_OF_MLP}{_OUT}", "mlp", 0),
)

_LENS = {
    "resid": "hook_resid_post", "resid_mid": "hook_resid_mid", "mlp": "hook_mlp_out",
    "attn": "hook_attn_out", "heads": "attn.hook_z", "neurons": "mlp.hook_post",
}  # fmt: skip

_MODELS = {
    "gpt2-small": "gpt2", "pythia-70m-v0": "pythia-70m", "mistral-7b": "mistral-7b-v0.1",
}  # fmt: skip
"""Names of one library to those that others use."""


def place_of(site: str) -> Place | None:
    """What a site's name means; None if it is in no way of naming that is known.

    Example:
        >>> place_of("blocks.6.hook_resid_post") == place_of("model.layers.7:in")
        True
    """
    for pattern, kind, offset in _PATTERNS:
        if match := re.fullmatch(pattern, site.strip()):
            return kind, int(match[1]) + offset
    return None


def lens_name(site: str) -> str:
    """The site as TransformerLens and SAELens call it; the same where that is not known."""
    place = place_of(site)
    if place is None:
        return site
    kind, block = place
    if kind == "resid":
        return f"blocks.{block - 1}.{_LENS[kind]}" if block else "blocks.0.hook_resid_pre"
    return f"blocks.{block}.{_LENS[kind]}"


def same_site(a: str, b: str) -> bool | None:
    """Whether two names mean one site; None if that is not known."""
    if a.strip() == b.strip():
        return True
    first, second = place_of(a), place_of(b)
    return None if first is None or second is None else first == second


def same_model(a: str, b: str) -> bool:
    """Whether two names mean one model: owners, folders and case are left out."""
    return _model(a) == _model(b)


def _model(name: str) -> str:
    last = name.strip().rstrip("/").rpartition("/")[2].lower().replace("_", "-")
    last = last.removesuffix(".gguf").removeprefix("meta-")
    return _MODELS.get(last, last)


# -- what was done to the model ------------------------------------------------------------------

_PROCESSED = {
    "center_writing_weights": "the weights that write to the residual stream were centred, so "
    "each row that it read has mean 0",
    "fold_ln": "the gains of norms were folded into the weights behind them, so what is read "
    "behind a norm lacks them",
    "fold_value_biases": "the biases of values were folded into those of the attention's output",
}
"""What TransformerLens does to a model, and what the SAE then reads."""

_READING = ("prepend_bos", "context_size", "ctx_len", "hook_head_index", "exclude_special_tokens")

_NESTED = ("model_from_pretrained_kwargs", "model_kwargs", "from_pretrained_kwargs")


def conventions(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide what an SAE reads: of the model, its beginning, its windows."""
    tables = [settings, *(t for name in _NESTED if isinstance(t := settings.get(name), Mapping))]
    keys = (*_PROCESSED, *_READING)
    kept = {key: table[key] for table in tables for key in keys if key in table}
    return {k: v for k, v in kept.items() if isinstance(v, bool | int | float | str)}


def processed(about: Mapping[str, Any]) -> list[str]:
    """What was done to the model that an SAE was trained on, in sentences."""
    return [f"{key}: {text}" for key, text in _PROCESSED.items() if about.get(key) is True]


def differs_here(about: Mapping[str, Any]) -> list[str]:
    """What to know where this toolkit makes the activations that an SAE is run on.

    It reads models as they were published, each document from its first token.
    """
    out = [f"{what}; here models are read as they were published" for what in processed(about)]
    site = about.get("site")
    lens = isinstance(site, str) and re.search(r"(^|\.)hook_", site)
    if lens and not out and "center_writing_weights" not in about:
        out.append(
            "its site has a name of TransformerLens, which centres and folds weights unless it is "
            "told not to, and its settings do not say which; compare its fvu here with the "
            "published one"
        )
    if about.get("prepend_bos") is False:
        out.append("it was trained without a token at the beginning of texts (prepend_bos)")
    if (head := about.get("hook_head_index")) is not None:
        out.append(f"it reads head {head} alone (hook_head_index), not all of the site")
    return out
