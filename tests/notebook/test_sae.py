"""An SAE as people use it: on a device, as a module, in a model, in a file."""

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import reseed  # noqa: E402
from reseed.sae.model import SAE  # noqa: E402

SITE = "layers.1.mlp"


def made(D=16, F=24, kind="topk", E=None, **more):
    g = torch.Generator().manual_seed(0)

    def r(*shape):
        return torch.randn(*shape, generator=g)

    rule = {"kind": kind, "k": 3} if kind == "topk" else {"kind": kind}
    W_dec = torch.nn.functional.normalize(r(F, E or D), dim=1)
    return SAE(
        W_enc=r(F, D), W_dec=W_dec, b_enc=r(F) / 9, b_dec=r(E or D) / 9, activation=rule,
        about={"site": SITE}, **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(tiny_folder):
    return transformers.AutoModelForCausalLM.from_pretrained(tiny_folder).eval()


@pytest.fixture
def ids():
    with torch.no_grad():
        yield torch.arange(4, 14)[None]


def test_to_moves_all_and_leaves_the_old():
    sae = made(kind="jumprelu", threshold=torch.full((24,), 0.5))
    there = sae.to("meta")
    assert there.W_enc.device.type == there.threshold.device.type == "meta"
    assert sae.W_enc.device.type == "cpu"
    assert there.about == sae.about


@pytest.mark.parametrize("kind", ["topk", "relu"])
def test_a_module_gives_the_same_numbers_and_takes_gradients(kind):
    sae, x = made(kind=kind), torch.randn(2, 5, 16)
    module = sae.as_module()
    assert set(module.state_dict()) == {"W_enc", "W_dec", "b_enc", "b_dec"}
    with torch.no_grad():
        assert torch.equal(module(x), sae.reconstruct(x))
        assert torch.equal(module.encode(x), sae.encode(x))
    assert torch.allclose(module(x), sae.reconstruct(x), atol=1e-5)
    assert torch.allclose(module.decode(module.encode(x)), module(x), atol=1e-5)
    (module(x) - x).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())
    with torch.no_grad():
        module.b_dec += 1
    assert not torch.equal(module.sae.b_dec, sae.b_dec)  # a copy
    assert "24 latents" in repr(module)


def test_spliced_replaces_what_passes(model, ids):
    sae, before = made(), {}
    plain = model(ids).logits
    handle = model.model.layers[1].mlp.register_forward_hook(
        lambda _, __, out: before.setdefault("x", out.detach())
    )
    model(ids)
    handle.remove()
    seen = {}
    with sae.spliced(model):
        watch = model.model.layers[1].mlp.register_forward_hook(
            lambda _, __, out: seen.setdefault("x", out.detach())
        )
        changed = model(ids).logits
        watch.remove()
    assert torch.equal(seen["x"], sae.reconstruct(before["x"]))
    assert not torch.allclose(changed, plain)
    assert torch.equal(model(ids).logits, plain)  # the hook is gone


def test_spliced_is_what_a_study_measures_through_the_subject(model, ids):
    from reseed.subjects.language.activations import SplicedModel

    sae, own = made(), SplicedModel(model, "tiny")
    with sae.spliced(model, SITE):
        changed = model(ids).logits
    assert torch.equal(changed, own.run_with(ids, SITE, sae.reconstruct).logits)


def test_an_edit_with_the_error_kept_changes_only_what_it_edits(model, ids):
    sae = made()
    plain = model(ids).logits
    with sae.spliced(model, keep_error=True):
        assert torch.equal(model(ids).logits, plain)
    with sae.spliced(model, keep_error=True, edit=lambda codes: codes.clone()):
        assert torch.allclose(model(ids).logits, plain, atol=1e-5)
    with sae.spliced(model, keep_error=True, edit=lambda codes: 0 * codes):
        assert not torch.allclose(model(ids).logits, plain, atol=1e-5)
    with sae.spliced(model, edit=lambda codes: 2 * codes):
        doubled = model(ids).logits
    with sae.spliced(model):
        assert not torch.allclose(doubled, model(ids).logits)


def test_a_transcoder_reads_one_site_and_writes_another(model, ids):
    coder = made()
    coder.about["site"], coder.about["target"] = "layers.1.mlp:in", "layers.1.mlp"
    seen = {}
    mlp = model.model.layers[1].mlp
    with coder.spliced(model):
        watch = [
            mlp.register_forward_hook(lambda _, args, out: seen.update(x=args[0], y=out)),
        ]
        model(ids)
        watch[0].remove()
    assert torch.equal(seen["y"], coder.reconstruct(seen["x"]))


def test_what_cannot_be_spliced_is_said(model, ids):
    sae = made()
    with pytest.raises(reseed.SpecError, match="no such module"), sae.spliced(model, "layers.9"):
        pass
    del sae.about["site"]
    with pytest.raises(reseed.SpecError, match="name one"), sae.spliced(model):
        pass
    wide = made(D=8)
    with pytest.raises(reseed.SubjectError, match="reads rows of 8"), wide.spliced(model, SITE):
        model(ids)
    assert model(ids).logits.isfinite().all()  # the hook is gone after an error too


@pytest.mark.parametrize("format", ["reseed", "saelens", "sparsify"])
def test_save_is_reseed_save(tmp_path, format):
    sae = made()
    sae.save(tmp_path / "a", format=format)
    reseed.save(sae, tmp_path / "b", format=format)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    assert torch.equal(reseed.load(tmp_path / "a").W_dec, sae.W_dec)
    with pytest.raises(reseed.SpecError, match="overwrite"):
        sae.save(tmp_path / "a", format=format)


def test_training_shows_a_bar(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    x = torch.randn(512, 8)
    reseed.train(x, latents=8, k=2, init_seeds=[0], tokens=4096, lr=1e-2, progress=True)
    assert "100%" in capsys.readouterr().err
    reseed.train(x, latents=8, k=2, init_seeds=[0], tokens=4096, lr=1e-2)
    assert not capsys.readouterr().err
