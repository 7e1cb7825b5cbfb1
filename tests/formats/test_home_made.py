"""Files without a library: found by names that are in use, or by those that the caller gives."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import reseed
from reseed.errors import SpecError
from reseed.formats import read

D, F, K = 6, 12, 3


@pytest.fixture
def sae():
    """(W_enc [F, D], W_dec [F, D], b_enc, b_dec) and rows."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, generator=generator) for size in ((F, D), (F, D), F, D, (50, D))]


def reconstructed(sae, centred, k=None):
    W_enc, W_dec, b_enc, b_dec, x = sae
    codes = torch.relu((x - b_dec if centred else x) @ W_enc.T + b_enc)
    if k is not None:
        values, places = codes.topk(k, dim=1)
        codes = torch.zeros_like(codes).scatter_(1, places, values)
    return codes @ W_dec + b_dec


def linear(sae):
    W_enc, W_dec, b_enc, b_dec, _ = sae
    return {
        "encoder.weight": W_enc, "encoder.bias": b_enc,
        "decoder.weight": W_dec.T.contiguous(), "decoder.bias": b_dec,
    }  # fmt: skip


def close(ours, right):
    torch.testing.assert_close(ours, right, atol=1e-5, rtol=0)


WRAPPED = {
    "deeper": lambda arrays: {"state_dict": arrays, "config": {"k": K}, "step": 3},
    "much deeper": lambda arrays: {"model": {"state_dict": arrays}, "args": {"top_k": K}},
    "of DistributedDataParallel": lambda arrays: {
        "model_state_dict": {f"module.{name}": array for name, array in arrays.items()},
        "optimizer_state_dict": {"lr": 1e-3}, "cfg": {"activation": "topk", "k": K},
    },
    "compiled": lambda arrays: {
        "state_dict": {f"_orig_mod.module.{name}": array for name, array in arrays.items()},
        "config": {"device": torch.device("cpu"), "dtype": torch.int64, "k": K, "seen": {1, 2}},
    },
}  # fmt: skip


@pytest.mark.parametrize("case", WRAPPED)
def test_what_trainings_wrap_around_an_sae(tmp_path, sae, case) -> None:
    torch.save(WRAPPED[case](linear(sae)), tmp_path / "sae.pt")
    loaded = reseed.load(tmp_path / "sae.pt")
    assert loaded.activation == {"kind": "topk", "k": K}
    close(loaded.reconstruct(sae[-1]), reconstructed(sae, False, K))
    warned = " ".join(loaded.about["warnings"])
    assert "whether decoder.bias is subtracted" in warned
    assert "rule is that of settings" in warned


def test_k_in_the_settings_beside(tmp_path, sae) -> None:
    save_file(linear(sae), tmp_path / "sae.safetensors")
    (tmp_path / "hparams.json").write_text(json.dumps({"sae": {"k": K}}))
    close(reseed.load(tmp_path).reconstruct(sae[-1]), reconstructed(sae, False, K))
    centred = reseed.load(tmp_path, centred=True)
    close(centred.reconstruct(sae[-1]), reconstructed(sae, True, K))
    assert "subtracted" not in " ".join(centred.about["warnings"])


@pytest.mark.parametrize("turned", [False, True])
def test_matrices_lie_as_their_biases_say(tmp_path, sae, turned) -> None:
    W_enc, W_dec, b_enc, b_dec, x = sae
    pair = {"W_enc": W_enc.T if turned else W_enc, "W_dec": W_dec.T if turned else W_dec}
    np.savez(tmp_path / "a.npz", **pair, b_enc=b_enc, b_dec=b_dec)
    with pytest.raises(SpecError, match=r"W_enc .* not said in it.*rule=relu"):
        reseed.load(tmp_path / "a.npz")
    close(reseed.load(tmp_path / "a.npz", rule="relu").reconstruct(x), reconstructed(sae, True))
    close(reseed.load(tmp_path / "a.npz", k=K).reconstruct(x), reconstructed(sae, True, K))


def test_square_matrices_are_not_guessed(tmp_path) -> None:
    arrays = {"W_enc": torch.randn(5, 5), "W_dec": torch.randn(5, 5), "b_enc": torch.zeros(5)}
    torch.save(arrays, tmp_path / "a.pt")
    with pytest.raises(SpecError, match="rows=latents"):
        reseed.load(tmp_path / "a.pt", rule="relu")
    given = reseed.load(tmp_path / "a.pt", rule="relu", rows="dimensions")
    torch.testing.assert_close(given.W_dec, arrays["W_dec"].T.contiguous())


