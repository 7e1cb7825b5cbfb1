"""From every format to every other that can hold the SAE, and back to the same reconstruction."""

import itertools

import numpy as np
import pytest

from reseed.errors import SpecError
from reseed.formats import read

ONE_THRESHOLD = np.full(12, 0.3, np.float32)
SKIP = np.random.default_rng(2).normal(size=(6, 6)).astype(np.float32)
NO_BIAS = np.zeros(12, np.float32)

CENTRED_TOPK = {
    "reseed", "sparsify", "saelens", "dictionary_learning",
    "llama_scope", "llama_scope_r1", "llamascopium", "qwen_scope",
}  # fmt: skip
RELU = {
    "reseed", "saelens", "dictionary_learning", "batchtopk", "e2e_sae", "llama_scope",
    "llama_scope_r1", "llamascopium", "gemma_scope", "gemma_scope_2", "openai", "goodfire",
    "circuit_tracer",
}  # fmt: skip
JUMPRELU = {
    "reseed", "saelens", "dictionary_learning", "batchtopk", "llama_scope_r1", "llamascopium",
    "gemma_scope", "gemma_scope_2", "circuit_tracer",
}  # fmt: skip
KINDS = {
    "topk": ({"kind": "topk"}, CENTRED_TOPK),
    "topk without encoder bias": ({"kind": "topk", "b_enc": NO_BIAS}, CENTRED_TOPK | {"batchtopk"}),
    "topk, uncentred": ({"kind": "topk", "centred": False}, CENTRED_TOPK),
    "topk, normalised": ({"kind": "topk", "normalised": True}, {"reseed", "saelens", "openai"}),
    "relu": ({"kind": "relu"}, RELU),
    "relu, uncentred": ({"kind": "relu", "centred": False}, RELU),
    "jumprelu": ({"kind": "jumprelu"}, JUMPRELU),
    "jumprelu, one threshold": (
        {"kind": "jumprelu", "threshold": ONE_THRESHOLD},
        JUMPRELU | {"llama_scope"},
    ),
    "groupmax": ({"kind": "groupmax", "k": 4}, {"reseed", "sparsify"}),
    "batchtopk": ({"kind": "batchtopk"}, {"reseed", "dictionary_learning", "llamascopium"}),
    "transcoder": (
        {"kind": "jumprelu", "E": 5},
        {"reseed", "saelens", "gemma_scope", "gemma_scope_2"},
    ),
    "transcoder of one width": (
        {"kind": "jumprelu", "centred": False, "about": {"site": "a", "target": "b"}},
        {"reseed", "saelens", "gemma_scope", "gemma_scope_2", "circuit_tracer"},
    ),
    "skip transcoder": (
        {"kind": "relu", "W_skip": SKIP, "centred": False},
        {"reseed", "saelens", "gemma_scope_2", "circuit_tracer"},
    ),
}

QUICK = {"topk, normalised", "jumprelu", "groupmax", "batchtopk", "transcoder", "skip transcoder"}
"""All pairs of these are tried each time, of the others by `make test-all`."""


def write(folder, sae, name):
    """Into a folder that also says k, for the format that keeps it there."""
    folder = folder / f"{name}-L0_{sae.activation.get('k', 0)}"
    read.write(folder, sae, name)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_formats_hold_what_they_should_and_refuse_the_rest(tmp_path, make, same, kind) -> None:
    given, holders = KINDS[kind]
    sae, able = make(**given), set()
    for name in read.names():
        try:
            folder = write(tmp_path, sae, name)
        except SpecError:
            assert not (tmp_path / name).exists()
            continue
        able.add(name)
        assert read.recognise(folder) == [name]
        same(sae, read.read(folder))
    assert able == holders


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind in QUICK else pytest.mark.slow) for kind in KINDS]
)
def test_every_pair(tmp_path, make, same, kind) -> None:
    given, holders = KINDS[kind]
    sae = make(**given)
    first = {name: read.read(write(tmp_path, sae, name)) for name in sorted(holders)}
    for a, b in itertools.permutations(first, 2):
        if b == "batchtopk" and kind.startswith("topk") and first[a].b_enc.any():
            continue  # folding there and back left 1e-8 in a bias that it does not have
        again = read.read(write(tmp_path / a, first[a], b))
        same(sae, again, 2e-6)  # folded twice, once on each way
