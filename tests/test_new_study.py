"""A study to begin with, every key of a study as a page, and the examples of the docs."""

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

import reseed
from reseed.cluster.engine import EngineSpec
from reseed.spec.keys import keys
from reseed.spec.new_study import NewStudy, new_study
from reseed.spec.refusals import read_spec
from reseed.spec.study import StudySpec

HOME = Path(__file__).parent.parent
PAGES = sorted((HOME / "docs").rglob("*.md"))


def blocks(page):
    return re.findall(r"```toml(?: title=\S+)?\n(.*?)```", page.read_text("utf-8"), re.DOTALL)


FRAGMENTS = [
    pytest.param(text, id=f"{page.name}-{number}")
    for page in [HOME / "README.md", *PAGES]
    for number, text in enumerate(blocks(page))
]

SUBJECTS = {
    "language_model": {"model": "x"},
    "module": {"kind": "module", "factory": "a:b"},
    "arrays": {"kind": "arrays", "paths": {"x": "x.npy"}},
    "toy": {"kind": "toy"},
}
REST = {
    "activations": {"sites": ["layers.6.mlp"], "tokens": 100_000},
    "training": {"tokens": 100_000, "batch": 1024},
    "sae": [{"latents": 512}],
}


def completed(fragment):
    """A whole study around a piece of one."""
    kind = fragment.get("subject", {}).get("kind", "language_model")
    base = {"subject": SUBJECTS[kind], **REST}
    if kind == "language_model":
        base["text"] = {"source": "x.txt"}
    out = {**base, **fragment}
    for name, table in fragment.items():
        if isinstance(table, dict) and name in base:
            out[name] = {**base[name], **table}
    out["sae"] = [{"latents": 512, **sae} for sae in out["sae"]]
    if "interpretation" in out:
        server = {"model": "x", "base_url": "http://127.0.0.1:1/v1", "prices": {}}
        out["interpretation"] = {"explainer": server, **out["interpretation"]}
    return out


@pytest.mark.parametrize("text", FRAGMENTS)
def test_every_example_of_the_docs_can_be_pasted(text):
    fragment = tomllib.loads(text)
    if "engine" in fragment:
        read_spec(EngineSpec, fragment["engine"], "an example")
    else:
        read_spec(StudySpec, completed(fragment), "an example")


# -- every key -------------------------------------------------------------------------------------


def test_the_page_of_all_keys_is_up_to_date():
    """`reseed keys > docs/study_toml.md` makes it."""
    assert (HOME / "docs" / "study_toml.md").read_text("utf-8").rstrip() == keys().rstrip()


def test_every_key_is_on_the_page():
    page = keys()

    def check(spec):
        for name, field in spec.model_fields.items():
            inner = [
                kind
                for kind in (field.annotation, *getattr(field.annotation, "__args__", ()))
                if isinstance(kind, type) and hasattr(kind, "model_fields")
            ]
            for kind in inner:
                check(kind)
            if not inner and name not in (
                "kind",
                "subject",
                "sae",
                "variant",
                "explainer",
                "embedder",
            ):
                assert f"| `{name}` |" in page or f".{name}]" in page, name

    check(StudySpec)


def test_one_table(cli):
    done = cli("keys", "training")
    assert done.returncode == 0
    assert "| `snapshots` | list of number" in done.stdout
    assert "## `[matching]`" not in done.stdout
    assert "target_l0" in cli("keys", "sae jumprelu").stdout
    done = cli("keys", "trainig")
    assert done.returncode == 2
    assert "did you mean 'training'" in done.stderr


