"""A study that was edited after its results were made says so; what is in another's place too."""

import shutil

import pytest

import reseed
from reseed.runs import group_of, stability_name


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "tiny")
    return tmp_path / "tiny"


def edit(folder, table):
    path = folder / "study.toml"
    text, head = path.read_text(), table.partition("\n")[0] + "\n"
    known = head in text and not head.startswith("[[")
    path.write_text(text.replace(head, table) if known else text + table)


EDITS = {
    "[matching]\ntau = 0.3\n": "matching.tau: there 0.7, now 0.3",
    "[stability]\ndense_rate = 0.2\n": "stability.dense_rate: there 0.1, now 0.2",
    "[evidence]\ncontexts = 2\n": "evidence.contexts: there 6, now 2",
    '[controls]\nkinds = ["gaussian"]\n': "controls.kinds: there [], now ['gaussian']",
    "[[sae]]\nlatents = 12\nk = 2\n": "[sae] was edited",
}


@pytest.mark.parametrize("table", EDITS)
@pytest.mark.parametrize("command", ["export", "report", "status"])
def test_commands_that_show_results_say_that_they_are_old(cli, copy, tmp_path, table, command):
    more = ["--out", tmp_path / "x.csv"] if command == "export" else []
    assert cli(command, copy, *more).stderr == ""
    edit(copy, table)
    done = cli(command, copy, *more, *(["--overwrite"] if more else []))
    assert done.returncode == 0
    message = " ".join(done.stderr.split())
    assert EDITS[table] in message
    assert "`reseed run` makes what is new" in message


def test_in_python_it_is_a_warning(copy):
    edit(copy, "[matching]\ntau = 0.3\n")
    study = reseed.Study.load(copy)
    for read in (lambda: study.latents, lambda: study.summary, lambda: study.matches):
        with pytest.warns(UserWarning, match=r"matching\.tau: there 0\.7, now 0\.3"):
            read()


def test_what_decides_no_result_may_be_edited(cli, copy):
    path = copy / "study.toml"
    path.write_text(path.read_text().replace("[activations]", "[activations]\nkeep = 'live'", 1))
    assert "live" in path.read_text()
    assert cli("status", copy).stderr == ""


def test_run_makes_them_new_and_nothing_is_said_any_more(copy):
    edit(copy, "[matching]\ntau = 0.3\n")
    reseed.run(reseed.Study.load(copy), progress=False)
    study = reseed.Study.load(copy)
    assert study.edited() == []
    assert study.summary["groups"][0]["headline"]["tau"] == 0.3


@pytest.fixture
def mixed(copy, finished, tmp_path):
    """A copy whose statistics of a group are those of another tau."""
    other = tmp_path / "other"
    shutil.copytree(finished, other)
    edit(other, "[matching]\ntau = 0.3\n")
    reseed.run(reseed.Study.load(other), progress=False)
    name = stability_name(reseed.Study.load(copy).groups()[0].name)
    shutil.rmtree(copy / name)
    shutil.copytree(other / name, copy / name)
    return copy


def test_statistics_of_other_settings_in_their_place_are_refused(mixed, cli):
    done = cli("report", mixed)
    assert done.returncode == 3
    assert "put in its place" in done.stderr
    with pytest.raises(reseed.StoreError, match="put in its place"):
        _ = reseed.Study.load(mixed).latents
    reseed.run(reseed.Study.load(mixed), progress=False)
    assert len(reseed.Study.load(mixed).latents) == 2 * (16 + 8)


def test_old_studies_say_nothing(cli, copy):
    (copy / "made_with.json").unlink()
    edit(copy, "[matching]\ntau = 0.3\n")
    assert cli("status", copy).stderr == ""


@pytest.mark.parametrize("name", ["toy topk 16", "TOY · topk 16 k2", "topk 16", "16 k2"])
def test_a_group_is_named_as_a_keyboard_can(finished, name):
    study = reseed.Study.load(finished)
    assert [group.label for group in study.groups_named(name)] == ["toy · topk 16 k2"]


def test_a_name_that_fits_several_groups_or_none(finished):
    study = reseed.Study.load(finished)
    with pytest.raises(reseed.SpecError, match="in 2 labels: toy · topk 16 k2, toy · topk 8 k2"):
        study.groups_named("topk")
    for name in ("tpok 16", "", "·"):
        with pytest.raises(reseed.SpecError, match="no group"):
            study.groups_named(name)


def test_no_two_groups_have_one_label(finished, tmp_path):
    study = reseed.Study.load(finished)
    first, second = study.spec.sae
    slower = first.model_copy(update={"lr": 1e-4})
    spec = study.spec.model_copy(update={"sae": (first, second, slower)})
    groups = {run.group: [run] for run in spec.runs(study.sites())}.values()
    labels = [group_of(runs, spec.sae).label.partition(" · ")[2] for runs in groups]
    assert labels == ["topk 16 k2 lr0.003", "topk 8 k2", "topk 16 k2 lr0.0001"]


def test_a_study_shows_itself_shortly(finished):
    text = repr(reseed.Study.load(finished))
    assert text.startswith("Study(")
    assert "toy; topk 16 k2, topk 8 k2; 2 init x 1 data seeds" in text


def test_another_run_in_the_place_of_one_is_seen(cli, copy):
    """Its numbers would be those of a run with itself."""
    first, second = sorted((copy / "runs").iterdir())[:2]
    shutil.rmtree(first)
    shutil.copytree(second, first)
    done = cli("run", copy)
    assert done.returncode == 3
    assert f"it is the piece 'runs/{second.name}', put in this place" in done.stderr
    assert f"{first.name}" in cli("status", copy).stdout
    assert "damaged" in cli("status", copy).stdout
