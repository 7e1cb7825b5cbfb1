"""A model that several ranks hold together gives the bits of one process, by gloo on this CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import reseed
from reseed.cluster.engine import EngineSpec, read_engine
from reseed.errors import SpecError
from reseed.spec.subject import LanguageModelSpec

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
from reseed.subjects.language.model import load_language_model  # noqa: E402
from reseed.subjects.over_ranks.spread import SpreadModel, too_large  # noqa: E402
from reseed.training.shards.ranks import RankGroup  # noqa: E402

RUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_activations_are_those_of_one_process(tiny_folder, count):
    script = Path(__file__).with_name("rank.py")
    done = subprocess.run(
        [sys.executable, *RUN, str(count), str(script), str(tiny_folder)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split("\n")[:2] == ["equal float32", "equal bfloat16"]
    assert "refused model" in done.stdout


def test_int8_is_not_spread():
    spec = LanguageModelSpec(model="some/model", dtype="int8")
    with pytest.raises(SpecError, match="int8 is for one processor"):
        SpreadModel.lead(spec, ["layers.0"], "cpu", RankGroup())


def test_who_holds_a_subject():
    assert EngineSpec().holders("cuda") == 1
    assert EngineSpec(gpus=4).holders("cuda") == 4
    assert EngineSpec(gpus=4).holders("cpu") == 1
    assert read_engine(None, gpus=4, subject_ranks=2).holders("cpu") == 2


STUDY = """
[subject]
kind = "language_model"
model = "{model}"

[text]
source = "{text}"
block = 16

[activations]
sites = ["layers.1.mlp"]
tokens = 1500
keep = "shards"
shard_blocks = 20

[[sae]]
latents = 8
k = 2

[training]
tokens = 2000
batch = 100

[seeds]
init = [0, 1]
"""


@pytest.mark.slow
def test_shards_of_a_study_are_those_of_one_process(tmp_path, tiny_folder):
    """The engine's setting changes no byte of a harvest."""
    from reseed.events import Events
    from reseed.pipeline.parts import Division, make_part
    from reseed.subjects.inputs import Inputs

    text = tmp_path / "text.jsonl"
    words = ["the", "cat", "sat", "on", "a", "mat", "dog", "ran", "far", "away", "red", "blue"]
    draw = np.random.default_rng(0)
    lines = (json.dumps({"text": " ".join(draw.choice(words, 30))}) for _ in range(120))
    text.write_text("\n".join(lines))
    kept = []
    for ranks in (1, 2):
        path = tmp_path / f"on{ranks}.toml"
        path.write_text(STUDY.format(model=tiny_folder, text=text))
        study = reseed.Study.load(path)
        with study.locked("test"):
            inputs = Inputs(study, Events())
            torch.set_num_threads(1)
            inputs.decide()
        for part in Division(study, inputs, 1).missing("harvest"):
            make_part(str(study.folder), str(part), "cpu", ranks)
        rows = sorted((study.folder / "activations").glob("shard-*/rows.safetensors"))
        kept.append([row.read_bytes() for row in rows])
    assert len(kept[0]) > 3
    assert kept[0] == kept[1]


def test_a_plan_says_when_one_gpu_is_too_small(tiny_folder):
    spec = LanguageModelSpec(model=str(tiny_folder))
    size = 4 * sum(p.numel() for p in load_language_model(spec, ["layers.0"]).body.parameters())
    assert too_large(spec, 2 * size, 1) is None
    assert "give each worker 3 GPUs" in too_large(spec, size // 2, 1)
    assert "4 ranks hold it together" in too_large(spec, size // 2, 4)
