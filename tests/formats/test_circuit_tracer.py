"""Against what circuit-tracer's own class wrote and computes (tests/peers)."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from reseed.errors import SpecError
from reseed.formats import read


@pytest.mark.parametrize("case", ["relu", "skip", "jumprelu"])
def test_reconstructs_as_their_class(published, case) -> None:
    sae = published("circuit_tracer", case)
    assert not sae.centred
    assert (sae.W_skip is not None) is (case == "skip")
    published("circuit_tracer", case, at=f"{case}/layer_0.safetensors")


def test_negative_thresholds_are_refused(published, tmp_path) -> None:
    """Their JumpReLU has no ReLU in it: it lets p through where p > threshold, below 0 too."""
    given = load_file(published.folder / "circuit_tracer" / "jumprelu" / "layer_0.safetensors")
    given["activation_function.threshold"][3] = -0.1
    save_file(given, tmp_path / "layer_0.safetensors")
    with pytest.raises(SpecError, match="negative codes"):
        read.read(tmp_path)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("kind", ["relu", "jumprelu"])
def test_round_trip(tmp_path, make, same, kind, skip) -> None:
    W_skip = np.random.default_rng(2).normal(size=(6, 6)).astype(np.float32) if skip else None
    sae = make(kind, W_skip=W_skip)
    read.write(tmp_path, sae, "circuit_tracer", layer=9)
    again = read.read(tmp_path / "layer_9.safetensors")
    same(sae, again)
    np.testing.assert_array_equal(again.W_enc, sae.W_enc)


def test_thresholds_below_zero_are_written_as_zero(tmp_path, make, same) -> None:
    sae = make("jumprelu", threshold=np.linspace(-1, 1, 12).astype(np.float32))
    read.write(tmp_path, sae, "circuit_tracer")
    same(sae, read.read(tmp_path))


def test_transposed_matrices_are_another_format(tmp_path, make) -> None:
    read.write(tmp_path, make("relu"), "circuit_tracer")
    given = load_file(tmp_path / "layer_0.safetensors")
    save_file({**given, "W_enc": given["W_enc"].T.copy()}, tmp_path / "layer_0.safetensors")
    assert "circuit_tracer" not in read.recognise(tmp_path)


@pytest.mark.parametrize(
    "changes", [{"kind": "topk"}, {"kind": "relu", "E": 5}, {"kind": "relu", "normalised": True}]
)
def test_what_it_cannot_express_is_refused(tmp_path, make, changes) -> None:
    with pytest.raises(SpecError, match="cannot be written as circuit_tracer"):
        read.write(tmp_path / "new", make(**changes), "circuit_tracer")
    assert not (tmp_path / "new").exists()
