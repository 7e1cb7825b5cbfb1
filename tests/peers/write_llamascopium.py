"""Writes small SAEs with llamascopium's own class; run by `make peers`."""

import torch
from llamascopium import SAEConfig, SparseAutoEncoder
from published import HERE, D, F, keep, rows, shake

SITE, OUT = "blocks.3.hook_resid_post", "blocks.3.hook_mlp_out"
CASES = {
    "topk": {"act_fn": "topk", "top_k": 3},
    "topk_unnormed": {
        "act_fn": "topk",
        "top_k": 3,
        "norm_activation": "inference",
        "sparsity_include_decoder_norm": False,
    },
    "jumprelu": {"act_fn": "jumprelu"},
    "transcoder": {"act_fn": "jumprelu", "hook_point_out": OUT},
    "transcoder_topk": {"act_fn": "topk", "top_k": 2, "hook_point_out": OUT},
    "relu": {"act_fn": "relu", "use_decoder_bias": False},
    "batchtopk": {"act_fn": "batchtopk", "top_k": 3},
    "bf16": {"act_fn": "jumprelu", "norm_activation": "inference"},
}
NORMS = {SITE: 4.5, OUT: 0.7}


@torch.no_grad()
def reconstruct(sae: SparseAutoEncoder, x: torch.Tensor) -> torch.Tensor:
    """Raw rows to raw rows, as their trainer and evaluator do."""
    cfg = sae.cfg
    batch = {cfg.hook_point_in: x, cfg.hook_point_out: x}
    scaled, factors = sae.normalize_activations(batch, return_scale_factor=True)
    out = sae(scaled[cfg.hook_point_in])
    return sae.denormalize_activations({cfg.hook_point_out: out}, factors)[cfg.hook_point_out]


def main() -> None:
    x = rows()
    for seed, (name, changes) in enumerate(CASES.items()):
        given = {"hook_point_in": SITE, "hook_point_out": SITE, **changes}
        dtype = torch.bfloat16 if name == "bf16" else torch.float32
        cfg = SAEConfig(d_model=D, expansion_factor=F / D, dtype=dtype, **given)
        sae = SparseAutoEncoder(cfg)
        shake(sae, seed)
        folder = HERE / "llamascopium" / name
        folder.mkdir(parents=True, exist_ok=True)
        if cfg.norm_activation == "dataset-wise":
            hooks = (cfg.hook_point_in, cfg.hook_point_out)
            sae.set_dataset_average_activation_norm({hook: NORMS[hook] for hook in hooks})
        sae.save_checkpoint(folder / f"sae_weights.{'pt' if name == 'relu' else 'safetensors'}")
        cfg.save_hyperparameters(folder)
        if name == "bf16":  # the weights are rounded, their arithmetic need not be
            sae.float().activation_function.dtype = torch.float32
        keep("llamascopium", name, reconstruct(sae, x))


if __name__ == "__main__":
    main()
