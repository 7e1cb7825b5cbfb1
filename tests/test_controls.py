"""Control runs through every door: they change no other run, and stand beside what they explain."""

import json
import re

import numpy as np
import pytest
import torch

import reseed
from reseed.errors import SpecError
from reseed.events import Events
from reseed.matching.match import Views, compare
from reseed.matching.measures import SHARED, scores, share_at
from reseed.spec.subject import ToySpec
from reseed.store import Store
from reseed.study import Study
from reseed.subjects.controls import GaussianSource, estimate_moments, read_moments, shuffled
from reseed.subjects.toy import ToySource
from reseed.training.learner import Learner

KINDS = ["gaussian", "shuffled", "frozen_decoder", "soft_frozen_decoder", "frozen_encoder"]
FACTORY = """
import torch
def make():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 12), torch.nn.ReLU(), torch.nn.Linear(12, 8))
    draw = torch.Generator().manual_seed(1)
    return net, [torch.randn(64, 6, generator=draw) for _ in range(20)]
"""


def run(path, **options):
    study = Study.load(path)
    return study, reseed.run(study, progress=False, **options)


@pytest.fixture
def module_study(write_study, tmp_path, monkeypatch):
    """A tiny study of a torch module, with changes."""
    (tmp_path / "control_subject.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path)
    subject = {"kind": "module", "factory": "control_subject:make"}

    def write(name="module", **changes):
        activations = {"sites": ["2"], "tokens": 1280}
        return write_study(name, subject=subject, activations=activations, **changes)

    return write


def test_all_controls_end_to_end(module_study, tmp_path):
    every = [*KINDS, "random_subject"]
    path = module_study(controls={"kinds": every}, seeds={"init": [0, 1, 2]})
    study, outcome = run(path)
    assert outcome.failed == []
    assert len(study.runs) == 3 * 7
    (group,) = study.summary["groups"]
    assert list(group["controls"]) == every
    for kind, one in group["controls"].items():
        assert one["counts"]["runs"] == 3, kind
        assert one["shared"]["all"]["interval_95"] is not None
        assert one["shared"]["all"]["null_covariance"] is not None
        assert 0 < one["reconstruction"]["fvu"]["mean"] < 1.5
        assert one["null"].startswith("N")
    # the question's own results hold the question's own runs
    assert set(study.latents["run"]) == set(group["runs"])
    assert len(study.matches) == 3
    assert [list(kinds) for kinds in study.control_groups().values()] == [every]
    # the random subject lies in its own folder, and is another subject
    own = study.folder / "controls" / "random_subject"
    assert (own / "activations").exists()
    samples = [
        json.loads((at / "subject" / "subject.json").read_text())["sample"]
        for at in (study.folder, own)
    ]
    assert not np.allclose(samples[0]["2"], samples[1]["2"])
    page = (study.folder / "report.html").read_text()
    for kind in every:
        assert f"control: {kind.replace('_', ' ')}" in page

    before = {p: p.stat().st_mtime_ns for p in study.folder.rglob("*") if p.is_file()}
    run(path)
    changed = {p.name for p in before if p.stat().st_mtime_ns != before[p]}
    assert changed <= {".lock", "summary.json", "report.html", "study.toml", "events.jsonl"}


def test_controls_change_no_other_run(module_study, tree):
    """Bit for bit, made at once or added in place; and the controls end alike as well."""
    rooms = ("runs", "evidence", "matches", "weights", "stability", "activations", "controls")

    def mine(study):
        return {k: v for k, v in tree(study.folder).items() if k.split("/")[0] in rooms}

    controls = {"kinds": [*KINDS, "random_subject"]}
    plain, _ = run(module_study("plain"))
    first, of_plain = mine(plain), plain.summary
    whole, _ = run(module_study("whole", controls=controls))
    assert first.items() <= mine(whole).items()
    grown, _ = run(module_study("plain", controls=controls))
    assert mine(grown) == mine(whole)
    one, two = (
        {k: v for k, v in summary["groups"][0].items() if k not in ("controls", "notes")}
        for summary in (of_plain, grown.summary)
    )
    assert one == two


def test_live_and_shards_make_the_same_controls(write_study, tree):
    controls = {"kinds": ["gaussian", "shuffled"]}

    def runs(name, keep):
        path = write_study(name, activations={"keep": keep}, controls=controls)
        return tree(run(path)[0].folder / "runs")

    assert runs("live", "live") == runs("shards", "shards")


def test_a_frozen_decoder_is_where_it_started(write_study):
    study, _ = run(write_study(controls={"kinds": ["frozen_decoder", "frozen_encoder"]}))
    for one in study.runs:
        held = {"frozen_decoder": "W_dec", "frozen_encoder": "W_enc"}.get(one.spec.control)
        folder = study.folder / "runs" / one.id
        start = reseed.load(folder / "snapshots" / "00000000")
        for name in ("W_enc", "W_dec"):
            same = torch.equal(getattr(one.sae(), name), getattr(start, name))
            assert same == (name == held)
    tables = study.store.table
    for kinds in study.control_groups().values():
        group = kinds["frozen_decoder"]
        latents = tables(f"stability/{group.name}", "latents.parquet")
        assert latents["init_cos"].min() > 1 - 1e-6
        # what is measured on decoder rows alone cannot change
        trend = tables(f"stability/{group.name}", "trend.parquet")
        for measure in ("decoder_only", "pw_mcc", "mmcs_decoder"):
            values = trend.filter(measure=measure)["value"].to_list()
            assert len(values) == 3
            assert len(set(values)) == 1, measure


def test_what_comes_back_on_the_toy_does_not_come_back_on_controls(tmp_path):
    """Features are planted, so runs share them; made-up activations of one covariance have none."""
    toy = ToySource(
        ToySpec(kind="toy", features=40, dimensions=24, active=2.0, zipf=0.0, noise=0.0), 40
    )
    estimate_moments(toy, np.arange(40), Store(tmp_path), {"toy": ""}, Events())
    gaussian = GaussianSource({"toy": read_moments(Store(tmp_path), "toy")})
    found = {}
    for name, source in (("real", toy), ("gaussian", gaussian), ("shuffled", shuffled(toy))):
        x = source.read(range(40))["toy"]
        saes = reseed.train(x, latents=40, k=2, lr=5e-3, batch=256, tokens=150_000)
        table = compare(*(Views(sae.W_enc.numpy(), sae.W_dec.numpy()) for sae in saes)).table
        found[name] = share_at(scores(table, SHARED), np.array([0.7]), strict=False)[0]
        fvu = (saes[0].reconstruct(x) - x).square().sum() / (x - x.mean(0)).square().sum()
        found[name + " fvu"] = float(fvu)
    assert found["real"] > 0.7, found
    assert max(found["gaussian"], found["shuffled"]) < 0.2, found
    assert min(found["gaussian fvu"], found["shuffled fvu"]) > 1.5 * found["real fvu"]


def test_a_control_that_fails_takes_nothing_with_it(write_study, monkeypatch):
    update = Learner.update

    def sometimes(self, *given):
        if self.spec.control == "gaussian" and self.step == 15:
            raise reseed.TrainingError("made up")
        return update(self, *given)

    monkeypatch.setattr(Learner, "update", sometimes)
    path = write_study(controls={"kinds": ["gaussian", "shuffled"]})
    study, outcome = run(path)
    assert {one.spec.control for one in outcome.failed} == {"gaussian"}
    (group,) = study.summary["groups"]
    assert group["controls"]["gaussian"]["shared"] is None
    assert group["controls"]["shuffled"]["shared"]["all"]["value"] is not None
    assert "fewer than two runs" in (study.folder / "report.html").read_text()

    monkeypatch.undo()
    study, outcome = run(path, retry_failed=True)
    assert outcome.failed == []
    assert study.summary["groups"][0]["controls"]["gaussian"]["shared"] is not None


def test_one_run_of_each(write_study, cli):
    """Nothing to compare, with or without controls; said, not hidden."""
    path = write_study(seeds={"init": [0]}, controls={"kinds": ["gaussian"]})
    done = cli("run", path, "--quiet")
    assert done.returncode == 0
    study = Study.load(path)
    assert study.summary["groups"][0]["controls"]["gaussian"]["shared"] is None
    assert "headline" not in study.summary["groups"][0]


def test_the_terminal_shows_controls_beside_what_they_explain(write_study, cli):
    path = write_study(controls={"kinds": ["shuffled"]})
    planned = cli("plan", path)
    assert "4 runs of 40 steps" in planned.stdout
    assert re.search(r"structure +2 of 2 pieces", planned.stdout)
    done = cli("run", path, "--quiet")
    lines = [line for line in done.stdout.splitlines() if "shuffled" in line]
    assert "%" in lines[0]
    assert cli("status", path).stdout.count("shuffled") == 2


def test_the_plan_counts_the_second_harvest(module_study, cli):
    path = module_study(controls={"kinds": ["random_subject"]})
    assert "random subject" in cli("plan", path).stdout


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"controls": {"kinds": ["gausian"]}}, ["controls.kinds", "gaussian"]),
        ({"controls": {"kinds": ["gaussian", "gaussian"]}}, ["controls", "twice"]),
        ({"controls": {"kind": ["gaussian"]}}, ["controls.kind", "did you mean 'kinds'"]),
        ({"controls": {"kinds": ["random_subject"]}}, ["random_subject", "toy", "no weights"]),
        (
            {"controls": {"kinds": ["random_subject"]},
             "subject": {"kind": "arrays", "paths": {"toy": "x.npy"}}},
            ["random_subject", "arrays", "no weights"],
        ),
        (
            {"controls": {"kinds": ["random_subject"]},
             "subject": {"kind": "module", "factory": "a:b", "random_weights": 1}},
            ["subject.random_weights", "take one of the two out"],
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_named(write_study, changes, words):
    with pytest.raises(SpecError) as caught:
        Study.load(write_study(**changes))
    for word in words:
        assert word in str(caught.value)


def test_a_module_that_cannot_be_reset_is_refused_before_any_training(module_study, tmp_path):
    """The real runs are not made either: the study cannot be done as written."""
    source = (
        FACTORY.replace("torch.nn.ReLU()", "Raw()")
        + """
class Raw(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(12))
    def forward(self, x):
        return (x * self.scale).relu()
"""
    )
    (tmp_path / "control_raw.py").write_text(source)
    path = module_study(controls={"kinds": ["random_subject"]})
    path.write_text(path.read_text().replace("control_subject", "control_raw"))
    study = Study.load(path)
    with pytest.raises(SpecError, match=r"1 \(Raw\) has the weights scale"):
        reseed.run(study, progress=False)
    assert all(one.state.state == "missing" for one in study.runs)
