"""Models that `AutoModel` opens, tiny and random: from the names of sites to a report."""

import json

import pytest
import torch
import transformers as tf

import reseed
from reseed.events import Events
from reseed.subjects.inputs import Inputs

SIZES = {
    "vocab_size": 20,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "pad_token_id": 3,
}
GROUPED = SIZES | {"num_key_value_heads": 2, "head_dim": 4}
EXPERTS = GROUPED | {"num_experts_per_tok": 2}
TEXT = {
    "GPT2": ("h.1.mlp", {"vocab_size": 20, "n_embd": 16, "n_layer": 2, "n_head": 4}),
    "GPTNeoX": ("layers.1.mlp", SIZES),
    "Llama": ("layers.1.mlp", GROUPED),
    "Gemma2": ("layers.1.mlp", GROUPED),
    "Gemma3Text": ("layers.1", GROUPED),
    "Qwen2": ("layers.1.self_attn", GROUPED),
    "Qwen3": ("layers.1.mlp.down_proj:in", GROUPED),
    "Mixtral": ("layers.1.mlp", EXPERTS | {"num_local_experts": 4}),
    "Mamba": ("layers.1.mixer", SIZES | {"state_size": 4}),
    "Bert": ("encoder.layer.1", SIZES),
}
T5 = {"vocab_size": 20, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4}
WHISPER = {
    "vocab_size": 20,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "num_mel_bins": 8,
    "max_source_positions": 20,
    "max_target_positions": 12,
    "pad_token_id": 3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
VIT = {**SIZES, "image_size": 16, "patch_size": 4, "num_channels": 3}
del VIT["vocab_size"], VIT["pad_token_id"]
IDS = "torch.randint(4, 20, (8, 10), generator=draw)"
MODULES = {
    "T5": ("decoder.block.1.layer.2", T5, f'"input_ids": {IDS}, "decoder_input_ids": {IDS}', {}),
    "ViT": (
        "layers.1",
        VIT,
        '"pixel_values": torch.randn(8, 3, 16, 16, generator=draw)',
        {"layout": "patches", "positions": 10},
    ),
    "Whisper": (
        "encoder.conv2",
        WHISPER,
        f'"input_features": torch.randn(8, 8, 40, generator=draw), "decoder_input_ids": {IDS}',
        {"layout": {"encoder.conv*": "channels_first"}, "positions": 10},
    ),
    "Qwen2Moe": (
        "layers.1.mlp.experts:in@2",
        EXPERTS | {"num_experts": 4, "moe_intermediate_size": 8},
        f'"input_ids": {IDS}',
        {"rows": "ragged"},
    ),
}
SMALL = {
    "sae": [{"latents": 16, "k": 2, "lr": 3e-3}],
    "training": {"tokens": 1280, "batch": 64, "threads": 1, "snapshots": []},
}


@pytest.fixture
def study_of(tmp_path, save_tokenizer, write_study):
    """Writes a study of a family beside its model, or beside the file that makes it."""

    def of_text(family):
        site, sizes = TEXT[family]
        torch.manual_seed(0)
        config = getattr(tf, f"{family}Config")(**sizes)
        tf.AutoModel.from_config(config).save_pretrained(tmp_path / "model")
        save_tokenizer(tmp_path / "model")
        words = ["the", "cat", "sat", "on", "a", "mat", "dog", "ran", "far", "away"]
        texts = [" ".join(words[i % 10] for i in range(n, 3 * n + 9, 1 + n % 3)) for n in range(60)]
        (tmp_path / "t.json").write_text(json.dumps(texts))
        subject = {"kind": "language_model", "model": "model"}
        return subject, site, {"text": {"source": "t.json", "block": 8}}

    def of_module(family):
        site, sizes, batch, how = MODULES[family]
        (tmp_path / "net.py").write_text(
            "import torch\nimport transformers\n\n\ndef build():\n"
            "    torch.manual_seed(0)\n    draw = torch.Generator().manual_seed(1)\n"
            f"    config = transformers.{family}Config(**{sizes!r})\n"
            f"    batches = [{{{batch}}} for _ in range(10)]\n"
            "    return transformers.AutoModel.from_config(config), batches\n"
        )
        return {"kind": "module", "factory": "net.py:build", **how}, site, {}

    def write(family):
        subject, site, more = (of_text if family in TEXT else of_module)(family)
        tokens = 640 if family in TEXT else 240
        activations = {"sites": [site], "tokens": tokens}
        return write_study(subject=subject, activations=activations, **more, **SMALL), site

    return write


@pytest.mark.parametrize("family", [*TEXT, *MODULES])
def test_sites_are_named_and_give_rows(family, study_of, cli):
    path, site = study_of(family)
    assert cli("sites", path, site).stdout.split() == [site]
    source = Inputs(reseed.Study.load(path), Events()).opened.source
    rows = source.read([0, 1])[site]
    assert len(rows) == source.rows[:2].sum() > 0
    assert rows.std() > 0


FAST = ("Mamba", "Qwen2Moe")


@pytest.mark.parametrize(
    "family",
    [
        name if name in FAST else pytest.param(name, marks=pytest.mark.slow)
        for name in (*TEXT, *MODULES)
    ],
)
def test_from_a_model_to_a_report(family, study_of):
    study = reseed.Study.load(study_of(family)[0])
    reseed.run(study, progress=False)
    assert (study.folder / "report.html").exists()
    (group,) = study.summary["groups"]
    assert len(group["runs"]) == 2
