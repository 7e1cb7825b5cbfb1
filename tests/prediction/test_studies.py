"""A prediction and a file of all latents, out of a finished study; both through their doors."""

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import reseed
from reseed.errors import SpecError, StoreError

# -- export ----------------------------------------------------------------------------------------


def test_a_study_is_exported_whole(finished, tmp_path) -> None:
    study = reseed.Study.load(finished)
    path = tmp_path / "out" / "latents.parquet"
    table = reseed.export(study, path)
    assert table.equals(pl.read_parquet(path))
    assert len(table) == len(study.latents) == 2 * (16 + 8)
    assert table["run"].to_list() == study.latents["run"].to_list()
    assert table["n_matched"].to_list() == study.latents["n_matched"].to_list()
    assert table["best_dec_cos"].list.len().to_list() == [1] * len(table)
    assert table["act_corr"].list.len().to_list() == [1] * len(table)
    nearest = table["best_dec_cos"].list.first()
    assert nearest.to_list() == pytest.approx(study.latents["max_decoder_cos"].to_list())


def test_the_command_filters_and_never_overwrites_silently(cli, finished, tmp_path) -> None:
    path = tmp_path / "some.csv"
    group = reseed.Study.load(finished).groups()[0]
    command = ("export", finished, "--where", "latent < 3", "--group", group.label)
    done = cli(*command, "--columns", "run,latent", "--out", path)
    assert done.returncode == 0, done.stderr
    assert "6 of 32" in done.stdout
    back = pl.read_csv(path)
    assert back.columns == ["run", "latent", "latent_table_version"]
    assert set(back["run"]) == set(group.runs)
    before = path.read_bytes()
    again = cli("export", finished, "--out", path)
    assert again.returncode == 2
    assert "--overwrite" in again.stderr
    assert path.read_bytes() == before
    assert cli("export", finished, "--out", path, "--overwrite").returncode == 0
    assert len(pl.read_csv(path)) == 48


def test_wrong_asking_writes_nothing(cli, finished, tmp_path) -> None:
    for arguments, message in (
        (("--where", "latnet < 3"), "did you mean 'latent'"),
        (("--columns", "latent,alife"), "did you mean 'alive'"),
        (("--group", "topk 61"), "did you mean"),
        (("--format", "jsnol"), "did you mean 'jsonl'"),
    ):
        done = cli("export", finished, *arguments, "--out", tmp_path / "x.csv")
        assert done.returncode == 2, arguments
        assert message in done.stderr
    assert "is a folder" in cli("export", finished, "--out", tmp_path).stderr
    assert not list(tmp_path.iterdir())


def test_a_study_without_results_says_so(cli, write_study, tmp_path) -> None:
    path = write_study()
    with pytest.raises(StoreError, match="no finished runs"):
        reseed.export(reseed.Study.load(path), tmp_path / "x.parquet")
    assert cli("export", path, "--out", tmp_path / "x.parquet").returncode == 3
    assert not (tmp_path / "x.parquet").exists()


def test_the_page_describes_every_column(finished, tmp_path) -> None:
    """What docs/latent_table.md lists is what a file has."""
    page = (Path(__file__).parents[2] / "docs" / "latent_table.md").read_text()
    rows = re.findall(r"^\| (`.*?) \| (.*) \|$", page, flags=re.MULTILINE)
    now = {name for names, _ in rows for name in re.findall(r"`(\w+)`", names)}
    table = reseed.export(reseed.Study.load(finished), tmp_path / "x.parquet")
    of_maps = {"coherence", "coherence_null"}
    assert now - of_maps == set(table.columns)


# -- predict ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A study of three runs whose latents differ enough to learn from."""
    import importlib.util

    at = Path(__file__).parents[1] / "conftest.py"
    spec = importlib.util.spec_from_file_location("tiny", at)
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    path = tmp_path_factory.mktemp("three") / "three.toml"
    path.write_text(
        tiny.study_text(
            sae=[{"latents": 48, "k": 2, "lr": 1e-2}],
            seeds={"init": [0, 1, 2]},
            training={"tokens": 12_800, "snapshots": []},
        )
    )
    study = reseed.Study.load(path)
    reseed.run(study, progress=False)
    return study.folder


