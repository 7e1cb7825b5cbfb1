"""What cannot be done as written is refused with a message, before anything is made."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

import reseed
from reseed.errors import SpecError, SubjectError
from reseed.seeds import digest, generator
from reseed.spec.refusals import read_spec
from reseed.store import BUILDING, beside
from reseed.study import Study, StudySpec


def refused(path, tmp_path):
    """The message of a study that is refused when it is read; nothing is made."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SpecError) as caught:
        Study.load(path)
    assert sorted(tmp_path.rglob("*")) == before
    assert caught.value.exit_code == 2
    return str(caught.value)


STUDIES = sorted((Path(__file__).parent.parent / "studies").glob("*.toml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_that_is_shown_can_be_read(path):
    study = Study.load(path, "nowhere")
    assert len(study.spec.runs(study.spec.activations.sites)) > 1


LM = {"kind": "language_model", "model": "x"}


def fitted(name, **sae):
    return {"sae": [{"architecture": name, **sae}]}


def controlled(kind, name, **sae):
    return {"controls": {"kinds": [kind]}, **fitted(name, latents=16, **sae)}


@pytest.mark.parametrize(
    ("changes", "place", "meant"),
    [
        ({"trainnig": {"tokens": 1}}, "trainnig", "training"),
        ({"activations": {"token": 5}}, "activations.token", "tokens"),
        ({"sae": [{"latnets": 4, "latents": 4}]}, "sae.0.topk.latnets", "latents"),
        ({"seeds": {"inits": [1]}}, "seeds.inits", "init"),
        ({"training": {"snapshot": [0.5]}}, "training.snapshot", "snapshots"),
        ({"matching": {"tua": 0.5}}, "matching.tua", "tau"),
        ({"evidence": {"context": 1}}, "evidence.context", "contexts"),
        ({"stability": {"null_draw": 1}}, "stability.null_draw", "null_draws"),
        ({"subject": {"featurs": 5}}, "featurs", "features"),
        ({"subject": {"kind": "arrays", "paths": {}, "bloc": 5}}, "subject.arrays.bloc", "block"),
        ({"text": {"source": "x", "templat": "x"}, "subject": LM}, "text.templat", "template"),
    ],
)
def test_misspelt_keys_give_the_nearest(write_study, tmp_path, changes, place, meant):
    message = refused(write_study(**changes), tmp_path)
    line = next(line for line in message.splitlines() if "unknown key" in line and place in line)
    assert f"did you mean {meant!r}" in line


@pytest.mark.parametrize(
    ("subject", "meant"),
    [
        ('kind = "module"\nfactry = "a:b"', "factory"),
        ('kind = "arrays"\npath = {a = "b.npy"}', "paths"),
        ('kind = "toy"\ndimension = 3', "dimensions"),
        ('model = "x"\nrevison = "y"', "revision"),
    ],
)
def test_misspelt_keys_of_each_kind_of_subject(tmp_path, subject, meant):
    path = tmp_path / "study.toml"
    path.write_text(
        f"[subject]\n{subject}\n[activations]\nsites = ['x']\ntokens = 100\n"
        "[[sae]]\nlatents = 64\n[training]\ntokens = 100\nbatch = 10\n"
    )
    assert f"did you mean {meant!r}" in refused(path, tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sae": [{"latents": 8, "k": 9}]}, ["sae.0", "k = 9", "latents = 8"]),
        ({"sae": [{"latents": 8}]}, ["k = 32", "latents = 8"]),
        ({"sae": [{"latents": 0, "k": 1}]}, ["sae.0.topk.latents", "0"]),
        ({"sae": [{"latents": 8, "k": 0}]}, ["sae.0.topk.k", "0"]),
        ({"sae": [{"latents": 8, "k": 2, "lr": 0}]}, ["sae.0.topk.lr"]),
        ({"sae": [{"latents": 8, "k": 2, "architecture": "topkk"}]}, ["architecture", "'topk'"]),
        ({"sae": []}, ["sae", "missing"]),
        ({"sae": [{"latents": 8, "k": 2}] * 2}, ["[[sae]]", "same"]),
        ({"seeds": {"init": [0, 1, 0]}}, ["init = [0, 1, 0]", "twice"]),
        ({"seeds": {"data": [3, 3]}}, ["data = [3, 3]", "twice"]),
        ({"seeds": {"init": []}}, ["seeds.init"]),
        ({"seeds": {"init": [-1]}}, ["seeds.init"]),
        ({"seeds": {"init": [0.5]}}, ["seeds.init", "0.5"]),
        ({"activations": {"tokens": 0}}, ["activations.tokens", "0"]),
        ({"activations": {"sites": []}}, ["activations.sites"]),
        ({"activations": {"held_out": 1.0}}, ["held_out"]),
        ({"activations": {"dtype": "float8"}}, ["dtype", "bfloat16"]),
        ({"training": {"tokens": 0}}, ["training.tokens", "0"]),
        ({"training": {"tokens": 63}}, ["tokens = 63", "batch = 64"]),
        ({"training": {"tokens": 639}}, ["639", "64"]),
        ({"training": {"snapshots": [1.5]}}, ["snapshots", "1.5"]),
        ({"matching": {"tau": 1.5}}, ["matching.tau", "1.5"]),
        ({"subject": {"kind": "toi"}}, ["subject", "toi", "toy"]),
        ({"subject": {"active": 99.0}}, ["active = 99", "features = 24"]),
        ({"subject": {"noise": -1.0}}, ["noise"]),
        ({"subject": LM}, ["[text]", "source"]),
        ({"text": {"source": "x.txt"}}, ["toy", "[text]"]),
        (
            {
                "seeds": {"init": [0, 1, 2, 3]},
                "sae": [
                    {"latents": 16, "k": 2, "mutual": {"held_out": out}} for out in ([2], [2, 2])
                ],
            },
            ["two [[sae]] tables are the same"],
        ),
        (controlled("frozen_encoder", "matching_pursuit", k=2), ["sae.0", "no trained W_enc"]),
        (controlled("frozen_decoder", "archetypal", k=2), ["sae.0", "no trained W_dec"]),
        (controlled("frozen_decoder", "pca"), ["sae.0", "pca has no trained W_dec"]),
        (controlled("frozen_encoder", "topk", k=2, aligned=True), ["sae.0", "frozen encoder"]),
        (fitted("kmeans", latents=5000), ["sae.0", "5,000 centroids", "2,560 rows"]),
        (fitted("nmf", latents=16, fit_rows=8), ["sae.0", "16 components", "8 rows"]),
        (fitted("archetypal", latents=16, k=2, centroids=3000), ["sae.0", "3,000 centroids"]),
        ({"text": {"source": "x", "ids": "i", "template": "{a}"}}, ["template is a part of text"]),
        ({"text": {"source": "x", "layout": "padded", "separator": False}}, ["separator is a"]),
        ({"training": None}, ["training", "missing"]),
        ({"subject": None}, ["subject", "missing"]),
    ],
    ids=lambda value: json.dumps(value)[:40],
)
def test_what_cannot_be_is_named(write_study, tmp_path, changes, words):
    message = refused(write_study(**changes), tmp_path)
    for word in words:
        assert word in message


@pytest.mark.parametrize("value", ["inf", "-inf", "nan"])
@pytest.mark.parametrize("key", ["noise", "active", "zipf"])
def test_numbers_that_are_none_are_refused(write_study, tmp_path, key, value):
    path = write_study(subject={key: 0.125})
    path.write_text(path.read_text().replace("0.125", value))
    assert f"{key}" in refused(path, tmp_path)


@pytest.mark.parametrize(
    ("text", "word"),
    [("", "missing"), ("x", "TOML"), ("[a]\n[a]", "TOML"), ("a = 1\n", "unknown key")],
)
def test_wrong_toml(tmp_path, text, word):
    path = tmp_path / "x.toml"
    path.write_text(text)
    assert word in refused(path, tmp_path)
    assert str(path) in refused(path, tmp_path)


def test_no_such_study(tmp_path):
    assert "no file" in refused(tmp_path / "none.toml", tmp_path)
    (tmp_path / "folder").mkdir()
    assert "has no study.toml" in refused(tmp_path / "folder", tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in refused(tmp_path / "binary.toml", tmp_path)


def test_every_wrong_thing_is_named_at_once(write_study, tmp_path):
    message = refused(
        write_study(matching={"tua": 1}, seeds={"init": []}, training={"tokens": 0}), tmp_path
    )
    assert all(word in message for word in ("matching.tua", "seeds.init", "training.tokens"))


# -- what is known only when the subject is opened -------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"activations": {"sites": ["tooy"]}}, "did you mean 'toy'"),
        ({"activations": {"sites": ["layers.*"]}}, "layers"),
        ({"activations": {"tokens": 64}}, "cannot be split"),
        (fitted("pca", latents=64), "32 components, but the rows have 8 dimensions"),
    ],
)
def test_what_the_subject_lacks(write_study, changes, word):
    """Refused before work; the mended study runs in the same folder."""
    path = write_study(**changes)
    with pytest.raises(SpecError, match=word):
        reseed.run(Study.load(path), progress=False)
    there = {entry.name for entry in path.with_suffix("").glob("*")}
    assert not there & {"activations", "scale", "runs"}
    study = Study.load(write_study())
    assert reseed.run(study, progress=False).failed == []


