"""The doors: the same rows of another version of each kind of subject, and how it predicts."""

import shutil
import sys
from functools import partial

import numpy as np
import pytest
import torch
import transformers as tf
from torch import nn

import reseed
from reseed.errors import SpecError, SubjectError
from reseed.events import Events
from reseed.subjects.inputs import Inputs
from reseed.subjects.variants import (
    check_variant,
    open_variant,
    predicts,
    toy_features_left,
    variant_cross_entropy,
)

EVENTS = Events()
HELD_OUT = [72, 75, 79]


def rows(study, label, blocks=(0, 9, 75)):
    variant = next(v for v in study.spec.variant if v.label == label)
    source = open_variant(study, variant, EVENTS)
    return source.read(list(blocks))


def entropy(study, label):
    variant = next((v for v in study.spec.variant if v.label == label), None)
    return variant_cross_entropy(study, variant, HELD_OUT, EVENTS)


PRUNED = ("saap", "flap", "magnitude", "random")


def test_a_language_model_in_all_versions(language_study, tiny_folder):
    study = language_study(
        [
            *({"method": m, "share": 0.2, "calibration_blocks": 3} for m in PRUNED),
            *({"method": m, "share": 0.0, "calibration_blocks": 2} for m in ("flap", "random")),
            {"method": "random", "equal_perplexity": "int4-32", "calibration_blocks": 2},
            *({"method": "int8"}, {"method": "int4", "group": 32}),
            {"method": "random_weights", "seed": 1},
            {"method": "checkpoint", "model": str(tiny_folder), "name": "itself"},
        ],
        activations={"sites": ["layers.1+layers.2", "layers.3.mlp"], "max_norm": 3.0},
    )
    whole = Inputs(study, EVENTS).source.read([0, 9, 75])
    assert set(whole) == {"layers.1", "layers.2", "layers.3.mlp", "layers.1+layers.2"}
    itself = entropy(study, "the whole")
    assert predicts(study)
    assert itself.dtype == np.float64
    for label in ("flap-0", "random-0", "itself"):
        read = rows(study, label)
        assert all(torch.equal(read[site], x) for site, x in whole.items()), label
    assert entropy(study, "flap-0").tolist() == itself.tolist()
    for variant in study.spec.variant:
        if variant.label in ("flap-0", "random-0", "itself"):
            continue
        read = rows(study, variant.label)
        assert {site: x.shape for site, x in read.items()} == {s: x.shape for s, x in whole.items()}
        if variant.label != "random-as-int4-32":  # where int4 does no harm, nothing is taken out
            assert not torch.equal(read["layers.3.mlp"], whole["layers.3.mlp"])
    for label in ("saap-0.2", "int4-32", "random_weights-1"):
        assert (entropy(study, label) != itself).any(), label
    for method in PRUNED:
        about = study.store.document(f"variants/{method}-0.2", "removed.json")
        assert abs(about["share"] - 0.2) < 0.01
    found = study.store.document("variants/random-as-int4-32", "removed.json")["equal"]
    assert abs(found["cross_entropy"] - found["goal"]) < 0.01
    # what was chosen is kept, and belongs to the settings
    before = study.store.checksum("variants/saap-0.2")
    assert torch.equal(rows(study, "saap-0.2")["layers.2"], rows(study, "saap-0.2")["layers.2"])
    assert study.store.checksum("variants/saap-0.2") == before


def test_a_checkpoint_of_another_shape_or_vocabulary_is_refused(
    language_study, tiny_folder, tmp_path
):
    wide, other = tmp_path / "wide", tmp_path / "other"
    shutil.copytree(tiny_folder, wide)
    shutil.copytree(tiny_folder, other)
    config = tf.LlamaConfig.from_pretrained(tiny_folder)
    config.intermediate_size = 40
    config.save_pretrained(wide)
    words = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(
        words.replace('"cat"', '"tmp"').replace('"dog"', '"cat"').replace('"tmp"', '"dog"')
    )
    study = language_study(
        [{"method": "checkpoint", "model": str(path)} for path in (wide, other, tmp_path / "no")]
        + [{"method": "flap", "share": 0.9}, {"method": "random", "share": 0.1, "protect": [4]}]
    )
    said = [
        r"12 weights differ, the first is layers.0.mlp.gate_proj.weight: \[24, 16\] and \[40, 16\]",
        r"another vocabulary .* 2 tokens differ, the first is '(cat|dog)'",
        "is not there",
        "share = 0.9 is not there to be taken",
        "protect has layer 4, but the model has 4 layers",
    ]
    for variant, words in zip(study.spec.variant, said, strict=True):
        with pytest.raises((SpecError, SubjectError), match=words):
            check_variant(study, variant, EVENTS)
    assert not study.store.has("subject")  # nothing was begun


