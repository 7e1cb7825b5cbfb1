"""What we write, loaded by the libraries whose formats these are. Run by `make test-peers`.

The other direction is in tests/formats, on files that `write_formats.py` made with them. BatchTopK
and e2e_sae are no packages: name their files in BATCHTOPK_SAE and E2E_SPARSIFIERS.
"""

import importlib.util
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from reseed.errors import SpecError
from reseed.formats import read
from reseed.records import SAEArrays
from reseed.sae.model import from_arrays

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
D, F = 6, 12
PUBLISHED = Path(__file__).parents[1] / "formats" / "published"


def make(kind, *, E=D, k=3, **changes):
    rng = np.random.default_rng(3)

    def normal(*shape):
        return (0.4 * rng.normal(size=shape)).astype(np.float32)

    given = {
        "W_enc": normal(F, D),
        "b_enc": normal(F),
        "W_dec": normal(F, E),
        "b_dec": normal(E),
        "activation": {"kind": kind} if kind in ("relu", "jumprelu") else {"kind": kind, "k": k},
        "threshold": np.abs(normal(F)) if kind == "jumprelu" else None,
        "centred": E == D,
        "about": {},
    }
    return SAEArrays(**(given | changes))


def rows():
    return torch.from_numpy(np.random.default_rng(5).normal(size=(30, D)).astype(np.float32))


def assert_same(theirs, sae) -> None:
    ours = from_arrays(sae).reconstruct(rows())
    torch.testing.assert_close(theirs.detach(), ours, rtol=1e-6, atol=1e-6)


SKIP = {"W_skip": 0.1 * np.ones((D, D), np.float32)}


@pytest.mark.parametrize("kind", ["topk", "groupmax"])
@pytest.mark.parametrize("changes", [{}, {"centred": False}, {"centred": False, **SKIP}, SKIP])
def test_sparsify_loads_ours(tmp_path, kind, changes) -> None:
    sparsify = pytest.importorskip("sparsify")
    sae = make(kind, k=4, **changes)
    read.write(tmp_path, sae, "sparsify")
    coder = sparsify.SparseCoder.load_from_disk(tmp_path)
    assert_same(coder(rows()).sae_out, sae)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "topk"},
        {"kind": "topk", "centred": False},
        {"kind": "topk", "normalised": True},
        {"kind": "relu"},
        {"kind": "relu", "normalised": True},
        {"kind": "jumprelu"},
        {"kind": "jumprelu", "normalised": True, "centred": False},
        {"kind": "relu", "E": 5},
        {"kind": "jumprelu", "E": 5},
        {"kind": "relu", "E": 5, "W_skip": np.ones((5, D), np.float32)},
        {"kind": "jumprelu", **SKIP},
    ],
)
def test_saelens_loads_ours(tmp_path, changes) -> None:
    sae_lens = pytest.importorskip("sae_lens")
    sae = make(**changes)
    read.write(tmp_path, sae, "saelens")
    assert_same(sae_lens.SAE.load_from_disk(tmp_path)(rows()), sae)


@pytest.fixture(scope="module")
def dictionaries():
    pytest.importorskip("einops")
    if importlib.util.find_spec("dictionary_learning") is None:
        pytest.skip("dictionary-learning is not installed")
    path = Path(__file__).with_name("write_formats.py")
    module = module_at(path)
    return {name: type(maker()) for name, maker in module.dictionary_classes().items()}


def module_at(path):
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"kind": "topk"}, "AutoEncoderTopK"),
        ({"kind": "topk", "centred": False}, "AutoEncoderTopK"),
        ({"kind": "relu"}, "AutoEncoder"),
        ({"kind": "relu", "centred": False}, "AutoEncoderNew"),
        ({"kind": "jumprelu"}, "JumpReluAutoEncoder"),
    ],
)
def test_dictionary_learning_loads_ours(tmp_path, dictionaries, changes, name) -> None:
    sae = make(**changes)
    read.write(tmp_path, sae, "dictionary_learning")
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["trainer"]["dict_class"] == name
    ae = dictionaries[name].from_pretrained(tmp_path / "ae.pt")
    assert_same(ae(rows()), sae)


def test_dictionary_learning_takes_an_unset_threshold_for_a_value(tmp_path, dictionaries) -> None:
    """With -1, "never set", its class lets all positive codes pass; its batch rule is right."""
    sae = make("batchtopk")
    read.write(tmp_path, sae, "dictionary_learning")
    ae = dictionaries["BatchTopKSAE"].from_pretrained(tmp_path / "ae.pt")
    assert_same(ae.decode(ae.encode(rows(), use_threshold=False)), sae)
    relu = make("relu", **{name: getattr(sae, name) for name in ("W_enc", "b_enc", "W_dec")})
    assert_same(ae(rows()), relu)


