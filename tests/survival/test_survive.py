"""`reseed survive` on whole studies: the door, its pieces, its page and what it refuses."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import WORDS, study_text

import reseed
from reseed.errors import SpecError, StoreError
from reseed.survival import stage
from reseed.survival.summary import survival_name

CHROMIUM = "/usr/bin/chromium"

VARIANTS = [
    {"name": "nothing", "method": "random", "share": 0.0},
    {"method": "random", "share": 0.5},
    {"method": "random_weights", "seed": 7},
]


@pytest.fixture(scope="module")
def folder(finished, tmp_path_factory):
    """A finished study to which variants were added."""
    folder = tmp_path_factory.mktemp("survive") / "tiny"
    shutil.copytree(finished, folder)
    sae = [{"latents": 16, "k": 2, "lr": 3e-3}, {"latents": 8, "k": 2, "lr": 3e-3}]
    (folder / "study.toml").write_text(study_text(sae=sae, variant=VARIANTS))
    return folder


@pytest.fixture(scope="module")
def survival(folder):
    return reseed.survive(reseed.Study.load(folder), progress=False)


def test_taking_out_nothing_leaves_all_exactly(survival):
    latents = survival.latents.filter(variant="nothing")
    assert len(latents)
    for column in ("r", "rate_ratio"):
        assert set(latents[column].drop_nulls()) == {1.0}
    (nothing, *_) = survival.summary["variants"]
    for numbers in nothing["groups"].values():
        assert numbers["survival"]["value"] == 1.0
        assert numbers["distance"] == 0.0
        assert {of["value"] for of in numbers["directions"].values()} == {1.0}
        assert numbers["fvu"]["whole"] == numbers["fvu"]["variant"]


def test_other_versions_lose_latents_and_stand_beside_their_nulls(survival):
    assert [v["variant"] for v in survival.summary["variants"]] == [
        "nothing", "random-0.5", "random_weights-7",
    ]  # fmt: skip
    for variant in survival.summary["variants"][1:]:
        for numbers in variant["groups"].values():
            assert numbers["survival"]["value"] < 1.0
            assert numbers["survival"]["latents"] == sum(
                share["latents"] for share in numbers["kinds"].values()
            )
            assert {"null_shuffled", "untrained", "directions"} <= set(numbers)
    assert {"verdict", "n_matched", "kind", "stratum"} <= set(survival.latents.columns)
    assert survival.latents["variant"].n_unique() == 3
    page = survival.page.read_text("utf-8")
    assert "random-0.5" in page


def test_again_it_only_reads(survival, folder, tree, monkeypatch):
    import reseed.subjects.variants as variants

    def opened(*_):
        raise AssertionError("a variant was opened again")

    before = tree(folder)
    monkeypatch.setattr(variants, "open_variant", opened)
    again = reseed.survive(reseed.Study.load(folder), progress=False)
    assert tree(folder) == before
    assert again.summary == survival.summary
    shutil.rmtree(folder / "survival" / "_summary")  # made again from the pieces alone, alike
    assert reseed.survive(reseed.Study.load(folder), progress=False).summary == survival.summary
    assert tree(folder) == before


def test_second_opinions_are_trained_on_the_variant(survival, folder):
    study = reseed.Study.load(folder)
    again = reseed.survive(
        study, group="topk 16", retrain=["nothing", "random-0.5"],
        crosscoders=["auxk", "exclusive"], progress=False,
    )  # fmt: skip
    for variant in again.summary["variants"][:2]:
        (numbers,) = variant["groups"].values()
        second = numbers["second"]
        assert sum(of["latents"] for of in second["crosscoder"]["where"].values()) > 0
        assert list(second["crosscoder"]["arms"]) == ["auxk", "exclusive"]
        (group,) = study.groups_named("topk 16")
        piece = survival_name(variant["variant"], f"_second/{group.name}")
        lie = study.store.table(piece, "crosscoder.parquet").filter(arm="exclusive")
        assert set(lie.filter(latent=0)["where"]) <= {"only whole"}
        assert set(lie.filter(latent=1)["where"]) <= {"only variant"}
        assert {"same_seed", "other_seed", "ceiling"} == set(second["counterparts"])
        same = second["counterparts"]["same_seed"]["all"]["value"]
        # on what nothing was taken out of, the same training ends in the same SAE
        assert (same == 1.0) == (variant["variant"] == "nothing")
    with pytest.raises(SpecError, match="did you mean 'random-0.5'"):
        reseed.survive(study, retrain=["random-0.4"], progress=False)
    with pytest.raises(SpecError, match="no crosscoders 'exclusve' to train; did you mean"):
        reseed.survive(study, retrain=["nothing"], crosscoders=["exclusve"], progress=False)
    with pytest.raises(SpecError, match="name the variants for it in retrain"):
        reseed.survive(study, crosscoders=["delta"], progress=False)


def test_the_command_shows_what_survives(survival, folder, cli):
    done = cli("survive", folder, "--quiet")
    assert done.returncode == 0, done.stderr
    assert "random-0.5" in done.stdout
    assert "survival.html" in done.stdout


@pytest.mark.browser
def test_every_figure_is_drawn_on_a_narrow_screen_and_nothing_is_asked_for(survival):
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"there is no {CHROMIUM}")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        context = browser.new_context(
            viewport={"width": 390, "height": 850}, color_scheme="dark", offline=True
        )
        opened, said, asked = context.new_page(), [], []
        opened.on("console", lambda message: said.append(message.text))
        opened.on("request", lambda request: asked.append(request.url))
        opened.goto(survival.page.as_uri())
        opened.wait_for_selector("body[data-ready=true]", timeout=60_000)
        section = "[data-group='0']"
        opened.select_option(f"{section} [data-option=variant]", "random-0.5")
        opened.select_option(f"{section} [data-option=axis]", "distance at the site")
        drawn = opened.evaluate(
            "() => Object.fromEntries("
            "[...document.querySelectorAll(\"[data-group='0'] [data-plot]\")].map((p) => "
            "[p.dataset.plot, p.querySelectorAll('.trace path, .points path').length]))"
        )
        assert drawn["survival-by"] > 3
        assert drawn["survival-kinds"] > 3
        assert drawn["survival-curve"] > 5
        assert opened.evaluate("document.documentElement.scrollWidth") <= 390
        assert opened.evaluate("window.__errors") == []
        assert said == []
        assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
        browser.close()


@pytest.mark.slow
def test_a_language_model_is_also_asked_how_it_predicts(tiny_folder, write_study, tmp_path):
    words = np.random.default_rng(0).choice(WORDS, 2400).tolist()
    (tmp_path / "text.txt").write_text("\n".join(" ".join(words[n::80]) for n in range(80)))
    study = reseed.Study.load(
        write_study(
            subject={"kind": "language_model", "model": str(tiny_folder), "batch_blocks": 4},
            text={"source": str(tmp_path / "text.txt"), "block": 16},
            activations={"sites": ["layers.3.mlp"], "held_out": 0.3},
            variant=[
                {"method": "flap", "share": 0.0, "calibration_blocks": 2},
                {"method": "flap", "share": 0.3, "calibration_blocks": 2},
                {"method": "random", "share": 0.3},
                {"method": "random", "equal_perplexity": "flap-0.3", "calibration_blocks": 2},
            ],
        )
    )
    reseed.run(study, progress=False)
    survival = reseed.survive(study, progress=False)
    nothing, flap, random, equal = survival.summary["variants"]
    (of_nothing,) = nothing["groups"].values()
    assert of_nothing["survival"]["value"] == 1.0
    assert nothing["cross_entropy"]["more_than_whole"]["interval_95"] == [0.0, 0.0]
    assert set(survival.latents.filter(variant="flap-0")["r_lo"].drop_nulls()) == {1.0}
    for variant in (flap, random, equal):
        low, high = variant["cross_entropy"]["interval_95"]
        assert low < variant["cross_entropy"]["value"] < high
    (of_flap,) = flap["groups"].values()
    assert of_flap["random_at_equal_share"]["variant"] == "random-0.3"
    assert of_flap["random_at_equal_perplexity"]["variant"] == "random-as-flap-0.3"
    assert 0 < flap["share_removed"] < 0.5
    assert of_flap["survival"]["value"] < 1.0


def test_what_cannot_be_asked_is_refused(finished, folder, write_study):
    with pytest.raises(SpecError, match=r"\[\[variant\]\]"):
        stage.check(reseed.Study.load(finished))
    untrained = write_study("untrained", variant=VARIANTS)
    with pytest.raises(StoreError, match="no finished runs yet"):
        reseed.survive(reseed.Study.load(untrained), progress=False)
    assert not untrained.with_suffix("").exists()
