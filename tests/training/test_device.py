"""Where learners compute: what can be asked for, and that nothing stays behind on the CPU."""

from contextlib import nullcontext

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from reseed.errors import SpecError
from reseed.sae import codes
from reseed.sae.architecture import At, Batch
from reseed.sae.architectures import ARCHITECTURES, architecture
from reseed.sae.architectures.topk import TopKSpec
from reseed.spec.refusals import read_spec
from reseed.training.arrays import train
from reseed.training.device import chosen
from reseed.training.step import step_of
from reseed.training.step.plain import PlainStep

F, D, B = 16, 8, 6


@pytest.fixture
def gpus(monkeypatch):
    """Says how many there are."""

    def say(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return say


def test_what_can_be_asked_for(gpus):
    gpus(0)
    assert chosen("cpu") == chosen("auto") == "cpu"
    gpus(2)
    assert [chosen(name) for name in ("cpu", "auto", "cuda", "cuda:1")] == [
        "cpu", "cuda", "cuda", "cuda:1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "count", "message"),
    [
        ("cuda", 0, "sees 0 GPUs"),
        ("cuda:2", 2, "sees 2 GPUs"),
        ("gpu", 1, "take cpu, cuda"),
        ("cuda:", 1, "is unknown"),
        (3, 1, "device 3 is unknown"),
    ],
)
def test_what_is_not_there_is_refused(gpus, name, count, message):
    gpus(count)
    with pytest.raises(SpecError, match=message):
        chosen(name)


def test_a_study_is_refused_before_any_work(gpus, cli, write_study):
    gpus(0)
    path = write_study()
    done = cli("run", path, "--device", "cuda")
    assert done.returncode == 2
    assert "sees 0 GPUs" in done.stderr
    assert not path.with_suffix("").exists()


def test_training_rows_is_refused_too(gpus):
    gpus(0)
    with pytest.raises(SpecError, match="sees 0 GPUs"):
        train(torch.randn(8, 4), latents=4, k=1, device="cuda")


def test_auto_takes_the_cpu_where_there_is_no_gpu(gpus, cli, write_study):
    gpus(0)
    done = cli("run", write_study(), "--device", "auto", "--quiet")
    assert done.returncode == 0


def test_a_study_hands_its_device_to_all_learners(gpus, cli, write_study, monkeypatch):
    from reseed.training import stage, work
    from reseed.training.shards import learner

    gpus(1)
    devices, made = [], learner.Learner

    def spy(*args, device, **named):
        devices.append(device)
        return made(*args, **named)

    monkeypatch.setattr(learner, "Learner", spy)
    monkeypatch.setattr(work, "_on", lambda device, batch: devices.append(device) or batch)
    monkeypatch.setattr(stage, "_free", lambda device: devices.append(device))
    monkeypatch.setattr("reseed.evidence.rows.device_of", devices.append)
    monkeypatch.setattr(
        "reseed.pipeline.run.products_on", lambda device: nullcontext(devices.append(device))
    )
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "none that is there")
    done = cli("run", write_study(), "--device", "auto")
    assert done.returncode == 0, done.stderr
    assert set(devices) == {"cuda"}
    assert len(devices) > 40
    assert "compute on cuda" in done.stderr


@pytest.fixture
def fake(monkeypatch):
    """Tensors without numbers that know their device, and refuse to meet those of another."""
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda self: True)
    monkeypatch.setattr(torch.Tensor, "__float__", lambda self: 0.5)
    monkeypatch.setattr(torch.Tensor, "__int__", lambda self: 3)
    with FakeTensorMode():
        yield


def test_fake_tensors_notice(fake):
    with pytest.raises(RuntimeError, match="device"):
        torch.empty(3, device="cuda") + torch.zeros(3)


@pytest.fixture
def topk():
    """Parameters of TopK, of zeros."""
    return {"W_enc": (F, D), "b_enc": (F,), "W_dec": (F, D), "b_dec": (D,)}


