"""Files of suites that would run code, or claim sizes that they do not have."""

import json
import tracemalloc

import numpy as np
import pytest
import torch

from reseed.errors import SpecError, StoreError
from reseed.formats import plain, read
from reseed.formats.files import Files


class Runs:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("openai", "3.pt"),
        ("goodfire", "a.pth"),
        ("qwen_scope", "layer3.sae.pt"),
        ("llamascopium", "sae_weights.pt"),
        ("llama_scope_r1", "sae_weights.pt"),
        ("llama_scope", "sae_weights.pt"),
    ],
)
def test_no_code_is_run(tmp_path, name, file) -> None:
    mark = tmp_path / "mark"
    folder = tmp_path / "sae"
    folder.mkdir()
    settings = {"sae_type": "sae", "d_model": 6, "act_fn": "relu", "norm_activation": "inference"}
    for config in ("config.json", "hyperparams.json"):
        (folder / config).write_text(json.dumps(settings))
    torch.save({"sae": {"W_E": torch.zeros(6, 12)}, "W_enc": Runs(mark)}, folder / file)
    with pytest.raises((SpecError, StoreError)):
        read.read(folder / file, format=name)
    read.recognise(folder)
    plain.recognise(Files(folder / file))
    assert not mark.exists()


def huge_npz(folder):
    np.savez(folder / "params.npz", W_enc=np.zeros((6, 12), np.float32))
    path = folder / "params.npz"
    path.write_bytes(path.read_bytes().replace(b"(6, 12)", b"(9, 9**9"[:7]))
    return path


def huge_safetensors(folder):
    entry = {"dtype": "F32", "shape": [10**7, 10**7], "data_offsets": [0, 4 * 10**14]}
    header = json.dumps({"w_enc": entry}).encode()
    path = folder / "params.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    return path


def huge_npy(folder):
    path = folder / "a.npy"
    np.save(path, np.zeros((6, 12), np.float32))
    path.write_bytes(path.read_bytes().replace(b"(6, 12), }", b"(6, 9999999999), }"[:10]))
    return path


@pytest.mark.parametrize("make_file", [huge_npz, huge_safetensors, huge_npy])
def test_sizes_are_not_believed(tmp_path, make_file) -> None:
    path = make_file(tmp_path)
    tracemalloc.start()
    for format in ("gemma_scope", "gemma_scope_2", "circuit_tracer"):
        with pytest.raises((SpecError, StoreError)):
            read.read(path, format=format)
    with pytest.raises((SpecError, StoreError)):
        plain.read(Files(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6
