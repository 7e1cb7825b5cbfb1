"""The inference rules of all kinds of SAE, against loops over single numbers."""

import numpy as np
import pytest

import reseed
from reseed.errors import SpecError
from reseed.formats import own
from reseed.records import SAEArrays
from reseed.sae.model import from_arrays

F, D, E, N = 12, 5, 7, 9
RULES = [
    {"kind": "topk", "k": 3},
    {"kind": "groupmax", "k": 4},
    {"kind": "relu"},
    {"kind": "jumprelu"},
    {"kind": "batchtopk", "k": 2},
]


def arrays(rule, *, transcoder=False, **changes) -> SAEArrays:
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    out = E if transcoder else D
    given = {
        "W_enc": normal(F, D),
        "b_enc": normal(F),
        "W_dec": normal(F, out),
        "b_dec": normal(out),
        "activation": rule,
        "threshold": np.abs(normal(F)) if rule["kind"] == "jumprelu" else None,
        "W_skip": normal(out, D) if transcoder else None,
        "centred": not transcoder,
        "about": {},
    }
    return SAEArrays(**(given | changes))


def codes_by_hand(pre, rule, threshold):
    p = np.maximum(pre, 0)
    out = np.zeros_like(p)
    kind, k = rule["kind"], rule.get("k", 0)
    if kind == "batchtopk":
        flat = np.argsort(-p, axis=None)[: k * len(p)]
        out.flat[flat] = p.flat[flat]
        return out
    for i, row in enumerate(p):
        for j, value in enumerate(row):
            run = row[j // (F // max(k, 1)) * (F // max(k, 1)) :][: F // max(k, 1)]
            keep = {
                "topk": (row > value).sum() < k,
                "groupmax": value == run.max(),
                "relu": True,
                "jumprelu": threshold is not None and value > threshold[j],
            }[kind]
            out[i, j] = value if keep else 0
    return out


@pytest.mark.parametrize(
    ("transcoder", "normalised"), [(False, False), (False, True), (True, False)]
)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["kind"])
def test_rules_by_hand(rule, transcoder: bool, normalised: bool) -> None:
    a = arrays(rule, transcoder=transcoder, normalised=normalised)
    x = np.random.default_rng(1).normal(1, 2, size=(N, D)).astype(np.float32)
    mean, scale, least = 0.0, 1.0, 0.0
    if normalised:
        mean, scale, least = x.mean(1, keepdims=True), x.std(1, ddof=1, keepdims=True), 1e-5
    rows = (x - mean) / (scale + least)
    pre = (rows - a.b_dec if a.centred else rows) @ a.W_enc.T + a.b_enc
    codes = codes_by_hand(pre, rule, a.threshold)
    expected = codes @ a.W_dec + a.b_dec
    if transcoder:
        expected = expected + rows @ a.W_skip.T
    sae = from_arrays(a)
    np.testing.assert_allclose(sae.encode(x), codes, atol=1e-5)
    np.testing.assert_allclose(sae.reconstruct(x), expected * scale + mean, atol=2e-5)
    assert sae.reconstruct(x.reshape(3, 3, D)).shape == (3, 3, E if transcoder else D)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["kind"])
def test_own_format_keeps_every_kind(tmp_path, rule) -> None:
    sae = from_arrays(arrays(rule, transcoder=rule["kind"] == "relu"))
    own.write(tmp_path, sae.arrays())
    again: reseed.SAE = from_arrays(own.read(tmp_path))
    x = np.random.default_rng(1).normal(size=(N, D)).astype(np.float32)
    np.testing.assert_array_equal(sae.reconstruct(x), again.reconstruct(x))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"activation": {"kind": "jumpreluu"}}, "jumprelu"),
        ({"threshold": None}, "threshold"),
        ({"activation": {"kind": "topk", "k": 0}}, "k"),
        ({"activation": {"kind": "topk", "k": F + 1}}, "k"),
        ({"activation": {"kind": "groupmax", "k": 5}}, "multiple"),
    ],
)
def test_bad_rules_are_refused(changes, word: str) -> None:
    given = {"kind": "jumprelu"} if "threshold" in changes else {"kind": "relu"}
    with pytest.raises(SpecError, match=word):
        from_arrays(arrays(given, **changes))
