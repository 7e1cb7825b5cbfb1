from collections import OrderedDict

import pytest
import torch

from reseed.errors import SpecError
from reseed.subjects.networks.hook_names import module_path
from reseed.subjects.sites import list_sites, resolve_sites

SMALL = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3}
HEADS = {"num_attention_heads": 4}


def paths(config, options):
    import transformers

    with torch.device("meta"):
        made = transformers.AutoModel.from_config(getattr(transformers, config)(**options))
    return list_sites(made)


@pytest.mark.parametrize(
    ("config", "options", "names"),
    [
        (
            "GPT2Config",
            {"vocab_size": 32, "n_embd": 16, "n_layer": 3, "n_head": 4},
            {
                "blocks.1.hook_resid_post": "h.1",
                "blocks.1.hook_resid_pre": "h.1:in",
                "blocks.1.hook_resid_mid": "h.1.ln_2:in",
                "blocks.1.hook_attn_out": "h.1.attn",
                "blocks.1.hook_mlp_out": "h.1.mlp",
                "blocks.1.attn.hook_z": "h.1.attn.c_proj:in",
                "blocks.1.mlp.hook_post": "h.1.mlp.c_proj:in",
                "hook_embed": "wte",
                "transformer.h.1.mlp": "h.1.mlp",
                "blocks.7.hook_mlp_out": None,
                "blocks.1.hook_nothing": None,
            },
        ),
        (
            "LlamaConfig",
            SMALL | HEADS,
            {
                "blocks.2.hook_resid_post": "layers.2",
                "blocks.2.hook_resid_mid": "layers.2.post_attention_layernorm:in",
                "blocks.2.attn.hook_z": "layers.2.self_attn.o_proj:in",
                "blocks.2.ln2.hook_normalized": "layers.2.mlp:in",
                "blocks.2.mlp.hook_post": "layers.2.mlp.down_proj:in",
                "model.layers.*.mlp": "layers.*.mlp",
            },
        ),
        (
            "GPTNeoXConfig",
            SMALL | HEADS,
            {
                "blocks.0.hook_mlp_out": "layers.0.mlp",
                "blocks.0.hook_resid_mid": None,
                "blocks.0.attn.hook_z": "layers.0.attention.dense:in",
            },
        ),
        (
            "Gemma2Config",
            SMALL | HEADS | {"num_key_value_heads": 2, "head_dim": 4},
            {
                "blocks.0.hook_mlp_out": "layers.0.post_feedforward_layernorm",
                "blocks.0.hook_attn_out": "layers.0.post_attention_layernorm",
                "blocks.0.hook_resid_mid": "layers.0.pre_feedforward_layernorm:in",
            },
        ),
        (
            "BertConfig",
            SMALL | HEADS,
            {
                "blocks.1.hook_resid_post": "encoder.layer.1",
                "blocks.1.hook_attn_out": "encoder.layer.1.attention",
                "hook_embed": "embeddings.word_embeddings",
            },
        ),
    ],
)
def test_names_of_transformer_lens(config, options, names):
    known = paths(config, options)
    assert {name: module_path(name, known) for name in names} == names
    for path in filter(None, names.values()):
        assert "*" in path or path.removesuffix(":in") in known


def test_the_hint_names_the_module():
    layers = [torch.nn.Sequential(OrderedDict(mlp=torch.nn.Linear(2, 2))) for _ in range(2)]
    body = torch.nn.ModuleDict({"h": torch.nn.ModuleList(layers)})
    with pytest.raises(SpecError, match=r"another library; here it is 'h\.1\.mlp'"):
        resolve_sites(body, ["blocks.1.hook_mlp_out"])


def test_brackets_in_names_mean_themselves():
    body = torch.nn.ModuleDict({"a[/b]": torch.nn.Linear(2, 2), "a1": torch.nn.Linear(2, 2)})
    assert resolve_sites(body, ["a[/b]"]) == ["a[/b]"]
    with pytest.raises(SpecError, match="no such module"):
        resolve_sites(body, ["a[1]"])