def test_tokens_may_change_as_long_as_nothing_is_trained(write_study):
    """`plan`, think, ask for fewer tokens, `plan` again."""
    reseed.plan(Study.load(write_study()))
    study = Study.load(write_study(activations={"tokens": 640}))
    assert reseed.plan(study).missing == 2
    assert reseed.run(study, progress=False).failed == []
    with pytest.raises(reseed.StoreError, match="activations.tokens: there 640, now 1280"):
        reseed.plan(Study.load(write_study()))


def arrays(path):
    return {
        "subject": {"kind": "arrays", "paths": {"x": str(path)}, "block": 16},
        "activations": {"sites": ["x"]},
    }


def test_fewer_rows_than_asked_for(write_study, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((100, 4), np.float32))
    with pytest.raises(SpecError, match=r"1,280.*100"):
        reseed.run(Study.load(write_study(**arrays(tmp_path / "x.npy"))), progress=False)


def test_missing_arrays(write_study, tmp_path):
    with pytest.raises(SubjectError, match=r"none\.npy"):
        reseed.run(Study.load(write_study(**arrays(tmp_path / "none.npy"))), progress=False)


# -- reseed.train ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"architecture": "topkk"}, "topk"),
        ({"k": 9}, "k = 9"),
        ({"kk": 2}, "did you mean 'k'"),
        ({"init_seeds": [1, 1]}, "twice"),
        ({"init_seeds": []}, "at least one"),
        ({"init_seeds": [0, -1]}, r"init_seeds = \[0, -1\] are not all whole numbers from 0"),
        ({"architecture": 3}, "architecture 3"),
        ({"batch": "many"}, "batch: a whole number is needed"),
        ({"data_seed": "a"}, "data_seed: a whole number is needed"),
        ({"scale": "maybe"}, "scale: true or false is needed"),
        ({"tokens": 0}, "tokens"),
        ({"tokens": 10, "batch": 20}, "tokens = 10"),
        ({"clip": 0}, "clip"),
        ({"architecture": "kmeans", "latents": 50, "k": None}, "50 centroids.*40 rows"),
        ({"architecture": "nmf", "latents": 5, "k": None}, "5 components.*4 dimensions"),
    ],
)
def test_train_refuses(arguments, word):
    x = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    given = {"latents": 8, "k": 2, **arguments}
    with pytest.raises(SpecError, match=word):
        reseed.train(x, **{name: value for name, value in given.items() if value is not None})