# -- a study to begin with -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "choices",
    [
        NewStudy(kind="toy"),
        NewStudy(kind="toy", architecture="jumprelu", latents=64, k=4, seeds=5, tokens=3000),
        NewStudy(kind="arrays", model="x.npy", architecture="gated"),
        NewStudy(kind="module", model="a.b:c", sites=("layer",), architecture="batchtopk"),
        NewStudy(kind="language_model", model='a "b"', text="x.txt", sites=("layers.6.mlp", "b")),
        NewStudy(kind="toy", architecture="relu"),
        NewStudy(kind="toy", sites=("toy",)),
        NewStudy(kind="toy", architecture="matching_pursuit", latents=16),
    ],
    ids=lambda choices: f"{choices.kind} {choices.architecture}",
)
def test_what_is_written_is_a_study(tmp_path, choices):
    path = tmp_path / "study.toml"
    path.write_text(new_study(choices))
    spec = reseed.Study.load(path).spec
    assert spec.subject.kind == choices.kind
    assert spec.sae[0].name == choices.architecture
    assert spec.seeds.init == tuple(range(choices.seeds))
    assert spec.training.steps >= 10


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        (NewStudy(kind="toi"), "did you mean 'toy'"),
        (NewStudy(kind="language_model"), "needs --model"),
        (NewStudy(kind="language_model", model="x"), "--sites are needed"),
        (NewStudy(kind="language_model", model="x", sites=("a",)), "needs --text"),
        (NewStudy(kind="toy", text="x"), "reads no text"),
        (NewStudy(kind="toy", architecture="topkk"), "did you mean 'topk'"),
        (NewStudy(kind="toy", latents=8, k=9), "k = 9"),
        (NewStudy(kind="toy", latents=0), "latents: it must be at least 2"),
        (NewStudy(kind="toy", k=0), "k: it must be at least 1"),
        (NewStudy(kind="toy", tokens=0), "tokens: it must be at least 1"),
        (NewStudy(kind="toy", model="x"), "leave --model and --sites out"),
        (NewStudy(kind="toy", sites=("x",)), "leave --model and --sites out"),
        (NewStudy(kind="arrays", model="x.npy", sites=("a", "b")), "--sites a,b: x.npy is one"),
        (NewStudy(kind="arrays", model="\udcff.npy"), "cannot be written into a TOML file"),
    ],
)
def test_what_cannot_be_is_refused(choices, words):
    with pytest.raises(reseed.SpecError, match=words):
        new_study(choices)


@pytest.mark.parametrize("name", ["a😀é.npy", 'a"b\\c.npy', "a\x7f\x01\tb.npy"])
def test_names_are_written_as_they_are(name):
    told = tomllib.loads(new_study(NewStudy(kind="arrays", model=name, sites=("😀",))))
    assert told["subject"]["paths"] == {"😀": name}
    assert told["activations"]["sites"] == ["😀"]


def test_from_nothing_to_a_report_in_two_commands(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("rows.npy", np.random.default_rng(0).normal(size=(2000, 6)).astype(np.float32))
    flags = ("--latents", 12, "--k", 2, "--tokens", 1600, "--out", "first.toml")
    done = cli("init", "--subject", "arrays", "--model", "rows.npy", *flags)
    assert done.returncode == 0, done.stderr
    assert "next: reseed plan first.toml" in done.stdout
    done = cli("run", "first.toml", "-q")
    assert done.returncode == 0, done.stderr
    assert "Report: first/report.html" in done.stdout


def test_no_more_rows_are_asked_for_than_an_array_has(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("rows.npy", np.zeros((2000, 6), np.float32))
    done = cli("init", "--subject", "arrays", "--model", "rows.npy", "--out", "first.toml")
    assert done.returncode == 0, done.stderr
    spec = reseed.Study.load("first.toml").spec
    assert (spec.activations.tokens, spec.training.tokens) == (2000, 1_000_000)


def test_nothing_is_overwritten_and_nobody_is_asked_who_is_not_there(cli, tmp_path):
    path = tmp_path / "study.toml"
    path.write_text("mine")
    done = cli("init", "--subject", "toy", "--out", path)
    assert done.returncode == 2
    assert "is there already" in done.stderr
    assert path.read_text() == "mine"
    done = cli("init", "--out", tmp_path / "new.toml")
    assert done.returncode == 2
    assert "--subject is needed" in done.stderr
    assert not (tmp_path / "new.toml").exists()
