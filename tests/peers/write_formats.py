"""Writes small SAEs and what they reconstruct with the peers' own classes, for tests/formats.

    python tests/peers/write_formats.py [--batchtopk SAE.PY] [--e2e SPARSIFIERS.PY] [PEER ...]

BatchTopK and e2e_sae are no packages: give their `sae.py` (commit b9aab1c) and
`e2e_sae/models/sparsifiers.py` (2.1.1). What is written is committed, so tests need no peer.
"""

import argparse
import importlib.util
import json
import sys
import types
from pathlib import Path

import torch
from safetensors.torch import save_file

D, E, F, N = 6, 5, 12, 40
TO = Path(__file__).parents[1] / "formats" / "published"


def randomised(module, scale=0.4):
    """The module with all parameters drawn anew; thresholds positive."""
    with torch.no_grad():
        for name, value in module.named_parameters():
            value.copy_(scale * torch.randn(value.shape))
            if name == "threshold":
                value.abs_()
    return module


def rows():
    return torch.randn(N, D, generator=torch.Generator().manual_seed(7))


class Expected:
    """Collects what each case gives, and writes it beside the cases."""

    def __init__(self, peer):
        self.folder, self.tensors, self.peer = TO / peer, {"x": rows()}, peer

    def __call__(self, name, out):
        self.tensors[name] = out.detach().float().clone().contiguous()
        return self.folder / name

    def save(self):
        save_file(self.tensors, self.folder / "expected.safetensors")


def sparsify():
    from sparsify import SparseCoder, SparseCoderConfig

    expected = Expected("sparsify")
    cases = {
        "topk": {"num_latents": F, "k": 3},
        "groupmax": {"num_latents": F, "k": 4, "activation": "groupmax"},
        "num_latents_0": {"num_latents": 0, "expansion_factor": 2, "k": 3},
        "bf16": {"num_latents": F, "k": 3},
        "transcoder": {"num_latents": F, "k": 3, "transcode": True},
        "skip_transcoder": {
            "num_latents": F,
            "k": 3,
            "transcode": True,
            "skip_connection": True,
        },
        "skip": {"num_latents": F, "k": 3, "skip_connection": True},
        "run/layers.1.mlp/seed0": {"num_latents": F, "k": 3},
        "run/layers.1.mlp/seed1": {"num_latents": F, "k": 3},
    }
    for name, cfg in cases.items():
        torch.manual_seed(len(expected.tensors))
        coder = randomised(SparseCoder(D, SparseCoderConfig(**cfg)))
        if name == "bf16":
            coder.bfloat16().save_to_disk(TO / "sparsify" / name)
            coder.float()
        out = coder(expected.tensors["x"]).sae_out
        path = expected(name, out)
        if name != "bf16":
            coder.save_to_disk(path)
    expected.save()


def saelens_inference(expected):
    import sae_lens as s

    both = {"d_in": D, "d_sae": F}
    plain = {**both, "apply_b_dec_to_input": False}
    cases = {
        "standard": (s.StandardSAE, s.StandardSAEConfig(**both)),
        "standard_uncentred": (s.StandardSAE, s.StandardSAEConfig(**plain)),
        "standard_layer_norm": (
            s.StandardSAE,
            s.StandardSAEConfig(**both, normalize_activations="layer_norm"),
        ),
        "topk": (s.TopKSAE, s.TopKSAEConfig(**both, k=3)),
        "topk_rescaled": (
            s.TopKSAE,
            s.TopKSAEConfig(**both, k=3, rescale_acts_by_decoder_norm=True),
        ),
        "jumprelu": (s.JumpReLUSAE, s.JumpReLUSAEConfig(**both)),
        "jumprelu_bf16": (s.JumpReLUSAE, s.JumpReLUSAEConfig(**both)),
        "gated": (s.GatedSAE, s.GatedSAEConfig(**both)),
        "transcoder": (s.Transcoder, s.TranscoderConfig(**plain, d_out=E)),
        "skip_transcoder": (s.SkipTranscoder, s.SkipTranscoderConfig(**plain, d_out=E)),
        "jumprelu_transcoder": (
            s.JumpReLUTranscoder,
            s.JumpReLUTranscoderConfig(**plain, d_out=E),
        ),
        "jumprelu_skip_transcoder": (
            s.JumpReLUSkipTranscoder,
            s.JumpReLUSkipTranscoderConfig(**plain, d_out=E),
        ),
        "refused_abstopk": (s.AbsTopKSAE, s.AbsTopKSAEConfig(**both, k=3)),
        "refused_constant_norm": (
            s.StandardSAE,
            s.StandardSAEConfig(**both, normalize_activations="constant_norm_rescale"),
        ),
    }
    for name, (kind, cfg) in cases.items():
        torch.manual_seed(len(expected.tensors))
        sae = randomised(kind(cfg))
        if name == "jumprelu_bf16":
            sae.to(dtype=torch.bfloat16).save_model(expected.folder / name)
            sae.to(dtype=torch.float32)
        path = expected(name, sae(expected.tensors["x"]))
        if name != "jumprelu_bf16":
            sae.save_model(path)