def test_train_takes_settings_as_they_were_read():
    x = 100 * np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    given = {"latents": 8, "k": 2, "tokens": 64, "batch": 16, "init_seeds": [0]}
    no, word = (reseed.train(x, **given, scale=scale)[0] for scale in (False, "no"))
    assert np.array_equal(no.W_enc, word.W_enc)


@pytest.mark.parametrize(
    "x", [np.zeros((0, 4)), np.zeros(4), np.zeros((4, 4), int), np.zeros((4, 0))]
)
def test_train_refuses_what_is_no_matrix(x):
    with pytest.raises(reseed.ReseedError):
        reseed.train(x, latents=2, k=1)


# -- identities ------------------------------------------------------------------------------------


def spec_of(path):
    return Study.load(path).spec


def ids(path):
    return [run.id for run in spec_of(path).runs(["toy"])]


def test_identity_covers_what_decides_the_result(write_study):
    base = ids(write_study())
    assert len(set(base)) == 2
    for changes in (
        {"subject": {"seed": 1}},
        {"activations": {"tokens": 1344}},
        {"activations": {"held_out": 0.2}},
        {"activations": {"mix_blocks": 4}},
        {"training": {"tokens": 2624}},
        {"training": {"clip": 2.0}},
        {"seeds": {"data": [1]}},
        {"sae": [{"latents": 16, "k": 2}]},
    ):
        assert not set(base) & set(ids(write_study(**changes))), changes


def test_identity_leaves_out_what_does_not(write_study):
    base = ids(write_study())
    for changes in (
        {"activations": {"keep": "live"}},
        {"activations": {"shard_blocks": 2}},
        {"training": {"checkpoint_tokens": 64}},
        {"training": {"threads": 2}},
        {"matching": {"tau": 0.5}},
        {"evidence": {"contexts": 0}},
        {"stability": {"null_draws": 2}},
    ):
        assert ids(write_study(**changes)) == base, changes