def test_sparsify_to_saelens_and_back(tmp_path) -> None:
    """A file of sparsify's own, converted, computes the same in SAELens."""
    sae_lens, sparsify = pytest.importorskip("sae_lens"), pytest.importorskip("sparsify")
    for case in ("topk", "num_latents_0"):
        source = PUBLISHED / "sparsify" / case
        read.write(tmp_path / case, read.read(source), "saelens")
        theirs = sparsify.SparseCoder.load_from_disk(source)(rows()).sae_out
        converted = sae_lens.SAE.load_from_disk(tmp_path / case)(rows())
        torch.testing.assert_close(converted, theirs, rtol=1e-6, atol=1e-6)


def test_saelens_cannot_read_sparsify(tmp_path) -> None:
    """Its loader transposes W_dec; sparsify itself is the judge of its format, and we agree."""
    sae_lens, sparsify = pytest.importorskip("sae_lens"), pytest.importorskip("sparsify")
    from sae_lens.loading.pretrained_sae_loaders import sparsify_disk_loader

    folder = tmp_path / "layers.1"
    shutil.copytree(PUBLISHED / "sparsify" / "topk", folder)
    theirs = sparsify.SparseCoder.load_from_disk(folder)(rows()).sae_out
    assert_same(theirs, read.read(folder))
    with pytest.raises(RuntimeError, match="size mismatch for W_dec"):
        sae_lens.SAE.load_from_disk(folder, converter=sparsify_disk_loader)


def test_sparsify_cannot_read_its_seed_folders() -> None:
    sparsify = pytest.importorskip("sparsify")
    run = PUBLISHED / "sparsify" / "run"
    with pytest.raises(FileNotFoundError):
        sparsify.SparseCoder.load_many(str(run), local=True)
    assert len(read.list_saes(run)) == 2


def test_saelens_loads_checkpoints_in_scaled_units(tmp_path) -> None:
    """A checkpoint loaded by itself computes another function than the SAE it becomes."""
    sae_lens = pytest.importorskip("sae_lens")
    case = PUBLISHED / "saelens" / "training_standard_scaled"
    alone = sae_lens.SAE.load_from_disk(case)(rows())
    ours = from_arrays(read.read(case)).reconstruct(rows())
    assert not torch.allclose(alone, ours, atol=1e-3)
    folded = sae_lens.SAE.load_from_disk(case)
    folded.fold_activation_norm_scaling_factor(0.3)
    torch.testing.assert_close(folded(rows()).detach(), ours, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["relu", "topk", "batchtopk", "jumprelu"])
@pytest.mark.parametrize("normalised", [False, True])
def test_batchtopk_loads_ours(tmp_path, kind, normalised) -> None:
    if "BATCHTOPK_SAE" not in os.environ:
        pytest.skip("BATCHTOPK_SAE does not name its sae.py")
    peer = module_at(os.environ["BATCHTOPK_SAE"])
    bias = {"b_enc": np.zeros(F, np.float32)} if "topk" in kind else {}
    sae = make(kind, normalised=normalised, **bias)
    read.write(tmp_path, sae, "batchtopk")
    cfg = json.loads((tmp_path / "config.json").read_text()) | {
        "seed": 0, "device": "cpu", "dtype": torch.float32, "top_k_aux": 4, "aux_penalty": 0.1,
        "n_batches_to_dead": 5, "l1_coeff": 0, "bandwidth": 0.001,
    }  # fmt: skip
    names = {"relu": "VanillaSAE", "topk": "TopKSAE", "batchtopk": "BatchTopKSAE"}
    theirs = getattr(peer, names.get(kind, "JumpReLUSAE"))(cfg)
    theirs.load_state_dict(torch.load(tmp_path / "sae.pt", weights_only=True))
    assert_same(theirs(rows())["sae_out"], sae)


def test_e2e_sae_loads_ours(tmp_path) -> None:
    if "E2E_SPARSIFIERS" not in os.environ:
        pytest.skip("E2E_SPARSIFIERS does not name its sparsifiers.py")
    peer = module_at(os.environ["E2E_SPARSIFIERS"])
    sae = make("relu", about={"site": "blocks.1"})
    read.write(tmp_path, sae, "e2e_sae")
    theirs = torch.nn.ModuleDict({"blocks-1": peer.SAE(D, F)})
    theirs.load_state_dict(torch.load(tmp_path / "samples_0.pt", weights_only=True))
    assert_same(theirs["blocks-1"](rows())[0], sae)


def test_what_none_of_them_has_is_refused(tmp_path) -> None:
    for name in ("saelens", "dictionary_learning", "batchtopk", "e2e_sae"):
        with pytest.raises(SpecError):
            read.write(tmp_path / name, make("groupmax", k=4), name)
