"""Tiny studies of the toy, and the command line as a user runs it."""

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# what guards a merge draws the same examples each time; `make test-all` looks for new ones
settings.register_profile("fixed", derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))

# Triton asks once, at its import, whether kernels are to be interpreted: where there is no GPU
if not (list(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists()):
    os.environ.setdefault("TRITON_INTERPRET", "1")

TINY = {
    "subject": {"kind": "toy", "features": 24, "dimensions": 8, "active": 2.0, "block": 64},
    "activations": {"sites": ["toy"], "tokens": 1280, "shard_blocks": 4, "mix_blocks": 8},
    "sae": [{"latents": 16, "k": 2, "lr": 3e-3}],
    "seeds": {"init": [0, 1]},
    "training": {
        "tokens": 2560,
        "batch": 64,
        "snapshots": [0.5],
        "checkpoint_tokens": 640,
        "threads": 1,
    },
    "stability": {"null_draws": 1},
}


def toml(tables):
    """The few shapes of a study as TOML; JSON's scalars and lists are TOML's."""
    lines = []
    for name, table in tables.items():
        if not isinstance(table, dict | list) or name == "":
            raise TypeError(f"{name} must be a table")
        for one in [table] if isinstance(table, dict) else table:
            lines.append(f"[{name}]" if isinstance(table, dict) else f"[[{name}]]")
            lines += [f"{key} = {_value(value)}" for key, value in one.items()]
    return "\n".join(lines) + "\n"


def _value(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_value(v)}" for k, v in value.items()) + "}"
    return json.dumps(value)


def study_text(**changes):
    """The tiny study with changes: a table is merged into its own, all else replaces it.

    A subject with its own `kind` replaces the toy; None takes a table out.
    """
    tables = dict(TINY)
    for name, change in changes.items():
        merge = isinstance(change, dict) and "kind" not in change
        tables[name] = {**tables.get(name, {}), **change} if merge else change
    return toml({name: table for name, table in tables.items() if table is not None})


@pytest.fixture
def write_study(tmp_path):
    """Writes `NAME.toml` of a tiny study with changes, and gives its path."""

    def write(name="tiny", **changes):
        path = tmp_path / f"{name}.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(study_text(**changes))
        return path

    return write


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A finished tiny study of two widths; copy it before you change it."""
    pytest.importorskip("torch", reason="training needs torch")
    import reseed

    path = tmp_path_factory.mktemp("finished") / "tiny.toml"
    sae = [{"latents": 16, "k": 2, "lr": 3e-3}, {"latents": 8, "k": 2, "lr": 3e-3}]
    path.write_text(study_text(sae=sae))
    study = reseed.Study.load(path)
    reseed.run(study, progress=False)
    return study.folder


@pytest.fixture
def cli(capsys, monkeypatch):
    """Runs `reseed ARGS` in this process; gives returncode, stdout and stderr."""
    from reseed.cli import main

    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["reseed", *map(str, args)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as ending:
            code = ending.code
        return subprocess.CompletedProcess(args, code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def device():
    """Where Triton's kernels run: on a GPU, or on the CPU through the interpreter."""
    torch = pytest.importorskip("torch")
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if not interpreted and not torch.cuda.is_available():
        pytest.skip("torch finds no GPU, and Triton was not asked to interpret")
    return "cpu" if interpreted else "cuda"


@pytest.fixture(scope="session")
def python():
    """Runs `python ARGS` in a process of its own."""

    def run(*args, timeout=120):
        done = subprocess.run(
            [sys.executable, *map(str, args)],
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def faults():
    """The module `faults.py`."""
    spec = importlib.util.spec_from_file_location("faults", Path(__file__).parent / "faults.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tree():
    """Digest of each file below a folder, by name; `skip` names parts of paths to leave out.

    So is `base.json`, which says where the study's TOML was.
    """

    def read(folder: Path, skip=(".lock", "events.jsonl", "report.html")):
        skip = {*skip, "base.json"}
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not set(path.relative_to(folder).parts) & skip
        }

    return read


_TEXT = "the cat sat on a mat dog ran far away red blue green one two three"
WORDS = _TEXT.split()
SPECIALS = ["<unk>", "<s>", "</s>", "<pad>"]


def save(folder, **roles):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(SPECIALS + WORDS)}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=backend, **roles).save_pretrained(folder)


ROLES = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A random llama with 4 layers and a tokenizer of 20 words, as a folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny-llama")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(SPECIALS + WORDS),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    save(folder, **ROLES)
    return folder


@pytest.fixture
def save_tokenizer():
    """Saves the tokenizer of 20 words into a folder; roles may be changed."""
    return lambda folder, **roles: save(folder, **{**ROLES, **roles})