def test_every_live_latent_is_predicted_unseen(three) -> None:
    study = reseed.Study.load(three)
    found = reseed.predict(study)
    assert found.runs == 3
    assert found.features[0] == "firing_rate"
    assert "own_p95_cos" in found.features
    assert found.latents.select("run", "latent").equals(study.latents.select("run", "latent"))
    live = found.latents.filter(study.latents["alive"])
    assert live["probability"].is_between(0, 1).all()
    assert found.latents.filter(~study.latents["alive"])["probability"].null_count() == (
        len(study.latents) - len(live)
    )
    assert found.skill["metric"].to_list() == ["log_loss", "brier", "auroc"]
    assert found.reliability["trials"].sum() == 2 * len(live)
    assert found.says.startswith("Withheld")  # three runs of latents that hardly fire


def test_one_study_predicts_another_and_a_file(three, finished, tmp_path) -> None:
    study, other = reseed.Study.load(three), reseed.Study.load(finished)
    there = reseed.predict(study, other)
    assert len(there.latents) == len(other.latents)
    assert there.transfer is not None
    live = there.latents.filter(pl.col("probability").is_not_null())
    assert (live["lo"] <= live["probability"]).all()
    assert (live["probability"] <= live["hi"]).all()
    assert there.latents["probability"].is_not_null().to_list() == other.latents["alive"].to_list()
    table = reseed.export(other, tmp_path / "other.parquet")
    from_file = reseed.predict(study, table)
    assert "own_p95_cos" not in from_file.features
    assert from_file.transfer is None
    np.testing.assert_allclose(
        from_file.latents["frequency"].drop_nulls(), there.latents["frequency"].drop_nulls()
    )


def test_too_little_to_learn_from(finished, cli) -> None:
    with pytest.raises(SpecError, match="largest group has 2 runs"):
        reseed.predict(reseed.Study.load(finished))
    done = cli("predict", finished)
    assert done.returncode == 2
    assert "Add seeds" in done.stderr


def test_a_table_without_the_columns_is_refused(three) -> None:
    table = pl.DataFrame({"latent": [0], "alive": [True], "firing_rate": [0.1]})
    with pytest.raises(SpecError, match="share the columns for \\['firing_rate'\\]"):
        reseed.predict(reseed.Study.load(three), table)
    whole = reseed.Study.load(three).latents
    first = pl.int_range(pl.len()) == pl.arg_where("alive").first()
    spoilt = whole.with_columns(pl.when(~first).then("mean_act").alias("mean_act"))
    with pytest.raises(SpecError, match="mean_act of 1 of"):
        reseed.predict(reseed.Study.load(three), spoilt)


def test_the_command_prints_and_writes(cli, three, finished, tmp_path) -> None:
    path = tmp_path / "predicted.jsonl"
    done = cli("predict", three, "--apply", finished, "--out", path)
    assert done.returncode == 0, done.stderr
    for words in (
        "frequency alone",
        "predicted and observed",
        "where it was applied",
        "Withheld",
    ):
        assert words in done.stdout
    assert len(pl.read_ndjson(path)) == len(reseed.Study.load(finished).latents)
    again = cli("predict", three, "--out", path)
    assert again.returncode == 2
    assert "--overwrite" in again.stderr
    (tmp_path / "x.csv").write_bytes(b"\x00\xff")
    broken = cli("predict", three, "--apply", tmp_path / "x.csv")
    assert broken.returncode == 2


def test_a_group_is_looked_for_in_each_study_that_is_learned_from(finished) -> None:
    study = reseed.Study.load(finished)
    for apply in (None, study.latents):
        with pytest.raises(SpecError, match="no group 'topk 61'"):
            reseed.predict([study, study], apply, group="topk 61")
