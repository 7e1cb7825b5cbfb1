"""Names that other libraries give to the sites of a language model.

TransformerLens and SAELens name what passes a layer, `blocks.6.hook_mlp_out`; here a site is the
path of a module, which each family of models calls something else. With the head, a model's layers
lie one module deeper than in its body.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from reseed.spec.analysis import fits_path

_ATTENTION = ("attn", "self_attn", "self_attention", "attention.attention", "attention")
_MLP = ("mlp", "feed_forward", "ffn", "block_sparse_moe")
_INTO_RESIDUAL = ("o_proj", "out_proj", "c_proj", "dense", "attention.out_proj", "output.dense")
_DOWN = ("down_proj", "c_proj", "dense_4h_to_h", "fc_out", "fc2", "w2")
_UP = ("gate_proj", "c_fc", "dense_h_to_4h", "fc_in", "fc1", "w1")
_SECOND_NORM = ("pre_feedforward_layernorm", "ln_2", "post_attention_layernorm")

_IN_LAYER: dict[str, tuple[tuple[tuple[str, ...], ...], str]] = {
    "hook_attn_out": ((_ATTENTION,), ""),
    "hook_mlp_out": ((_MLP,), ""),
    "hook_resid_mid": ((_SECOND_NORM,), ":in"),
    "attn.hook_z": ((_ATTENTION, _INTO_RESIDUAL), ":in"),
    "mlp.hook_post": ((_MLP, _DOWN), ":in"),
    "mlp.hook_pre": ((_MLP, _UP), ""),
    "ln1.hook_normalized": ((_ATTENTION,), ":in"),
    "ln2.hook_normalized": ((_MLP,), ":in"),
}
"""Name inside a layer to modules inside each other, of each the first that is there, and suffix."""

_NORMED_OUT = {
    "hook_attn_out": "post_attention_layernorm",
    "hook_mlp_out": "post_feedforward_layernorm",
}
"""Of layers that normalise what their parts give before they add it."""

_EMBEDDINGS = {
    "hook_embed": ("wte", "embed_tokens", "embed_in", "embeddings.word_embeddings"),
    "hook_pos_embed": ("wpe", "embed_positions", "embeddings.position_embeddings"),
}


def module_path(name: str, known: Sequence[str]) -> str | None:
    """The site that another library calls `name`; None if that cannot be said.

    Args:
        name: e.g. `blocks.1.hook_resid_post`, or `model.layers.1.mlp` for a site of a body.
        known: paths of the modules that there are.
    """
    without_head = name.partition(".")[2]
    if without_head and any(fits_path(path, without_head) for path in known):
        return without_head
    for path in _EMBEDDINGS.get(name, ()):
        if there := _under("", path, known):
            return there
    place = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
    layers = _layers(known)
    if place is None or layers is None:
        return None
    layer, what = f"{layers}.{place[1]}", place[2]
    if layer not in known:
        return None
    if what in ("hook_resid_pre", "hook_resid_post"):
        return layer + (":in" if what == "hook_resid_pre" else "")
    return _in_layer(layer, what, known)


def _in_layer(layer: str, what: str, known: Sequence[str]) -> str | None:
    # only of layers that have it is the other norm one before the MLP
    normed = f"{layer}.pre_feedforward_layernorm" in known and what in _NORMED_OUT
    if normed:
        return _under(layer, _NORMED_OUT[what], known)
    # GPT-NeoX adds attention and MLP together, so nothing lies between them
    parallel = f"{layer}.attention.dense" in known
    if what not in _IN_LAYER or (parallel and what == "hook_resid_mid"):
        return None
    inside, suffix = _IN_LAYER[what]
    path = layer
    for choices in inside:
        paths = (_under(path, choice, known) for choice in choices)
        there = next(filter(None, paths), None)
        if there is None:
            return None
        path = there
    return path + suffix


def _under(path: str, inner: str, known: Sequence[str]) -> str | None:
    whole = f"{path}.{inner}" if path else inner
    return whole if whole in known else None


def _layers(known: Sequence[str]) -> str | None:
    """The path below which most numbered modules lie, no numbers in it."""
    places = (re.fullmatch(r"([^\d]*[^\d.])\.\d+", path) for path in known)
    counts = Counter(place[1] for place in places if place)
    return counts.most_common(1)[0][0] if counts else None