def saelens_checkpoints(expected):
    """Training files as the trainer leaves them, and what the finished SAE of each computes."""
    import sae_lens as s
    from sae_lens.training.activation_scaler import ActivationScaler

    both = {"d_in": D, "d_sae": F}
    scaled = {"normalize_activations": "expected_average_only_in"}
    white = {"normalize_activations": "covariance_whitening"}
    cases = {
        "training_topk": ("TopK", {"k": 3}, None),
        "training_topk_scaled": ("TopK", {"k": 3, **scaled}, 2.5),
        "training_batchtopk": ("BatchTopK", {"k": 3}, None),
        "training_batchtopk_scaled": ("BatchTopK", {"k": 3, **scaled}, 2.5),
        "training_batchtopk_plain_scaled": (
            "BatchTopK",
            {"k": 3, "rescale_acts_by_decoder_norm": False, **scaled},
            0.3,
        ),
        "training_matryoshka": ("MatryoshkaBatchTopK", {"k": 3, "matryoshka_widths": [6, F]}, None),
        "training_standard_scaled": ("Standard", scaled, 0.3),
        "training_jumprelu_scaled": ("JumpReLU", scaled, 2.5),
        "training_gated_scaled": ("Gated", scaled, 2.5),
        "training_standard_whitened": ("Standard", white, None),
        "training_gated_whitened": ("Gated", {**white, "apply_b_dec_to_input": False}, None),
        "training_topk_whitened": ("TopK", {"k": 3, **white}, None),
    }
    for name, (kind, options, factor) in cases.items():
        torch.manual_seed(len(expected.tensors))
        cfg = getattr(s, f"{kind}TrainingSAEConfig")(**both, **options)
        sae = randomised(getattr(s, f"{kind}TrainingSAE")(cfg))
        if hasattr(sae, "topk_threshold"):
            sae.topk_threshold.fill_(0.2)
        scaler = ActivationScaler(factor)
        if options.get("normalize_activations") == "covariance_whitening":
            mixing = torch.randn(D, D)
            batches = iter([torch.randn(200, D) @ mixing + 1.0])
            scaler.estimate_whitening(D, batches, 1)
        path = expected.folder / name
        sae.save_model(path)
        scaler.save(str(path / "activation_scaler.json"))
        if factor is not None:
            sae.fold_activation_norm_scaling_factor(factor)
        if scaler.whitening is not None:
            w = scaler.whitening
            sae.fold_activation_whitening(w.mean, w.matrix, w.inverse_matrix)
        finished = path.with_name(f"{name.removeprefix('training_')}_finished")
        if "batchtopk" not in name:
            import tempfile

            finished = Path(tempfile.mkdtemp()) / "finished"
        sae.save_inference_model(finished)
        out = s.SAE.load_from_disk(finished)(expected.tensors["x"])
        expected(name, out)
        if "batchtopk" in name:
            expected(finished.name, out)


def saelens_old(expected):
    """Settings of before version 6, read by SAELens' own rules for them."""
    import sae_lens as s

    shared = {
        "d_in": D,
        "d_sae": F,
        "dtype": "torch.float32",
        "model_name": "gpt2-small",
        "hook_point": "blocks.1.hook_resid_pre",
        "hook_point_layer": 1,
    }
    cases = {
        "old_standard": {"activation_fn_str": "relu", "normalize_activations": False},
        "old_topk": {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}},
        "old_gated": {"architecture": "gated", "apply_b_dec_to_input": False},
    }
    for name, cfg in cases.items():
        torch.manual_seed(len(expected.tensors))
        kind = {"old_standard": "Standard", "old_topk": "TopK", "old_gated": "Gated"}[name]
        options = {"k": 3} if kind == "TopK" else {}
        new = getattr(s, f"{kind}SAEConfig")(d_in=D, d_sae=F, **options)
        sae = randomised(getattr(s, f"{kind}SAE")(new))
        path = expected.folder / name
        sae.save_model(path)
        (path / "cfg.json").write_text(json.dumps(shared | cfg))
        expected(name, s.SAE.load_from_disk(path)(expected.tensors["x"]))


def saelens():
    expected = Expected("saelens")
    saelens_inference(expected)
    saelens_checkpoints(expected)
    saelens_old(expected)
    expected.save()


def without_init(name):
    """A package without running its `__init__`, which imports libraries that are not needed."""
    spec = importlib.util.find_spec(name)
    module = types.ModuleType(name)
    module.__path__ = list(spec.submodule_search_locations)
    module.__spec__ = spec  # so that it is found again
    sys.modules[name] = module


