"""What belongs together is found in every family, and zeros compute what removing computes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers as tf

from reseed.errors import SpecError, SubjectError
from reseed.spec.variants import PrunedSpec
from reseed.subjects.variants.anatomy import check_by_a_pass, matrix, structures_of
from reseed.subjects.variants.removal import (
    Removal,
    apply_removal,
    choose,
    most_share,
    random_order,
    told,
)

ONE_HEAD = ["GPT2", "GPTNeoX", "OPT", "Phi"]
GROUPED = ["Llama", "Mistral", "Gemma", "Gemma2", "Gemma3", "Qwen2", "Qwen3"]
IDS = torch.tensor([[1, 5, 6, 3, 9, 2], [4, 4, 8, 7, 1, 0]])


def variant(share, **more):
    return PrunedSpec(method="random", share=share, **more)


def cut(body, structures, taken):
    """Remove rows and columns from the matrices: the plain twin of setting them to zero."""
    for there in structures:
        kept = np.setdiff1d(np.arange(there.count), taken.get(there.key, []))
        for part in there.parts:
            layer, rows = body.get_submodule(part.path), torch.from_numpy(part.at[kept].ravel())
            rows = rows.sort().values  # the order that the model's own views expect
            smaller = matrix(layer)[:, rows] if part.reads else matrix(layer)[rows]
            turned = smaller if isinstance(layer, torch.nn.Linear) else smaller.T
            layer.weight = torch.nn.Parameter(turned.contiguous())
            if not part.reads and layer.bias is not None:
                layer.bias = torch.nn.Parameter(layer.bias[rows])
            if hasattr(layer, "nf"):
                layer.nf = len(smaller)
        owner = body.get_submodule(there.reader.rpartition(".")[0])
        if there.kind == "attention":  # what GPT-2 and OPT do not read off their matrices
            owner.split_size, owner.num_heads = getattr(owner, "head_dim", 0) * len(kept), len(kept)


@pytest.mark.parametrize("family", ONE_HEAD + GROUPED)
def test_zeros_compute_what_removing_computes(make_body, family):
    body, smaller = make_body(family), make_body(family)
    structures = structures_of(body, family)
    check_by_a_pass(body, structures, family)
    heads = 2 if family in GROUPED else 4
    assert [there.count for there in structures] == [heads, 24] * 2
    taken = choose(structures, random_order(structures, 1), 0.4, variant(0.4))
    assert {there.kind for there in structures if there.key in taken} == {"attention", "mlp"}
    whole = body(IDS)[0]
    apply_removal(body, structures, Removal(taken, {}, {}))
    without = body(IDS)[0]
    cut(smaller, structures, taken)
    removed = sum(p.numel() for p in body.parameters()) - sum(
        p.numel() for p in smaller.parameters()
    )
    assert told(structures, taken)["parameters"] == removed
    torch.testing.assert_close(without, smaller(IDS)[0], rtol=1e-4, atol=1e-5)
    assert (without - whole).norm() > 0.01 * whole.norm()


def test_a_share_is_met_and_protected_layers_stay_whole(make_body):
    structures = structures_of(make_body("Llama"), "llama")
    scores = random_order(structures, 0)
    total = sum(there.parameters * there.count for there in structures)
    for share in (0.0, 0.05, 0.3):
        taken = choose(structures, scores, share, variant(share, protect=[-1]))
        assert {key.split(".")[0] for key in taken} <= {"0"}
        assert abs(told(structures, taken)["share"] - share) <= structures[1].parameters / total
    # a larger share takes out the same, and more, but for channels that fill up the share
    few, many = (choose(structures, scores, share, variant(0.1))["0.mlp"] for share in (0.1, 0.3))
    assert len(set(few) & set(many)) >= len(few) - 2
    assert most_share(structures, variant(0.1)) < 1
    with pytest.raises(
        SpecError, match=r"share = 0.6 .* one structure of each kind .* is the most"
    ):
        choose(structures, scores, 0.6, variant(0.6, protect=[0]))
    with pytest.raises(SpecError, match="protect has layer 7, but the model has 2 layers, 0 to 1"):
        choose(structures, scores, 0.1, variant(0.1, protect=[7]))


def test_a_layout_that_the_model_does_not_have_is_found_out(make_body):
    body = make_body("GPTNeoX")
    structures = structures_of(body, "neox")
    fused, reader = structures[0].parts
    stacked = np.arange(48).reshape(3, 4, 4).transpose(1, 0, 2).reshape(4, -1)
    wrong = [replace(structures[0], parts=(replace(fused, at=stacked), reader)), *structures[1:]]
    before = body(IDS)[0]
    with pytest.raises(SubjectError, match="query_key_value|dense does not get the attention"):
        check_by_a_pass(body, wrong, "neox")
    assert torch.equal(body(IDS)[0], before)


@pytest.mark.parametrize(
    ("family", "options", "words"),
    [
        ("Mixtral", {"num_local_experts": 2, "num_key_value_heads": 2}, r"mlp\.gate"),
        ("Mamba", {"state_size": 4}, r"MambaBlock\) has the weights"),
        ("Bert", {}, r"BertLayer\) has the weights"),
        ("T5", {"d_model": 16, "num_layers": 1}, "no stack of layers"),
    ],
)
def test_unknown_structures_are_refused(family, options, words):
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    if family == "T5":
        sizes = {}
    config = getattr(tf, f"{family}Config")(num_attention_heads=4, **sizes, **options)
    with torch.device("meta"):
        body = tf.AutoModel.from_config(config)
    with pytest.raises(SpecError, match=rf"X.*{words}.*checkpoint, or round its weights"):
        structures_of(body, "X")
