"""Training through the subject: KL falls below that of local training at the same L0."""

import json

import numpy as np
import pytest
import torch

import reseed
from reseed.errors import SpecError
from reseed.sae.settings import EndToEndSpec
from reseed.spec.refusals import read_spec
from reseed.spec.study import StudySpec


def tables(folder, text, **changes):
    e2e = {"architecture": "topk", "latents": 24, "k": 4, "lr": 3e-2}
    return {
        "subject": {"model": str(folder)},
        "text": {"source": str(text), "block": 16},
        "activations": {"sites": ["layers.1"], "tokens": 9600, "shard_blocks": 100},
        "sae": [
            e2e,
            e2e | {"end_to_end": {}},
            e2e | {"end_to_end": {"downstream": 1.0, "sites": ["layers.2", "layers.3"]}},
        ],
        "seeds": {"init": [1]},
        "training": {"tokens": 64 * 400, "batch": 64, "threads": 1, "checkpoint_tokens": 1280},
        "evidence": {"through_tokens": 600},
        "stability": {"null_draws": 1},
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_folder):
    """The tiny model with weights ten times as large, so that its predictions are not all alike."""
    from transformers import AutoTokenizer, LlamaForCausalLM

    out = tmp_path_factory.mktemp("sharp")
    model = LlamaForCausalLM.from_pretrained(tiny_folder)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "norm" not in name:
                value.mul_(10)
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(out)
    return out


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    rng = np.random.default_rng(0)
    words = [
        "the",
        "cat",
        "sat",
        "on",
        "a",
        "mat",
        "dog",
        "ran",
        "far",
        "away",
        "red",
        "blue",
        "green",
        "one",
        "two",
        "three",
    ]
    lines = [{"text": " ".join(rng.choice(words, 40))} for _ in range(300)]
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


def study(data, out):
    from reseed.study import Study

    return Study(read_spec(StudySpec, data, "test"), out)


@pytest.fixture(scope="module")
def done(tmp_path_factory, folder, text):
    made = study(tables(folder, text), tmp_path_factory.mktemp("e2e"))
    outcome = reseed.run(made, progress=False)
    assert not outcome.failed
    return made


@pytest.mark.slow
def test_predictions_suffer_less_than_with_local_training_at_equal_l0(done):
    local, kl, both = done.summary["groups"]
    found = [group["through_subject"] for group in (local, kl, both)]
    l0 = [group["reconstruction"]["l0"]["mean"] for group in (local, kl, both)]
    assert max(l0) <= 4
    assert min(l0) > 3
    assert found[1]["kl"] < 0.95 * found[0]["kl"]
    assert found[2]["kl"] < found[0]["kl"]
    assert local["reconstruction"]["fvu"]["mean"] < kl["reconstruction"]["fvu"]["mean"]
    for one in found:
        assert one["ce"] == pytest.approx(found[0]["ce"])
        assert one["kl"] > 0
    assert kl["label"].endswith("k4 e2e")
    assert both["label"].endswith("k4 e2e+ds")


@pytest.mark.slow
def test_a_run_does_not_depend_on_the_others_and_continues_bit_exact(done, folder, text, tmp_path):
    data = tables(folder, text)
    data["sae"] = data["sae"][1:2]
    data["evidence"] = {"through_tokens": 0}
    alone = study(data, tmp_path)
    from reseed.errors import Interrupted
    from reseed.events import Events, Stop
    from reseed.pipeline.run import run_study

    class After(Stop):
        """Asks to stop after some steps."""

        def __init__(self, steps):
            super().__init__()
            self.left = steps

        @property
        def requested(self):
            self.left -= 1
            return 15 if self.left < 0 else None

        @requested.setter
        def requested(self, value):
            pass

    with pytest.raises(Interrupted):
        run_study(alone, Events(), After(40))
    reseed.run(alone, progress=False)
    (run,) = alone.runs
    other = next(one for one in done.runs if one.id == run.id)
    assert torch.equal(run.sae().W_dec, other.sae().W_dec)
    assert torch.equal(run.sae().W_enc, other.sae().W_enc)


def test_what_cannot_be_trained_through_is_refused_before_any_work(folder, text, tmp_path):
    data = tables(folder, text)
    data["sae"] = [data["sae"][0] | {"end_to_end": {"downstream": 1, "sites": ["layers.0"]}}]
    with pytest.raises(SpecError, match="does not depend on"):
        reseed.run(study(data, tmp_path / "a"), progress=False)
    with pytest.raises(SpecError, match="language model"):
        reseed.train(np.eye(20), latents=8, k=2, end_to_end={})
    toy = tables(folder, text) | {
        "subject": {"kind": "toy"},
        "activations": {"sites": ["toy"], "tokens": 1600},
    }
    del toy["text"]
    with pytest.raises(SpecError, match="kind 'toy'"):
        study(toy, tmp_path / "b")
    with pytest.raises(SpecError, match="controls"):
        study(tables(folder, text) | {"controls": {"kinds": ["gaussian"]}}, tmp_path / "c")
    with pytest.raises(ValueError, match="sites need a weight"):
        EndToEndSpec(sites=("x",))
    with pytest.raises(ValueError, match="nothing to learn from"):
        EndToEndSpec(kl=0)
