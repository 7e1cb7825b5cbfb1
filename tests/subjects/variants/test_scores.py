"""Scores against plain twins, what FLAP puts back, and shares found by bisection."""

import numpy as np
import pytest
import torch
from torch import nn

from reseed.errors import SubjectError
from reseed.events import Events
from reseed.spec.variants import PrunedSpec
from reseed.subjects.sites import read_sites
from reseed.subjects.variants import importance
from reseed.subjects.variants.anatomy import matrix, structures_of
from reseed.subjects.variants.perplexity import match_cross_entropy
from reseed.subjects.variants.removal import Removal, apply_removal, choose, put_back

BATCHES = torch.tensor([[1, 5, 6, 3, 9], [4, 4, 8, 7, 1], [2, 19, 3, 3, 11]])


class Text:
    """As much of `TokenBlocks` as is read."""

    padded, ids = False, BATCHES.numpy()
    keep = np.array([[0, 1, 1, 1, 1]] * 3, bool)


@pytest.fixture
def llama(make_body):
    body = make_body("Qwen2")
    return body, structures_of(body, "qwen")


def gradients(body, loss):
    """Of each matrix of the structures, `[outputs, inputs]`, block by block; the plain way."""
    out = []
    for block in range(3):
        body.requires_grad_(True)
        body.zero_grad()
        loss(block).backward()
        out.append({name: p.grad.clone() for name, p in body.named_parameters()})
    body.requires_grad_(False)
    body.zero_grad()
    return out


def twin(body, structures, each):
    """Vector-wise and element-wise importance, a structure and a row or column at a time."""
    vector, element = {}, {}
    for there in structures:
        v, e = np.zeros(there.count), np.zeros(there.count)
        for part in there.parts:
            name = f"{part.path}.weight"
            w = matrix(body.get_submodule(part.path)).double().numpy()
            gs = [one[name].double().numpy() for one in each]
            g, h = sum(gs) / len(gs), sum(x * x for x in gs) / len(gs)
            for s in range(there.count):
                for k in part.at[s]:
                    at = (slice(None), k) if part.reads else k
                    v[s] += abs((g[at] * w[at]).sum())
                    e[s] += np.abs(g[at] * w[at] - 0.5 * h[at] * w[at] ** 2).sum()
        vector[there.key], element[there.key] = v, e
    return vector, element


def test_taylor_scores_are_those_of_a_plain_twin(llama):
    body, structures = llama

    def loss(block):
        return (body(BATCHES[block : block + 1])[0] ** 2).mean()

    each = gradients(body, loss)
    taylor = importance.by_gradient(body, structures, [0, 1, 2], loss, Events())
    assert not any(p.requires_grad or p.grad is not None for p in body.parameters())
    vector, element = twin(body, structures, each)
    singles = [twin(body, structures, [one]) for one in each]
    fused, steady = (
        importance.by_taylor(taylor, PrunedSpec(method="saap", share=0.1, fluctuation=f))
        for f in (False, True)
    )
    only = importance.by_taylor(taylor, PrunedSpec(method="taylor_element", share=0.1))
    for key in vector:
        np.testing.assert_allclose(taylor.vector[key], vector[key], rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(taylor.element[key], element[key], rtol=1e-4, atol=1e-7)

        def both(v, e, key=key):
            return 0.5 * v[key] / v[key].mean() + 0.5 * e[key] / e[key].mean()

        wanted = both(vector, element)
        np.testing.assert_allclose(fused[key], wanted, rtol=1e-4)
        np.testing.assert_allclose(only[key], element[key] / element[key].mean(), rtol=1e-4)
        of_blocks = np.array([both(*single) for single in singles])
        spread = of_blocks.std(0) / of_blocks.mean(0)
        np.testing.assert_allclose(steady[key], wanted / (1 + spread), rtol=1e-3)


def test_magnitude_is_a_root_mean_square(llama):
    body, structures = llama
    there = structures[0]
    weights = [
        matrix(body.get_submodule(p.path)).numpy()[(slice(None), p.at[1]) if p.reads else p.at[1]]
        for p in there.parts
    ]
    wanted = np.sqrt(np.mean(np.concatenate([w.ravel() for w in weights]) ** 2))
    assert importance.by_magnitude(body, structures)[there.key][1] == pytest.approx(wanted)


def outputs(body, there):
    read = read_sites(body, [f"{there.reader}:in", there.reader], lambda: body(BATCHES))
    return [
        read[site][:, 1:].flatten(0, 1).double() for site in (f"{there.reader}:in", there.reader)
    ]


def test_flap_measures_the_variance_and_keeps_the_mean(llama):
    body, structures = llama
    given = importance.inputs_of_readers(body, structures, Text(), [0, 1, 2], Events())
    attention, mlp = structures[:2]
    x, before = outputs(body, mlp)
    np.testing.assert_allclose(given["0.mlp"].mean, x.mean(0), atol=1e-6)
    each = x.var(0, correction=0) * (matrix(body.get_submodule(mlp.reader)).double() ** 2).sum(0)
    wanted = (each - each.mean()) / each.std()
    scores = importance.by_fluctuation(body, structures, given)
    np.testing.assert_allclose(scores["0.mlp"], wanted, atol=1e-5)
    of_heads, _ = outputs(body, attention)
    by_input = of_heads.var(0, correction=0) * (
        matrix(body.get_submodule(attention.reader)).double() ** 2
    ).sum(0)
    squared = by_input**2
    standard = ((squared - squared.mean()) / squared.std()).reshape(attention.count, -1).mean(1)
    np.testing.assert_allclose(scores["0.attention"], standard, atol=1e-5)

    taken = choose([mlp], scores, 0.5, PrunedSpec(method="flap", share=0.5))
    bias = put_back(body, structures, taken, given)
    apply_removal(body, structures, Removal(taken, bias, {}))
    assert not matrix(body.get_submodule(mlp.reader))[:, taken["0.mlp"]].any()
    _, after = outputs(body, mlp)
    torch.testing.assert_close(after.mean(0), before.mean(0), rtol=1e-4, atol=1e-5)
    assert (after - before).norm() > 0.01 * before.norm()


def test_a_share_is_found_by_bisection_and_the_body_is_left_whole(llama):
    body, structures = llama
    variant = PrunedSpec(method="random", equal_perplexity="x", seed=3)
    matrices = [matrix(body.get_submodule(s.reader)) for s in structures]
    before = {name: value.clone() for name, value in body.state_dict().items()}
    total = sum(m.numel() for m in matrices)

    def measure():
        return 3.0 + 2.0 * sum(int((m == 0).sum()) for m in matrices) / total

    found = match_cross_entropy(body, structures, variant, 3.5, measure)
    assert abs(found.cross_entropy - 3.5) < 0.06  # a head is a twelfth of all
    assert 0.15 < found.share < 0.4
    assert match_cross_entropy(body, structures, variant, 2.9, measure).taken == {}
    with pytest.raises(SubjectError, match=r"at random, the most, gives .* below the 9.000 of 'x'"):
        match_cross_entropy(body, structures, variant, 9.0, measure)
    assert all(torch.equal(value, before[name]) for name, value in body.state_dict().items())


def test_a_bias_is_made_where_there_is_none(llama):
    body, structures = llama
    reader = body.get_submodule(structures[1].reader)
    assert isinstance(reader, nn.Linear)
    assert reader.bias is None
    taken = {"0.mlp": np.array([2])}
    apply_removal(body, structures, Removal(taken, {"0.mlp": np.ones(16, np.float32)}, {}))
    assert torch.equal(reader(torch.zeros(24)), torch.ones(16))
