"""Trainings that go on from an SAE that is there, and rows without the mean of their site."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import reseed
from reseed.errors import ReseedError, SpecError
from reseed.sae.architectures import ARCHITECTURES
from reseed.spec.refusals import read_spec
from reseed.spec.training import RunSpec, TrainingSpec
from reseed.study import Study
from reseed.training.learner import Learner
from reseed.training.scale import off_mean

D, F = 8, 16
SCALE = {"x": 0.37, "y": 1.7}
GO_ON = [name for name, one in ARCHITECTURES.items() if one.thaw is not None]
UNCENTRED = {"llamascope": {}, "transcoder": {"target": "y"}, "skip_transcoder": {"target": "y"},
             "crosscoder": {"parts": [3, 5], "k": 3}}  # fmt: skip


@pytest.fixture(scope="module")
def x():
    draw = np.random.default_rng(0)
    features = draw.normal(size=(24, D))
    return torch.from_numpy(((draw.random((1024, 24)) < 0.1) @ features) + 2.0).float()


def run(name, init_seed=0, **sae):
    has_k = "k" in ARCHITECTURES[name].settings.model_fields
    table = {"architecture": name, "latents": F, "lr": 0.01, **({"k": 4} if has_k else {})}
    table |= {"target": "y"} if "transcoder" in name else {}
    table |= {"prefixes": [0.25, 0.5]} if name == "matryoshka" else {}
    return read_spec(
        RunSpec,
        {"data": "", "site": "x", "sae": table | sae, "init_seed": init_seed, "data_seed": 0,
         "training": TrainingSpec(tokens=640, batch=64)},
        "test",
    )  # fmt: skip


def learner(spec, x, centre=None):
    rows = x * SCALE["x"]
    if centre is not None:
        rows = rows - centre
    target = (x[:, :5] * SCALE["y"]) if spec.target != spec.site else None
    first = rows[:64], None if target is None else target[:64]
    made = Learner(spec, *first, scales=SCALE, centre=centre)
    return made, rows, target


def trained(spec, x, centre=None):
    made, rows, target = learner(spec, x, centre)
    for i in range(0, 640, 64):
        made.update(rows[i : i + 64], None if target is None else target[i : i + 64])
    return made.sae()


@pytest.mark.parametrize("name", GO_ON)
def test_what_training_goes_on_from_is_that_sae_in_raw_units(tmp_path, x, name):
    source = trained(run(name), x)
    reseed.save(source, tmp_path / "source")
    start = learner(run(name, init=str(tmp_path / "source")), x)[0].sae()
    got, want = start.encode(x), source.encode(x)
    # a code that rounding takes over its threshold is 0 in one of them: at most one in 4,096
    over = ~torch.isclose(got, want, rtol=1e-4, atol=1e-4)
    assert over.sum() <= over.numel() / 4096
    assert float(torch.minimum(got.abs(), want.abs())[over].sum()) == 0
    same = ~over.any(dim=1)
    back = start.reconstruct(x), source.reconstruct(x)
    torch.testing.assert_close(*(rows[same] for rows in back), rtol=1e-4, atol=1e-4)


def test_the_init_seed_decides_the_noise_and_nothing_else(tmp_path, x):
    path = str(tmp_path / "source")
    reseed.save(source := trained(run("topk"), x), path)
    plain = [learner(run("topk", seed, init=path), x)[0].sae().W_dec for seed in (0, 1)]
    assert torch.equal(*plain)
    noisy = [learner(run("topk", s, init=path, init_noise=0.5), x)[0].sae() for s in (0, 1, 1)]
    assert torch.equal(noisy[1].W_enc, noisy[2].W_enc)
    cosines = torch.nn.functional.cosine_similarity(noisy[0].W_dec, source.W_dec)
    assert float(cosines.mean()) == pytest.approx((1 + 0.5**2) ** -0.5, abs=0.05)
    assert float((noisy[0].W_dec.norm(dim=1) - 1).abs().max()) < 1e-5
    assert (
        float(torch.nn.functional.cosine_similarity(noisy[0].W_dec, noisy[1].W_dec).max()) < 0.999
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"latents": 12}, ["16 latents", "set latents = 16"]),
        ({"architecture": "relu"}, ["its rule is topk", "topk"]),
        ({"architecture": "matching_pursuit", "k": 4}, ["matching_pursuit goes on from no SAE"]),
        ({"architecture": "groupmax"}, ["goes on from groupmax", "'topk'"]),
        ({"init": "ortogonal"}, ["no such start", "'orthogonal'"]),
        ({"init": "linear", "init_noise": 0.1}, ["init = 'linear' is none"]),
        ({"tied_init": True}, ["tied_init"]),
        ({"init": "./nowhere"}, ["nowhere", "does not exist"]),
    ],
)
def test_what_cannot_be_gone_on_from_is_said_before_any_work(tmp_path, x, change, words):
    reseed.save(trained(run("topk"), x), tmp_path / "source")
    settings = {"architecture": "topk", "latents": F, "init": str(tmp_path / "source"), **change}
    settings |= {"k": 4} if settings["architecture"] in ("topk", "groupmax") else {}
    with pytest.raises(SpecError) as caught:
        reseed.train(x.numpy(), init_seeds=[0], **settings)
    assert all(word in str(caught.value) for word in words), caught.value


def test_starts_of_other_sizes_and_lengths_are_refused(tmp_path, x):
    source = trained(run("topk"), x)
    reseed.save(source, tmp_path / "source")
    with pytest.raises(SpecError, match="reads 8 and writes 8 dimensions, but the site has 6"):
        reseed.train(
            x[:, :6].numpy(), latents=F, k=4, init_seeds=[0], init=str(tmp_path / "source")
        )

    reseed.save(replace(source, W_dec=2 * source.W_dec), tmp_path / "longer")
    with pytest.raises(SpecError, match="lengths from 2 to 2"):
        reseed.train(x.numpy(), latents=F, k=4, init_seeds=[0], init=str(tmp_path / "longer"))


def test_init_seeds_that_decide_nothing_are_refused(tmp_path, x, write_study):
    reseed.save(trained(run("topk"), x), tmp_path / "source")
    with pytest.raises(SpecError, match="the same to the last bit"):
        reseed.train(x.numpy(), latents=F, k=4, init_seeds=[0, 1], init=str(tmp_path / "source"))
    sae = [{"latents": 16, "k": 2, "init": "./source"}]
    with pytest.raises(SpecError, match="init_noise = 0.05"):
        Study.load(write_study(sae=sae))


def test_a_study_goes_on_from_an_sae_and_knows_it_by_its_numbers(tmp_path, x, write_study):
    reseed.save(trained(run("topk", k=2), x), tmp_path / "source")
    change = {"sae": [{"latents": 16, "k": 2, "init": "./source", "init_noise": 0.1}]}
    change |= {"training": {"tokens": 1280}}
    study = Study.load(write_study(**change))
    reseed.run(study, progress=False)
    group = study.summary["groups"][0]
    assert group["headline"]["shared"]["all"]["null_untrained"] > 0.9
    assert any("go on from one SAE" in note for note in group["notes"])
    ids = [one.spec.id for one in study.runs]
    shutil.copytree(tmp_path / "source", tmp_path / "elsewhere" / "source")
    shutil.copy(tmp_path / "tiny.toml", tmp_path / "elsewhere")
    assert [
        one.spec.id for one in Study.load(tmp_path / "elsewhere/tiny.toml", study.folder).runs
    ] == ids
    shutil.rmtree(tmp_path / "source")
    again = Study.load(study.folder)
    assert [one.spec.id for one in again.runs] == ids  # results need no source any more
    assert again.edited() == []
    reseed.save(trained(run("topk", 1, k=2), x), tmp_path / "source")
    (study.folder / "study.toml").write_text(
        (tmp_path / "tiny.toml").read_text().replace("init = [0, 1]", "init = [0, 1, 2]")
    )
    with pytest.raises(ReseedError, match="it was changed since"):
        reseed.run(Study.load(study.folder), progress=False)
    assert list(json.loads((study.folder / "starts.json").read_text())) == ["./source"]


@pytest.mark.parametrize("name", UNCENTRED)
def test_an_sae_that_learned_without_the_mean_reads_raw_rows(x, name):
    spec, centre = run(name, center=True, **UNCENTRED[name]), (x * SCALE["x"]).mean(0)
    made, rows, target = learner(spec, x, centre)
    for i in range(0, 640, 64):
        made.update(rows[i : i + 64], None if target is None else target[i : i + 64])
    off, scaled = made.sae(), x * SCALE["x"]
    inner = ARCHITECTURES[name].freeze(made.parameters, spec.sae, {})
    here = off.reconstruct(x) * (SCALE["y"] if target is not None else SCALE["x"])
    there = inner.reconstruct(scaled - centre) + (0.0 if target is not None else centre)
    # rounding may decide about a code that lies at a threshold
    assert float(((here - there).abs() > 1e-3).float().mean()) < 0.01
    assert "centred" in spec.sae.label
    own = target is None
    back = off_mean(off_mean(inner, centre, written=own), -centre, written=own)
    torch.testing.assert_close(back.b_enc, inner.b_enc, rtol=1e-4, atol=1e-5)


def test_a_mean_does_not_matter_to_what_is_learned_without_it(x):
    far = (x + 30.0).numpy()
    options = {"latents": F, "k": 4, "init_seeds": [0], "tokens": 1024, "batch": 64, "scale": False}
    near, there = (
        reseed.train(rows, "llamascope", center=True, **options)[0] for rows in (x.numpy(), far)
    )
    torch.testing.assert_close(near.W_dec, there.W_dec, rtol=1e-2, atol=1e-2)
    dead = [
        int((reseed.train(far, "llamascope", center=c, **options)[0].encode(far) > 0).any(0).sum())
        for c in (True, False)
    ]
    assert dead[0] > dead[1]  # live ones


def test_center_is_for_rules_that_subtract_nothing(x, write_study):
    with pytest.raises(SpecError, match="topk takes out a centre of its own"):
        reseed.train(x.numpy(), latents=F, k=4, center=True)
    sae = [{"architecture": "llamascope", "latents": 16, "k": 2, "center": True}]
    study = Study.load(write_study(sae=sae, seeds={"init": [0]}))
    reseed.run(study, progress=False)
    assert study.store.tensors("center/subject", "mean.safetensors")["toy"].shape == (8,)