FLAP = {"method": "flap", "share": 0.1}
SAME = {"method": "random", "equal_perplexity": "flap-0.1"}


@pytest.mark.parametrize(
    ("subject", "variants", "words"),
    [
        (None, [FLAP], "a subject of kind 'toy' has no method 'flap', but random, random_w"),
        ({"dtype": "int8"}, [FLAP], "alters weights, which subject.dtype = 'int8' has rounded"),
        ({"random_weights": 0}, [FLAP, SAME], "'random-as-flap-0.1': random weights predict not"),
        ({"random_weights": 0}, [{"method": "random_weights"}], "is the subject itself"),
        ({}, [FLAP, FLAP], r"two \[\[variant\]\] tables are called 'flap-0.1'"),
        ({}, [SAME], "names no other variant"),
        ({}, [{"method": "flap"}], "method 'flap' needs share, e.g. share = 0.1"),
        ({}, [{**FLAP, "fluctuation": True}], 'fluctuation goes with method = "saap"'),
        ({}, [{**FLAP, "shar": 0.1}], "unknown key; did you mean 'share'"),
        ({}, [{"method": "falp"}], "method 'falp': did you mean 'flap'"),
    ],
)
def test_what_cannot_be_is_refused_by_the_spec(
    language_study, write_study, subject, variants, words
):
    toy = partial(write_study, variant=variants)
    named = {"kind": "language_model", "model": "x", **(subject or {})}
    make = toy if subject is None else partial(language_study, variants, subject=named)
    with pytest.raises(SpecError, match=words):
        reseed.Study.load(make())


def test_a_variant_is_no_part_of_what_a_run_is(language_study):
    one, two = (language_study(variants).spec for variants in ([], [FLAP, SAME]))
    assert [variant.label for variant in two.variant] == ["flap-0.1", "random-as-flap-0.1"]
    assert one.data == two.data
    assert [r.id for r in one.runs(["layers.2"])] == [r.id for r in two.runs(["layers.2"])]


def test_half_of_the_features_of_a_toy_are_cut(write_study):
    variants = [
        {"method": "random", "share": 0.5, "seed": 1},
        {"method": "random", "share": 0.0},
        {"method": "random_weights"},
    ]
    study = reseed.Study.load(write_study(variant=variants))
    whole = Inputs(study, EVENTS).source.read([0, 3])["toy"]
    assert torch.equal(rows(study, "random-0", (0, 3))["toy"], whole)
    left = toy_features_left(study.spec.subject, study.spec.variant[0])
    assert left.sum() == 12
    cut = rows(study, "random-0.5", (0, 3))["toy"]
    from reseed.subjects.toy import Toy

    toy = Toy(study.spec.subject)
    gone = np.concatenate([toy.coefficients(block) for block in (0, 3)])[:, ~left]
    np.testing.assert_allclose(whole - cut, gone @ toy.features[~left], atol=1e-5)
    anew = rows(study, "random_weights-0", (0, 3))["toy"]
    assert (anew - whole).norm() > 0.5 * whole.norm()
    assert not predicts(study)
    with pytest.raises(SpecError, match="kind 'toy' predicts no tokens"):
        entropy(study, "random-0")


def build(scale=1.0, width=8):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))
    net[0].weight.data *= scale
    return net, [torch.randn(16, 4) for _ in range(80)]


def louder():
    return build(3.0)[0], [torch.zeros(1, 4)]


def wider():
    return build(width=9)


def test_a_module_in_all_versions(write_study):
    sys.modules["tiny_networks"] = sys.modules[__name__]
    named = {"factory": f"tiny_networks:{build.__name__}"}
    study = reseed.Study.load(
        write_study(
            subject={"kind": "module", **named},
            activations={"sites": ["0", "2"]},
            variant=[
                {"method": "random_weights", "seed": 2},
                *({"method": "int8"}, {"method": "int4"}),
                {"method": "factory", "factory": "tiny_networks:louder", "name": "louder"},
                {"method": "factory", "factory": "tiny_networks:wider", "name": "wider"},
                {"method": "factory", **named, "name": "itself"},
            ],
        )
    )
    whole = Inputs(study, EVENTS).source.read([0, 9, 75])
    assert all(torch.equal(x, whole[site]) for site, x in rows(study, "itself").items())
    for label in ("random_weights-2", "int8", "int4-64", "louder"):
        assert not torch.equal(rows(study, label)["2"], whole["2"])
    bias = build()[0][0].bias.detach()
    torch.testing.assert_close(rows(study, "louder")["0"] - bias, 3 * (whole["0"] - bias))
    with pytest.raises(SubjectError, match=r"'wider' gives .*'0': 9.* but the subject .*'0': 8"):
        rows(study, "wider")