def test_arrays_by_any_name_can_be_named(tmp_path, sae, cli) -> None:
    W_enc, W_dec, b_enc, b_dec, x = sae
    named = {"A": W_enc, "B": W_dec, "c": b_enc, "d": b_dec, "num_steps": torch.zeros(3)}
    torch.save(named, tmp_path / "a.pt")
    wanted = r"perhaps --read W_enc=A --read W_dec=B --read b_enc=c --read b_dec=d --read rule=topk"
    with pytest.raises(SpecError, match=rf"A \[12, 6\], B \[12, 6\].*{wanted}"):
        reseed.load(tmp_path / "a.pt")
    names = {"W_enc": "A", "W_dec": "B", "b_enc": "c", "b_dec": "d"}
    loaded = reseed.load(tmp_path / "a.pt", format="home_made", rule="topk", k=K, **names)
    close(loaded.reconstruct(x), reconstructed(sae, True, K))
    assert "num_steps" in " ".join(loaded.about["warnings"])
    for wrong in ("Z", 3, []):
        with pytest.raises(SpecError, match="no array"):
            reseed.load(tmp_path / "a.pt", format="home_made", W_enc=wrong)
    pairs = [part for name, key in names.items() for part in ("--read", f"{name}={key}")]
    done = cli("inspect", tmp_path / "a.pt", "--format", "home_made", "--read", "rule=relu", *pairs)
    assert done.returncode == 0, done.stderr
    done = cli("convert", tmp_path / "a.pt", tmp_path / "b", "--to", "reseed", *pairs,
               "--read", "rule=topk", "--read", f"k={K}")  # fmt: skip
    assert done.returncode == 0, done.stderr
    close(reseed.load(tmp_path / "b").reconstruct(x), loaded.reconstruct(x))
    both = reseed.compare(tmp_path / "a.pt", tmp_path / "b", read={**names, "rule": "topk", "k": K})
    assert both.shared == 1
    with pytest.raises(SpecError, match="no option 'kk'"):
        reseed.compare(tmp_path / "a.pt", tmp_path / "b", read={**names, "kk": K})
    compared = reseed.compare(
        tmp_path / "a.pt", W_dec.numpy(), read={"decoder": "B", "rows": "latents"}
    )
    assert compared.shared == 1


def test_arrays_in_a_dict_in_the_file_can_be_named(tmp_path, sae) -> None:
    W_enc, W_dec, _, _, x = sae
    torch.save({"net": {"A": W_enc, "B": W_dec}, "seen": torch.zeros(1)}, tmp_path / "last.ckpt")
    with pytest.raises(SpecError, match=r"net {A, B}"):
        reseed.load(tmp_path)
    names = {"W_enc": "net.A", "W_dec": "net.B", "rows": "latents", "ignore": "seen"}
    loaded = reseed.load(tmp_path, format="home_made", rule="relu", **names)
    close(loaded.reconstruct(x), torch.relu(x @ W_enc.T) @ W_dec)


def test_settings_one_folder_up(tmp_path, sae) -> None:
    (tmp_path / "layer_3").mkdir()
    torch.save(linear(sae), tmp_path / "layer_3" / "last.ckpt")
    (tmp_path / "config.json").write_text(json.dumps({"sae": {"type": "TopK", "k": K}}))
    for path in (tmp_path / "layer_3", tmp_path / "layer_3" / "last.ckpt"):
        assert reseed.load(path).activation == {"kind": "topk", "k": K}


def test_what_nobody_uses_is_refused(tmp_path, sae) -> None:
    torch.save(linear(sae) | {"gate": torch.ones(F)}, tmp_path / "a.pt")
    with pytest.raises(SpecError, match="also holds gate"):
        reseed.load(tmp_path / "a.pt", rule="relu")
    reseed.load(tmp_path / "a.pt", rule="relu", ignore="gate")
    config = {"k": K, "normalize_activations": True, "step": 7}
    torch.save({"state_dict": linear(sae), "config": config}, tmp_path / "b.pt")
    with pytest.raises(SpecError, match="normalize_activations = True"):
        reseed.load(tmp_path / "b.pt")
    reseed.load(tmp_path / "b.pt", ignore="normalize_activations")


def test_thresholds_make_a_jumprelu(tmp_path, sae) -> None:
    W_enc, W_dec, b_enc, b_dec, x = sae
    arrays = {"W_e": W_enc, "W_d": W_dec, "b_e": b_enc, "b_d": b_dec, "threshold": torch.ones(F)}
    torch.save(arrays, tmp_path / "a.pt")
    loaded = reseed.load(tmp_path / "a.pt", centred=False)
    pre = x @ W_enc.T + b_enc
    close(loaded.reconstruct(x), torch.where(pre > 1, pre, 0) @ W_dec + b_dec)


def test_one_threshold_and_a_k_are_not_guessed_between(tmp_path, sae) -> None:
    """The arrays of two classes of dictionary_learning, in another container."""
    both = linear(sae) | {"k": torch.tensor(K), "threshold": torch.tensor(-1.0)}
    save_file(both, tmp_path / "a.safetensors")
    with pytest.raises(SpecError, match="not said in it"):
        reseed.load(tmp_path / "a.safetensors")
    with pytest.raises(SpecError, match="no threshold was ever set"):
        reseed.load(tmp_path / "a.safetensors", rule="batchtopk")
    loaded = reseed.load(tmp_path / "a.safetensors", rule="topk", ignore="threshold")
    assert loaded.activation == {"kind": "topk", "k": K}


def test_directions_are_compared_without_a_rule(tmp_path, sae) -> None:
    W_enc, W_dec, b_enc, b_dec, _ = sae
    arrays = {"W_enc": W_enc.T.contiguous(), "W_dec": W_dec, "b_enc": b_enc, "b_dec": b_dec}
    torch.save(arrays, tmp_path / "a.pt")
    compared = reseed.compare(tmp_path / "a.pt", (W_enc.numpy(), W_dec.numpy()))
    assert "directions alone" in " ".join(compared.warnings)
    torch.save(W_dec, tmp_path / "tensor.pt")
    reseed.compare(tmp_path / "tensor.pt", W_dec.numpy())


def test_it_is_not_written(tmp_path, make) -> None:
    with pytest.raises(SpecError, match="no format to write"):
        read.write(tmp_path / "a", make("topk"), "home_made")