@pytest.mark.parametrize(
    "name", ["topk", "jumprelu", "gated", "relu", "groupmax", "llamascope", "archetypal"]
)
def test_objectives_stay_on_the_device(name, fake, topk):
    more = {"k": 2} if "k" in ARCHITECTURES[name].settings.model_fields else {}
    if "auxk_alpha" in ARCHITECTURES[name].settings.model_fields:
        more["auxk_alpha"] = 0.1
    spec = read_spec(ARCHITECTURES[name].settings, {"latents": F, **more}, "test")
    shapes = topk | {
        "threshold": (F,), "length": (), "r_mag": (F,), "b_mag": (F,), "b_gate": (F,), "scale": (),
        "mix": (F, 8), "centroids": (8, D), "relax": (F, D), "log_scale": (),
    }  # fmt: skip
    p = {n: torch.empty(shape, device="cuda") for n, shape in shapes.items()}
    x, dead = torch.empty(B, D, device="cuda"), torch.ones(F, dtype=torch.bool, device="cuda")
    with torch.no_grad():
        out = architecture(name).objective(p, Batch(x, x), spec, At(3, 10, dead))
    for value in (out.loss, out.fvu, out.codes, *out.buffers.values()):
        assert value.device.type == "cuda"


def test_the_step_of_a_gpu_is_triton(fake, topk, monkeypatch):
    pytest.importorskip("triton", reason="triton is not installed here")
    from reseed.training import step as steps
    from reseed.training.step.gpu import TritonStep

    monkeypatch.setattr(steps, "triton_runs", lambda: True)

    spec, trained = TopKSpec(latents=F, k=2), frozenset(topk)
    p = {n: torch.empty(shape, device="cuda") for n, shape in topk.items()}
    step = step_of(p, trained, spec, 1.0, plain=False)
    assert isinstance(step, TritonStep)
    assert step._screen.rows.device.type == "cuda"
    assert isinstance(step_of(p, frozenset(), spec, 1.0, plain=True), PlainStep)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_triton_that_cannot_launch_is_told():
    pytest.importorskip("triton", reason="triton is not installed here")
    codes.triton_runs.cache_clear()
    with pytest.warns(UserWarning, match="torch makes the steps"):
        assert not codes.triton_runs()
    codes.triton_runs.cache_clear()


def test_without_triton_torch_makes_the_steps(fake, topk, monkeypatch):
    from reseed.training import step as steps

    monkeypatch.setattr(steps, "triton_runs", lambda: False)
    p = {n: torch.empty(shape, device="cuda") for n, shape in topk.items()}
    assert isinstance(step_of(p, frozenset(), TopKSpec(latents=F, k=2), 1.0, False), PlainStep)


def test_who_only_drives_does_without_a_gpu(gpus):
    gpus(0)
    assert chosen("cuda", elsewhere=True) == "cpu"
    with pytest.raises(SpecError, match="is unknown"):
        chosen("gpu", elsewhere=True)
    gpus(1)
    assert chosen("cuda", elsewhere=True) == "cuda"


def test_all_stages_of_a_study_go_to_its_device(cli, write_study, monkeypatch, tree):
    """`"cpu:0"` is where every machine can go: any name but `"cpu"` goes the way of a GPU."""
    import reseed.pipeline.run as run
    from reseed.evidence.rows import Device
    from reseed.loops.gpu_offers import Products

    went, study = [], write_study()
    for room in (Device, Products):
        made = room.__init__
        monkeypatch.setattr(
            room,
            "__init__",
            lambda self, *a, made=made, **k: went.append(self) or made(self, *a, **k),
        )
    assert cli("run", study, "-q", "--out", study.parent / "plain").returncode == 0
    assert not went
    monkeypatch.setattr(run, "chosen", lambda name, **_: "cpu:0")
    monkeypatch.setattr("reseed.matching.assignment.DENSE_BELOW", 0)
    done = cli("run", study, "-q", "--out", study.parent / "there")
    assert done.returncode == 0, done.stderr
    assert {type(one) for one in went} == {Device, Products}
    plain, there = (tree(study.parent / name) for name in ("plain", "there"))
    rooms = ("runs", "evidence", "cofiring")  # whose seals know how the pairs were found
    same = [n for n in plain if n.split("/")[0] in rooms and not n.endswith("piece.json")]
    assert len(same) > 20
    assert {name: plain[name] for name in same} == {name: there[name] for name in same}