def test_names_of_runs_are_names_of_folders(write_study, tmp_path):
    """Whatever a site is called: arrays are named by the user."""
    spec = spec_of(write_study())
    for site in ("a/b", "../up", "a b", "layers.0:in", "*", "ä", "a\\b"):
        for run in spec.runs([site]):
            for name in (run.id, run.group):
                assert os.path.basename(name) == name
                assert not set(name) & set('/\\:*?"<>| ')
    slash, under = (spec.runs([site])[0] for site in ("a/b", "a_b"))
    assert slash.id != under.id
    assert slash.group != under.group


def test_names_of_two_runs_are_one_name_of_a_file(write_study):
    options = {"optimizer": "signum", "lr_schedule": "cosine", "weight_l2": 1e-3, "aligned": True}
    sae = [{"latents": 16, "k": 2, "k_start": 8, "init": "orthogonal", "tied_init": True} | options]
    [run] = spec_of(write_study(sae=sae, seeds={"init": [7], "data": [0]})).runs(["s" * 61])
    assert len(run.group) > 107
    assert len(run.id) == 107
    longest = beside(Path(f"{run.id}--{run.id}"), BUILDING).name
    assert len(longest) <= os.pathconf("/", "PC_NAME_MAX")


def test_a_spec_read_twice_is_the_same(write_study):
    one, two = spec_of(write_study()), spec_of(write_study())
    assert one == two
    assert one.digest() == two.digest()
    assert read_spec(StudySpec, one.model_dump(), "again") == one
    with pytest.raises(ValueError, match="frozen"):
        one.training.tokens = 5


def test_generators_depend_on_all_of_their_key():
    keys = [("a", 0), ("a", 1), ("a", "1"), ("a", 1, 0), ("a", 10), ("b", 0), ("a0",), ("a",)]
    draws = [generator(*key).integers(2**62) for key in keys]
    assert len(set(draws)) == len(keys)
    assert draws == [generator(*key).integers(2**62) for key in keys]
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("x = " + "{y = " * 3000 + "1" + "}" * 3000, "nested too deeply"),
        (".".join("a" * 30_000) + " = 1", "a key of more than 100 parts"),
        ("x = " + "9" * 5000, "is not TOML"),
        ("# " + "x" * 70_000, "70,002 bytes"),
        ('[sae]\nlatents = 4\n[subject]\nkind = "toy"', r"\[\[sae\]\]"),
        ("x = \x00", "is not TOML"),
    ],
    ids=["arrays", "tables", "key", "integer", "size", "one table", "NUL"],
)
def test_a_file_that_no_parser_likes(tmp_path, text, message):
    path = tmp_path / "study.toml"
    path.write_text(text)
    with pytest.raises(SpecError, match=message):
        Study.load(path)


def test_a_byte_order_mark_is_no_matter(write_study):
    path = write_study()
    spec = Study.load(path).spec
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert Study.load(path).spec == spec


@pytest.mark.parametrize(
    "changes",
    [
        {"seeds": {"init": [0, 2**63]}},
        {"seeds": {"data": [2**64]}},
        {"training": {"tokens": 10**15}},
        {"activations": {"tokens": 10**15}},
        {"training": {"threads": 2**70}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_numbers_that_no_machine_takes(write_study, tmp_path, changes):
    message = refused(write_study(**changes), tmp_path)
    assert "less than" in message or "at most" in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sae": [{"latents": 8, "k": 2, "learning_rate": 1e-3}]}, "did you mean 'lr'?"),
        ({"sae": [{"width": 8, "k": 2, "latents": 8}]}, "did you mean 'latents'?"),
        ({"seeds": {"init": 3}}, "a list in square brackets is needed (got 3)"),
        ({"seeds": {"init": []}}, "it needs at least 1 entry (got [])"),
        ({"training": {"tokens": "60k"}}, "a whole number is needed: 60_000, without quotes"),
        ({"training": {"tokens": "1.5M"}}, "a whole number is needed: 1_500_000, without"),
        ({"training": {"tokens": "many"}}, "a whole number is needed (got 'many')"),
        ({"training": {"batch": 64.5}}, "a whole number is needed (got 64.5)"),
        ({"activations": {"sites": "toy"}}, "a list in square brackets is needed (got 'toy')"),
        ({"activations": {"keep": "disk"}}, "it must be 'auto', 'live' or 'shards' (got 'disk')"),
        ({"matching": {"tau": 0.705}}, "it must be a multiple of 0.01 (got 0.705)"),
        ({"subject": {"noise": "low"}}, "subject.toy.noise: a number is needed (got 'low')"),
        ({"subject": LM}, ": a language model needs a [text] table"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_in_english(write_study, tmp_path, changes, message):
    """Once, without the words of the library that checks it."""
    text = refused(write_study(**changes), tmp_path)
    assert message in text
    for word in ("valid", "Input", "Tuple", "dictionary", ": :", "\n  :", "dead_after"):
        assert word not in text
    assert "\n" not in text
