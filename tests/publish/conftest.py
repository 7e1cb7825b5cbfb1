"""A hub on this machine."""

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The hub that huggingface_hub talks to, with a token in the environment."""
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    spec = importlib.util.spec_from_file_location("hub", Path(__file__).parent / "hub.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    running = module.Hub()
    monkeypatch.setattr(constants, "ENDPOINT", running.url)
    template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "hf" / "token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its protocol is another
    monkeypatch.setenv("HF_TOKEN", running.token)
    yield running
    running.close()


_STUDY = """
[subject]
model = "{model}"
[text]
source = "{text}"
block = 16
[activations]
sites = ["layers.1.mlp:in"]
tokens = 1600
held_out = 0.3
[[sae]]
latents = 12
k = 2
lr = 1e-2
[[sae]]
architecture = "transcoder"
target = "layers.1.mlp"
latents = 12
k = 2
lr = 1e-2
[seeds]
init = [0, 1]
[training]
tokens = 1600
batch = 64
threads = 1
[stability]
null_draws = 1
"""


@pytest.fixture(scope="session")
def language(tiny_folder, tmp_path_factory):
    """A finished study of a tiny language model: SAEs and transcoders of two seeds."""
    import random

    import reseed

    text = "the cat sat on a mat dog ran far away red blue green one two three"
    words = text.split()  # of the tokenizer
    rng = random.Random(0)
    folder = tmp_path_factory.mktemp("language")
    lines = (" ".join(rng.choices(words, k=rng.randint(5, 30))) for _ in range(300))
    (folder / "text.jsonl").write_text("".join(f'{{"text": "{line}"}}\n' for line in lines))
    path = folder / "tiny-text.toml"
    path.write_text(_STUDY.format(model=tiny_folder, text=folder / "text.jsonl"))
    study = reseed.Study.load(path)
    reseed.run(study, progress=False)
    return study
