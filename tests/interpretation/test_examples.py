"""Examples read from a study, chosen by strength, and kept apart."""

import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

import reseed
from reseed.evidence.tables import COUNTS, EXAMPLES, WINDOWS, ExampleTables
from reseed.interpretation.examples import by_latent, check_disjoint, choose, read_examples
from reseed.interpretation.records import Example
from reseed.runs import evidence_name


def example(strength=1.0, split="explain", kind="firing", document=0, block=0, position=0):
    activations = (strength / 2, strength, 0.0) if kind == "firing" else (0.0, 0.0, 0.0)
    return Example(
        split=split,
        kind=kind,
        tokens=(" a", " b", " c"),
        activations=activations,
        document=document,
        block=block,
        position=position + (kind == "firing"),
        quantile=0 if kind == "firing" else None,
    )


MANY = tuple(
    [example(i + 1, document=i, block=i) for i in np.random.default_rng(0).permutation(100)]
    + [example(kind="random", document=100 + i, block=i) for i in range(30)]
    + [example(7.0, split="score", document=200, block=200)]
)


def test_a_choice_is_spread_over_quantiles() -> None:
    for quantiles in (10, 5, 4):
        chosen = choose(MANY, "explain", 20, quantiles=quantiles)
        assert len(chosen) == 20
        part = [int((one.strength - 1) * quantiles // 100) for one in chosen]
        assert set(Counter(part).values()) == {20 // quantiles}
        assert [one.strength for one in chosen] == sorted(o.strength for o in chosen)[::-1]


@pytest.mark.parametrize("n", [0, 1, 7, 23, 99, 100, 150])
def test_numbers_that_do_not_divide_are_spread_as_evenly_as_they_can(n) -> None:
    chosen = choose(MANY, "explain", n)
    assert len(chosen) == len(set(chosen)) == min(n, 100)
    counts = [sum(int((o.strength - 1) // 10) == part for o in chosen) for part in range(10)]
    assert max(counts) - min(counts) <= 1


def test_fewer_than_asked_for_are_all_given() -> None:
    few = MANY[:3]
    assert set(choose(few, "explain", 10)) == set(few)
    assert choose(few, "judge", 10) == ()
    assert choose((), "explain", 10) == ()


def test_a_choice_is_seeded_and_does_not_depend_on_the_order() -> None:
    firing = [one for one in MANY if one.kind == "firing"]
    first = choose(firing, "explain", 20, seed=1)
    assert first == choose(firing[::-1], "explain", 20, seed=1)
    assert first != choose(firing, "explain", 20, seed=2)


def test_every_example_is_chosen_equally_often() -> None:
    counts = Counter(
        one.document for seed in range(300) for one in choose(MANY, "explain", 25, 10, seed)
    )
    assert len(counts) == 100
    assert abs(np.array(list(counts.values())) - 75).max() < 5 * np.sqrt(75)


def test_kinds_come_one_after_the_other() -> None:
    chosen = choose(MANY, "explain", 5, kinds=("random", "firing", "neighbour"))
    assert [one.kind for one in chosen] == ["random"] * 5 + ["firing"] * 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "test"}, "no split 'test'"),
        ({"kinds": ("hard",)}, "no kind 'hard'"),
        ({"n": -1}, "n = -1"),
        ({"quantiles": 0}, "quantiles = 0"),
    ],
)
def test_a_wrong_choice_is_refused(change, message) -> None:
    with pytest.raises(reseed.SpecError, match=message):
        choose(MANY, **{"split": "explain", "n": 3, **change})


def test_a_leak_planted_on_purpose_is_caught() -> None:
    shown = choose(MANY, "explain", 10)
    asked = choose(MANY, "score", 10)
    check_disjoint(shown, asked)
    planted = replace(shown[3], split="score")
    with pytest.raises(reseed.SpecError, match=rf"document {planted.document} is among"):
        check_disjoint(shown, (*asked, planted))
    # another window of a document that was shown is a leak as well
    elsewhere = example(split="score", kind="random", document=planted.document, block=999)
    with pytest.raises(reseed.SpecError, match="never share a document"):
        check_disjoint(shown, (*asked, elsewhere))
    with pytest.raises(reseed.SpecError, match=r"documents .* and 2 more are among"):
        check_disjoint(shown, shown)


def test_overlapping_tokens_are_a_leak_where_no_document_is_known() -> None:
    shown = [example(document=-1, block=4, position=10)]  # tokens 10, 11, 12
    for kind in ("firing", "random"):
        for first in (8, 10, 12):
            with pytest.raises(reseed.SpecError, match="in block 4 at position"):
                check_disjoint(shown, [example(kind=kind, document=-1, block=4, position=first)])
        for first in (7, 13):
            check_disjoint(shown, [example(kind=kind, document=-1, block=4, position=first)])
    check_disjoint(shown, [example(document=-1, block=5, position=10)])
    check_disjoint([], [])


TOLD = """
[subject]
kind = "toy"
features = 24
dimensions = 8
active = 2.0
block = 64

[activations]
sites = ["toy"]
tokens = 2560

[[sae]]
latents = 16
k = 2
lr = 3e-3

[seeds]
init = [0, 1]

[training]
tokens = 2560
batch = 64
threads = 1

[evidence]
toy_text = true
window = 4
examples = 6

[stability]
null_draws = 1
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A finished tiny study of the toy, whose samples are shown as text."""
    pytest.importorskip("torch", reason="training needs torch")
    path = tmp_path_factory.mktemp("told") / "told.toml"
    path.write_text(TOLD)
    study = reseed.Study.load(path)
    reseed.run(study, progress=False)
    return study


def test_examples_of_a_study_tell_what_its_latents_do(told) -> None:
    import torch

    from reseed.spec.subject import ToySpec
    from reseed.subjects.toy import Toy

    toy = Toy(ToySpec(**told.spec.subject.model_dump()))
    run = told.runs[0].id
    table = read_examples(told.store, run)
    sae = reseed.load(told.folder / "runs" / run)
    assert set(table["kind"]) == {"firing", "random", "neighbour"}
    assert set(table["split"]) == {"explain", "score", "judge"}
    for row in table.sample(60, seed=0).iter_rows(named=True):
        act = np.array(row["activations"])
        first = row["position"] - int(act.argmax())
        places = slice(first, first + len(act))
        rows = torch.from_numpy(toy.rows(row["block"])[places])
        want = sae.encode(rows)[:, row["latent"]].numpy()
        np.testing.assert_allclose(act, want, atol=1e-2)  # shards hold float16
        fires = toy.coefficients(row["block"])[places] != 0
        named = [{int(f[1:]) for f in t.strip().split("+") if f != "-"} for t in row["tokens"]]
        assert named == [set(np.flatnonzero(one)) for one in fires]
        assert row["document"] == (row["block"] * 64 + first) // 16


def test_records_are_the_rows_of_the_table(told) -> None:
    run = told.runs[0].id
    table = read_examples(told.store, run, [2, 5])
    assert set(table["latent"]) == {2, 5}
    records = by_latent(table)[5]
    for record, row in zip(records, table.filter(latent=5).iter_rows(named=True), strict=True):
        for name in ("split", "kind", "document", "block", "position", "quantile", "strength"):
            assert getattr(record, name) == pytest.approx(row[name]), name
        assert record.text == "".join(row["tokens"])
        assert list(record.activations) == row["activations"]
    shown = choose(records, "explain", 4, kinds=("firing", "random"))
    check_disjoint(shown, choose(records, "score", 9, kinds=("firing", "random", "neighbour")))


def read_tables(store, run):
    files = EXAMPLES, WINDOWS, COUNTS
    return ExampleTables(*(store.table(evidence_name(run), file) for file in files))


def test_the_counts_know_every_latent(told) -> None:
    tables = read_tables(told.store, told.runs[0].id)
    assert tables.counts.height == 16 * 3
    kept = tables.examples.filter(kind="firing", split="score").group_by("latent").len()
    want = tables.counts.filter(split="score").join(kept, on="latent", how="left")
    full = want.with_columns(pl.col("len").fill_null(0))
    assert (full["len"] == full["firing"].clip(upper_bound=6)).all()


def test_a_rerun_gives_the_same_bytes(told, tree, tmp_path) -> None:
    shutil.copytree(told.folder, tmp_path / "told")
    study = reseed.Study.load(tmp_path / "told")
    shutil.rmtree(study.folder / "evidence" / study.runs[1].id)
    reseed.run(study, progress=False)
    assert tree(study.folder / "evidence") == tree(told.folder / "evidence")


def test_a_subject_without_text_has_no_examples(finished) -> None:
    study = reseed.Study.load(finished)
    for run in study.runs:
        tables = read_tables(study.store, run.id)
        assert all(table.height == 0 for table in tables)
        assert by_latent(tables.joined()) == {}


def test_older_evidence_without_examples_is_named(finished, tmp_path) -> None:
    shutil.copytree(finished, tmp_path / "old")
    study = reseed.Study.load(tmp_path / "old")
    run = study.runs[0].id
    (study.folder / "evidence" / run / "examples.parquet").unlink()
    with pytest.raises(reseed.StoreError, match=r"examples\.parquet is missing"):
        read_examples(study.store, run)


def test_the_plan_says_what_sampling_takes(tmp_path) -> None:
    pytest.importorskip("torch", reason="the plan measures a training step")
    from reseed.evidence.sampler import example_bytes

    stages = {}
    for name, text in (("told", TOLD), ("silent", TOLD.replace("toy_text = true", ""))):
        (tmp_path / f"{name}.toml").write_text(text)
        study = reseed.Study.load(tmp_path / f"{name}.toml")
        stages[name] = {stage.name: stage for stage in reseed.plan(study).stages}
    assert "windows" not in stages["silent"]["evidence"].what
    assert stages["silent"]["evidence"].disk == 0
    bound = 2 * example_bytes(16, study.spec.evidence)
    said = stages["told"]["evidence"]
    assert (
        f"6 windows of 4 for each use and kind of 32 latents; at most {bound / 1e9:.2g}"
        in said.what
    )
    assert said.seconds > 0
    assert said.disk > 0
