"""Writes small SAEs with the classes of lm_saes that wrote Llama Scope and Llama Scope R1-Distill.

Neither is on PyPI: `python tests/peers/write_lm_saes.py OLD/src MIDDLE/src`, with
OpenMOSS/Language-Model-SAEs at 1e71036 (October 2024) and 63ec3cc (February 2025). Of these
packages only the class of the SAE and its settings are imported.
"""

import subprocess
import sys
from types import ModuleType
from unittest.mock import MagicMock

import torch
from published import HERE, D, F, keep, rows, shake
from safetensors.torch import save_file

SITE, OUT = "blocks.8.hook_resid_post", "blocks.8.hook_mlp_out"
OLD = {
    "residual": {"act_fn": "jumprelu", "jump_relu_threshold": 0.4},
    "trained_as_topk": {"act_fn": "topk", "top_k": 3, "jump_relu_threshold": 0.5},
    "transcoder": {"act_fn": "jumprelu", "jump_relu_threshold": 0.1, "hook_point_out": OUT},
    "topk": {"act_fn": "topk", "top_k": 3, "sparsity_include_decoder_norm": False},
    "centred": {"act_fn": "relu", "apply_decoder_bias_to_pre_encoder": True},
    # with norms their loader wants a decoder.bias that such an SAE does not have
    "unbiased": {"act_fn": "relu", "use_decoder_bias": False, "norm_activation": "inference"},
}
MIDDLE = {
    "jumprelu": {"act_fn": "jumprelu"},
    "transcoder": {"act_fn": "jumprelu", "hook_point_out": OUT},
    # no topk: where less than k pre-activations are above 0, that class lets all of them through
    "centred": {"act_fn": "relu", "apply_decoder_bias_to_pre_encoder": True},
    "unnormed": {"act_fn": "jumprelu", "norm_activation": "inference"},
}


def package(source: str) -> None:
    """Make `lm_saes` importable without running what its `__init__` imports."""
    whole = ModuleType("lm_saes")
    whole.__path__ = [f"{source}/lm_saes"]
    sys.modules["lm_saes"] = whole
    for name in ("lm_saes.activation.activation_store", "lm_saes.kernels", "lm_saes.database"):
        sys.modules[name] = MagicMock()


@torch.no_grad()
def write_old() -> None:
    from lm_saes.config import SAEConfig
    from lm_saes.sae import SparseAutoEncoder

    x = rows()
    for seed, (name, changes) in enumerate(OLD.items()):
        given = {"hook_point_in": SITE, "hook_point_out": SITE, "norm_activation": "dataset-wise"}
        given |= {"apply_decoder_bias_to_pre_encoder": False, **changes}
        norms = {"in": 5.5, "out": 5.5 if given["hook_point_out"] == SITE else 0.8}
        cfg = SAEConfig(
            d_model=D, expansion_factor=F // D, dataset_average_activation_norm=norms, **given
        )
        sae = SparseAutoEncoder(cfg)
        shake(sae, seed)
        folder = HERE / "llama_scope" / name
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        save_file(sae.state_dict(), folder / "checkpoints" / "final.safetensors")
        cfg.save_hyperparameters(str(folder))
        loaded = SparseAutoEncoder.from_pretrained(str(folder))
        keep("llama_scope", name, loaded.decode(loaded.encode(x)))


@torch.no_grad()
def write_middle() -> None:
    from lm_saes.config import SAEConfig
    from lm_saes.sae import SparseAutoEncoder

    x = rows()
    for seed, (name, changes) in enumerate(MIDDLE.items()):
        given = {"hook_point_in": SITE, "hook_point_out": SITE, **changes}
        cfg = SAEConfig(d_model=D, expansion_factor=F // D, dtype=torch.float32, **given)
        sae = SparseAutoEncoder(cfg)
        shake(sae, seed)
        sae.set_dataset_average_activation_norm({SITE: 5.5, cfg.hook_point_out: 0.8})
        folder = HERE / "llama_scope_r1" / name
        folder.mkdir(parents=True, exist_ok=True)
        state = sae._get_full_state_dict()
        save_file(
            {key: value.contiguous() for key, value in state.items()},
            folder / "sae_weights.safetensors",
        )
        cfg.save_hyperparameters(folder)
        out = sae.decode(sae.encode(x)) / sae.compute_norm_factor(x, cfg.hook_point_out)
        keep("llama_scope_r1", name, out)


if __name__ == "__main__":
    if sys.argv[1] in ("old", "middle"):
        package(sys.argv[2])
        {"old": write_old, "middle": write_middle}[sys.argv[1]]()
    else:  # both packages have the same name: one process each
        for which, source in zip(("old", "middle"), sys.argv[1:], strict=True):
            subprocess.run([sys.executable, __file__, which, source], check=True)
