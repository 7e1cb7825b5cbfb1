"""`reseed calibrate` from a preset to its page, again after a kill, and what it refuses."""

import re
import shutil

import pytest

import reseed
from reseed.pipeline.known_features import PRESETS, open_calibration


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The small preset, run through once."""
    return reseed.calibrate("small", out=tmp_path_factory.mktemp("small") / "s", progress=False)


class Killed(BaseException):
    pass


def killed(_name, _args):
    raise Killed


def test_the_small_preset_tells_features_from_the_rest(small):
    assert small.failed == []
    table = small.table
    assert table["sae"].to_list() == ["toy · topk 96 k3", "toy · topk 32 k3"]
    for row in table.iter_rows(named=True):
        assert row["auc"] > 0.55
        assert row["precision"] > row["base"]
        assert row["found_all"] <= row["found_mean"] <= row["found_any"]
        assert row["found_mean"] <= row["most"]
        assert 0.8 < row["coverage"] <= 1
        assert row["subspaces_planted"] == 6
    assert set(small.roc["sae"]) == set(table["sae"])
    assert small.roc.filter(stratum="live", label="feature", m=3, n=1)["recall"].to_list() == [1, 1]
    assert small.read("features").height == 2 * (48 - 12)
    assert small.report.read_text().startswith("<!doctype html>")


def test_planted_subspaces_come_out_where_there_are_latents_to_spare(small):
    """And their latents, which have no preferred direction, come back less than features do."""
    assert small.table["subspaces_stable"][0] >= 4
    assert small.table["subspaces_stable"][1] <= 2
    latents = small.read("latents").filter(sae="toy · topk 96 k3")
    mean = {kind: latents.filter(kind=kind)["n_matched"].mean() for kind in ("feature", "subspace")}
    assert mean["subspace"] < mean["feature"]
    assert latents.filter(kind="none", firing_rate=0)["n_matched"].sum() == 0


def test_it_is_an_ordinary_study(small):
    study = reseed.Study.load(small.study.folder)
    assert study.spec.calibration.subset == 3
    assert study.latents.height == 5 * (96 + 32)
    assert (study.folder / "report.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 9, 25])
def test_killed_while_it_judges(small, tmp_path, tree, faults, number):
    """From the trained runs on, at many changes of the file system; then it is run again."""
    whole = tree(small.study.folder, skip=(".lock", "events.jsonl"))
    folder = tmp_path / "s"
    shutil.copytree(small.study.folder, folder)
    shutil.rmtree(folder / "calibration")
    (folder / "calibration.html").unlink()
    (folder / "calibration.json").unlink()
    with faults.at_call(number, killed) as count, pytest.raises(Killed):
        reseed.calibrate(folder, progress=False)
    assert count[0] >= number
    reseed.calibrate(folder, progress=False)
    assert tree(folder, skip=(".lock", "events.jsonl")) == whole


def test_the_command(small, cli):
    done = cli("calibrate", small.study.folder, "-q")
    assert done.returncode == 0, done.stderr
    assert "topk 96 k3" in done.stdout
    assert "found by all 3 runs" in " ".join(done.stdout.split())
    assert "calibration.html" in done.stdout


def test_a_preset_as_toml(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = cli("calibrate", "full", "--toml")
    assert done.returncode == 0
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine.toml").write_text(done.stdout)
    assert open_calibration("mine.toml").spec == open_calibration("full").spec


def test_every_preset_is_a_calibration_that_can_be_made(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in PRESETS:
        study = open_calibration(name)
        assert study.folder.name == f"calibration-{name}"
        assert study.spec.subject.features > max(0, study.spec.subject.dimensions)
    full = open_calibration("full").spec.subject
    assert (full.features, full.dimensions) == (16_384, 768)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"calibration": {"subset": 3}}, "subset = 3 of 2 runs"),
        ({"calibration": {"subsets": 3}}, "did you mean 'subset'"),
        (
            {"subject": {"kind": "arrays", "paths": {"a": "a.npy"}}, "seeds": {"init": [0, 1, 2]}},
            "whose features nobody knows",
        ),
    ],
)
def test_what_cannot_be_calibrated_is_refused(cli, write_study, tmp_path, changes, words):
    path = write_study(**changes)
    done = cli("calibrate", path)
    assert done.returncode == 2
    assert re.search(words, " ".join(done.stderr.split()))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_an_unknown_preset_is_answered_with_the_nearest(cli):
    done = cli("calibrate", "smal")
    assert done.returncode == 2
    assert "did you mean 'small'" in " ".join(done.stderr.split())


@pytest.mark.slow
def test_reading_needs_no_torch(small, python):
    forbid = (
        "import sys\nclass F:\n    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'torch': raise ModuleNotFoundError(name=name)\n"
        "sys.meta_path.insert(0, F())\n"
    )
    code = f"import shutil, reseed\nshutil.rmtree({str(small.study.folder)!r} + '/calibration')\n"
    code += f"print(reseed.calibrate({str(small.study.folder)!r}, progress=False).table.height)"
    done = python("-c", forbid + code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "2"