def dictionary_classes():
    """Class name to a maker of one with random weights."""
    for name in ("dictionary_learning", "dictionary_learning.trainers"):
        without_init(name)
    from dictionary_learning.dictionary import (
        AutoEncoder,
        AutoEncoderNew,
        GatedAutoEncoder,
        JumpReluAutoEncoder,
    )
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
    from dictionary_learning.trainers.top_k import AutoEncoderTopK

    makers = {
        "AutoEncoder": lambda: AutoEncoder(D, F),
        "AutoEncoderNew": lambda: AutoEncoderNew(D, F),
        "GatedAutoEncoder": lambda: GatedAutoEncoder(D, F),
        "JumpReluAutoEncoder": lambda: JumpReluAutoEncoder(D, F),
        "AutoEncoderTopK": lambda: AutoEncoderTopK(D, F, 3),
        "BatchTopKSAE": lambda: BatchTopKSAE(D, F, 3),
        "MatryoshkaBatchTopKSAE": lambda: MatryoshkaBatchTopKSAE(D, F, 3, [6, 6]),
    }
    return {name: (lambda make=make: randomised(make())) for name, make in makers.items()}


def dictionary_learning():
    expected = Expected("dictionary_learning")
    for name, make in dictionary_classes().items():
        torch.manual_seed(len(expected.tensors))
        ae = make()
        if hasattr(ae, "threshold") and ae.threshold.ndim == 0:
            ae.threshold.fill_(0.3)
        config = {"dict_class": name, "activation_dim": D, "dict_size": F, "seed": 3}
        path = expected(name, ae(expected.tensors["x"]))
        path.mkdir(parents=True, exist_ok=True)
        torch.save(ae.state_dict(), path / "ae.pt")
        (path / "config.json").write_text(json.dumps({"trainer": config, "buffer": {}}))
        if not hasattr(ae, "scale_biases"):
            continue
        # as training.py saves it with backup_steps, for activations divided by the factor
        backup, factor = TO / "dictionary_learning" / f"backup_{name}", 2.5
        backup.mkdir(parents=True, exist_ok=True)
        optimizer = torch.optim.Adam(ae.parameters(), lr=1e-3)
        state = {"step": 4, "ae": ae.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(state | {"config": config, "norm_factor": factor}, backup / "ae.pt")
        ae.scale_biases(factor)
        expected(backup.name, ae(expected.tensors["x"]))
    expected.save()


def module_at(path):
    spec = importlib.util.spec_from_file_location("peer_file", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def batchtopk(path):
    peer, expected = module_at(path), Expected("batchtopk")
    kinds = {
        "vanilla": peer.VanillaSAE,
        "topk": peer.TopKSAE,
        "batchtopk": peer.BatchTopKSAE,
        "jumprelu": peer.JumpReLUSAE,
    }
    for kind, maker in kinds.items():
        for unit in (False, True):
            name = f"{kind}_unit_norm" if unit else kind
            cfg = {
                "seed": 1, "act_size": D, "dict_size": F, "device": "cpu", "dtype": torch.float32,
                "input_unit_norm": unit, "top_k": 3, "top_k_aux": 4, "aux_penalty": 0.1,
                "n_batches_to_dead": 5, "l1_coeff": 0, "bandwidth": 0.001, "sae_type": kind,
                "hook_point": "blocks.1.hook_resid_pre", "model_name": "gpt2-small",
            }  # fmt: skip
            sae = randomised(maker(cfg))
            path = expected(name, sae(expected.tensors["x"])["sae_out"])
            path.mkdir(parents=True, exist_ok=True)
            torch.save(sae.state_dict(), path / "sae.pt")
            plain = {k: v if isinstance(v, int | float | str) else str(v) for k, v in cfg.items()}
            (path / "config.json").write_text(json.dumps(plain))
    expected.save()


def e2e_sae(path):
    peer, expected = module_at(path), Expected("e2e_sae")
    torch.manual_seed(1)
    positions = ("blocks-1-hook_resid_pre", "blocks-2-hook_resid_pre")
    saes = torch.nn.ModuleDict({p: randomised(peer.SAE(D, F)) for p in positions})
    expected.folder.mkdir(parents=True, exist_ok=True)
    torch.save(saes.state_dict(), expected.folder / "samples_400.pt")
    for position, sae in saes.items():
        expected(position, sae(expected.tensors["x"])[0])
    expected.save()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("peers", nargs="*", default=["sparsify", "saelens", "dictionary_learning"])
    parser.add_argument("--batchtopk", type=Path)
    parser.add_argument("--e2e", type=Path)
    given = parser.parse_args()
    for peer in given.peers:
        {"sparsify": sparsify, "saelens": saelens, "dictionary_learning": dictionary_learning}[
            peer
        ]()
    if given.batchtopk:
        batchtopk(given.batchtopk)
    if given.e2e:
        e2e_sae(given.e2e)


if __name__ == "__main__":
    main()
