"""Proves that a change of the source leaves every number as it was, byte for byte.

    python -m benchmarks.same_numbers before.json
    ... change the source ...
    python -m benchmarks.same_numbers after.json --against before.json

Three parts are made anew through the command line alone, so that it does not matter where the code
lies: `toy` (every kind of run in small studies, and every command that makes something of them;
models are played by a server of this process), `compare` (SAEs converted and compared) and
`quickstart` (studies/quickstart.toml at a tenth of its tokens). OUT.json then holds a digest of the
content of every file that was made; OUT.d/ the JSON files as text, to read what differs. Pages are
only listed with their sizes; event logs, journals and checksums of files are left out, and so is
whatever tells times, hosts or versions.

PYTHONPATH says which source is run; `--reseed` names another command. Compare only what was made
on one machine with the same packages and the same number of threads. Exit code 1: a digest differs
or is missing; 2: a command failed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

ROOT = Path(__file__).resolve().parent.parent
ENTRY = (sys.executable, "-c", "from reseed.cli import main; main()")
PORT = 18_431
"""Of the server that plays the models; it stands in the study, so it must be the same each time."""
TENTH = 10
SHOWN = 8
"""Keys that are printed of a JSON file that differs."""


# -- the studies -----------------------------------------------------------------------------------

TOY = """
[subject]
kind = "toy"
features = 24
dimensions = 32
active = 2
zipf = 0.3
noise = 0.01
block = 128
{subject}
[activations]
sites = ["toy"]
tokens = 24_000
{activations}
[training]
tokens = 12_800
batch = 128
snapshots = [0.5]
checkpoint_tokens = 8_000
{training}
"""
OPTIONS = (
    'architecture = "topk"\nk = 3\nauxk_alpha = 0.03\ndead_after = 2_000',
    'architecture = "topk"\nk = 3\nmulti_topk = true\ninit = "orthogonal"',
    'architecture = "topk"\nk = 3\ninit = "data"\nlr_schedule = "cosine"',
    'architecture = "topk"\nk = 3\ninit = "kmeans"\noptimizer = "signum"\nlr = 1e-4',
    'architecture = "topk"\nk = 3\noptimizer = "muon"\nk_start = 8',
    'architecture = "topk"\nk = 3\naligned = true\nweight_l2 = 1e-4\ntied_init = false',
    'architecture = "batchtopk"\nk = 3\ndead_after = 2_000',
    'architecture = "matryoshka"\nk = 3\ndead_after = 2_000',
    'architecture = "groupmax"\nk = 3',
    'architecture = "relu"\ntarget_l0 = 3',
    'architecture = "relu"\ndecoder = "weighted"',
    'architecture = "panneal"\ntarget_l0 = 3',
    'architecture = "gated"\ntarget_l0 = 3',
    'architecture = "jumprelu"\ntarget_l0 = 3\nbandwidth = 0.05\nthreshold = 0.02',
    'architecture = "jumprelu"\nsparsity = "tanh"\nbandwidth = 0.05\nthreshold = 0.02',
    'architecture = "llamascope"\nk = 3\nthreshold_rows = 2_048',
    'architecture = "matching_pursuit"\nk = 3',
    'architecture = "archetypal"\nk = 3\nfit_rows = 2_048',
    'architecture = "archetypal"\nk = 3\nfit_rows = 2_048\nstart = "shared"',
    'architecture = "pca"\nfit_rows = 4_096',
    'architecture = "ica"\nfit_rows = 4_096\nrounds = 50\nk = 3',
    'architecture = "nmf"\nfit_rows = 2_048\nrounds = 50\nlatents = 24',
    'architecture = "kmeans"\nfit_rows = 2_048',
)
"""All that is trained on one site: a table each, of 48 latents unless it says otherwise."""
TOGETHER = (
    'architecture = "topk"\nk = 3',
    'architecture = "topk"\nk = 3\nmutual = {alpha = 0.1, refresh = 5, held_out = [2]}',
)
FACTORS = tuple(f"latents = {latents}\nk = {k}" for latents in (32, 64) for k in (2, 4))
CONTROLS = '["gaussian", "shuffled", "frozen_decoder", "soft_frozen_decoder", "frozen_encoder"]'
THROUGH = (
    'architecture = "topk"\nk = 4',
    'architecture = "topk"\nk = 4\nend_to_end = {}',
    'architecture = "relu"\nend_to_end = {downstream = 1.0, sites = ["layers.1"]}',
    'architecture = "transcoder"\nk = 4\ntarget = "layers.0.mlp"',
    'architecture = "skip_transcoder"\nk = 4\ntarget = "layers.0.mlp"',
)
JOINED = (
    'architecture = "topk"\nk = 4',
    'architecture = "crosscoder"\nparts = [16, 16]',
    'architecture = "crosscoder"\nparts = [16, 16]\nk = 4\nthreshold_rows = 1_024',
)
TEXT = """
[subject]
model = "model"
[text]
source = "texts.json"
label = "topic"
block = 32
[activations]
sites = {sites}
tokens = 9_600
held_out = 0.3
[training]
tokens = 19_200
batch = 64
threads = 1
snapshots = [0.5]
"""
INTERPRETATION = """
[interpretation]
per_kind = 6
examples = 8
random_latents = 4
dropping_tokens = 256
top_logits = true
scorers = ["detection", "fuzzing", "intruder", "embedding", "example_embedding", "surprisal",
           "simulation", "intervention"]
[interpretation.explainer]
model = "explainer"
base_url = "http://127.0.0.1:PORT/v1"
[interpretation.judge]
model = "judge"
base_url = "http://127.0.0.1:PORT/v1"
[interpretation.embedder]
kind = "server"
model = "embedder"
base_url = "http://127.0.0.1:PORT/v1"
[interpretation.likelihood]
model = "model"
[interpretation.explain]
examples = 8
"""


def tables(settings: Sequence[str], latents: int = 48) -> str:
    """`[[sae]]` tables, with a number of latents and a rate where they say none."""
    written: list[str] = []
    for one in settings:
        named = re.findall(r"^(\w+) =", one, re.MULTILINE)
        common = {"latents": str(latents)}
        if not re.search(r'= "(pca|ica|nmf|kmeans)"', one):  # they are found without steps
            common["lr"] = "2e-2"
        rest = "".join(f"{key} = {value}\n" for key, value in common.items() if key not in named)
        written.append(f"[[sae]]\n{rest}{one}\n")
    return "\n".join(written)


def toy(
    saes: Sequence[str], more: str, *, threads: int | None = 1, subject: str = "", keep: str = ""
) -> str:
    """The TOML of a study of the toy.

    Args:
        saes: settings of the `[[sae]]` tables.
        more: further tables.
        threads: of the training; None for as many as torch takes.
        subject: further lines of the subject.
        keep: how activations are kept; left out, that is decided.
    """
    training = "" if threads is None else f"threads = {threads}"
    activations = f'keep = "{keep}"' if keep else ""
    head = TOY.format(subject=subject, activations=activations, training=training)
    return head + tables(saes) + more


def text(saes: Sequence[str], sites: Sequence[str], more: str) -> str:
    """The TOML of a study of the small language model."""
    return TEXT.format(sites=json.dumps(list(sites))) + tables(saes) + more


def seeds(init: Sequence[int], data: Sequence[int] = (0,)) -> str:
    """The table of seeds."""
    return f"\n[seeds]\ninit = {list(init)}\ndata = {list(data)}\n"


STUDIES = {
    "architectures": toy(OPTIONS, seeds([0, 1])),
    "together": toy(TOGETHER, seeds([0, 1, 2])),
    "crossed": toy(FACTORS, seeds([0, 1], [0, 1]), threads=None, keep="live"),
    "controls": toy(
        FACTORS[:1],
        seeds([0, 1]) + f"[controls]\nkinds = {CONTROLS}\n[evidence]\ntoy_text = true\n",
        subject="roots = 4\nchildren = 2\ndepth = 1\nsubspaces = 4\nfactors = 2",
        keep="shards",
    ),
    "through": text(
        THROUGH,
        ["layers.0.mlp:in"],
        seeds([0, 1]) + "[evidence]\nthrough_tokens = 512\n",
    ),
    "joined": text(JOINED, ["layers.0+layers.1", "layers.0"], seeds([0, 1])),
    "words": text(
        ['architecture = "topk"\nk = 3'],
        ["layers.0"],
        seeds([0, 1, 2]) + '[controls]\nkinds = ["random_subject"]\n' + INTERPRETATION,
    ),
}
"""Name to TOML of what `toy` trains."""
PRODUCTS = (
    ("consensus", "together.toml", "--group", "toy · topk 48 k3", "--found-in", "2", "--quiet"),
    ("predict", "crossed.toml", "--out", "predicted.parquet"),
    ("predict", "crossed.toml", "--apply", "controls.toml", "--out", "applied.csv"),
    ("export", "architectures.toml", "--out", "latents.parquet"),
    ("export", "crossed.toml", "--out", "alive.jsonl", "--where", "alive"),
)
"""What is made of the finished studies."""
METHODS = "llm-score,llm-rank,llm-sequential,lasso,mutual-information,mrmr,forward,random"
CHOICE = ("--task", "animals", "--k", "3", "--methods", METHODS)
PAIR = toy(
    ['architecture = "topk"\nk = 3', 'architecture = "batchtopk"\nk = 3'],
    seeds([0, 1]),
    keep="shards",
)


# -- a small language model and its text -----------------------------------------------------------

ANIMALS = ("cat", "dog", "cow", "hen", "pig", "fox")
COLOURS = ("red", "blue", "green", "grey", "pink", "gold")
PLAIN = ("the", "on", "a", "far", "away", "one", "two", "three")
SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")


def write_model(folder: Path) -> None:
    """A llama of two layers that was never trained, with a tokenizer of whole words."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(SPECIAL + ANIMALS + COLOURS + PLAIN)}
    backend = Tokenizer(WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    roles = dict(zip(("unk_token", "bos_token", "eos_token", "pad_token"), SPECIAL, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=backend, **roles).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def write_texts(file: Path, count: int = 800) -> None:
    """Documents of twelve words, each about animals or about colours."""
    rng = random.Random(0)
    out: list[dict[str, str]] = []
    for number in range(count):
        own = (ANIMALS, COLOURS)[number % 2]
        words = [rng.choice(own if rng.random() < 0.25 else PLAIN) for _ in range(11)]
        words.append(rng.choice(own))
        out.append({"text": " ".join(words), "topic": ("animals", "colours")[number % 2]})
    file.write_text(json.dumps(out))


# -- the models that explain and judge -------------------------------------------------------------


class Oracle(BaseHTTPRequestHandler):
    """Answers as an OpenAI-compatible server would; replies follow from questions alone."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:  # noqa: N802  (the name that http.server looks for)
        """One question."""
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        made = embeddings(asked) if self.path.endswith("/embeddings") else completion(asked)
        body = json.dumps(made).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""


@contextmanager
def models() -> Iterator[None]:
    """The server, for as long as the block takes."""
    ThreadingHTTPServer.allow_reuse_address = True
    server = ThreadingHTTPServer(("127.0.0.1", PORT), Oracle)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def chance(asked: Any) -> random.Random:
    """Draws that follow from a question as it was written, to the last character."""
    written = json.dumps(asked, sort_keys=True)
    return random.Random(int(hashlib.sha256(written.encode()).hexdigest(), 16))


def embeddings(asked: Mapping[str, Any]) -> dict[str, Any]:
    """A vector for each text."""
    draws = [chance([asked["model"], one]) for one in asked["input"]]
    rows = [[draw.uniform(-1, 1) for _ in range(8)] for draw in draws]
    return {"data": [{"index": i, "embedding": row} for i, row in enumerate(rows)]}


def completion(asked: Mapping[str, Any]) -> dict[str, Any]:
    """A reply of the form that was asked for, with probabilities where they were."""
    draw, question = chance(asked), asked["messages"][-1]["content"]
    form = asked.get("response_format", {}).get("json_schema", {}).get("schema")
    said = phrase(draw) if form is None else json.dumps(value_of(form, draw, question))
    choice: dict[str, Any] = {"message": {"content": said}, "finish_reason": "stop"}
    if asked.get("logprobs"):
        choice["logprobs"] = {"content": [token(one, draw) for one in pieces(said)]}
    usage = {"prompt_tokens": len(question) // 4, "completion_tokens": len(said) // 4}
    return {"choices": [choice], "usage": usage}


def value_of(form: Mapping[str, Any], draw: random.Random, question: str) -> Any:
    """What a JSON schema allows; numbers without bounds are those that the question lists."""
    listed = [int(n) for n in re.findall(r"^(\d+)\. ", question, re.MULTILINE)] or [0]
    kind = form["type"]
    if kind == "object":
        return {key: value_of(one, draw, question) for key, one in form["properties"].items()}
    if kind == "array" and "minItems" not in form:
        return draw.sample(listed, len(listed))
    if kind == "array":
        return [value_of(form["items"], draw, question) for _ in range(form["minItems"])]
    if kind == "integer":
        bounded = "minimum" in form
        return draw.randint(form["minimum"], form["maximum"]) if bounded else draw.choice(listed)
    if kind == "number":
        return round(draw.uniform(form.get("minimum", 0), form.get("maximum", 1)), 3)
    return phrase(draw)


def phrase(draw: random.Random) -> str:
    """A few words of the text."""
    return " ".join(draw.sample(ANIMALS + COLOURS + PLAIN, 4))


def pieces(said: str) -> list[str]:
    """A reply as tokens: each number is one."""
    return re.findall(r"\d+|\D+", said)


def token(word: str, draw: random.Random) -> dict[str, Any]:
    """A token with its probability; that of 0 and 1 is shared between them."""
    sure = draw.uniform(0.5, 0.999)
    other = {"0": "1", "1": "0"}.get(word)
    known = {word: sure} if other is None else {word: sure, other: 1 - sure}
    top = [{"token": one, "logprob": math.log(p)} for one, p in known.items()]
    return {"token": word, "logprob": math.log(sure), "top_logprobs": top}


# -- the parts -------------------------------------------------------------------------------------


class CommandError(Exception):
    """A command that did not end well."""


@dataclass(frozen=True, slots=True)
class Place:
    """A folder in which commands are run, so that no path in a study depends on the machine."""

    folder: Path
    command: tuple[str, ...]
    threads: int | None
    """of every command; None for as many as the libraries take"""

    def reseed(self, *words: str) -> None:
        """Run one command; what it prints goes to a file beside the results."""
        started = time.perf_counter()
        done = subprocess.run(
            [*self.command, *words],
            cwd=self.folder,
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        with (self.folder / "printed.log").open("a") as log:
            log.write(f"$ reseed {shlex.join(words)}\n{done.stdout}{done.stderr}\n")
        print(f"  {time.perf_counter() - started:6.1f} s  reseed {shlex.join(words)}", flush=True)
        if done.returncode:
            raise CommandError(f"reseed {shlex.join(words)}\n{done.stdout}\n{done.stderr}")

    def beside(self, commands: Sequence[Sequence[str]]) -> None:
        """Run commands that do not depend on each other, two at a time."""
        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(self.reseed, *words) for words in commands]:
                done.result()

    def write(self, name: str, content: str) -> None:
        """Write a study."""
        (self.folder / f"{name}.toml").write_text(content)

    def runs(self, study: str) -> list[str]:
        """Ids of the finished runs of a study, in order."""
        return sorted(one.name for one in (self.folder / study / "runs").iterdir() if one.is_dir())

    def _environment(self) -> dict[str, str]:
        known = os.environ.get("PYTHONPATH", "")
        paths = [os.path.abspath(one) for one in known.split(os.pathsep) if one]
        given = {
            "PYTHONPATH": os.pathsep.join(paths),
            "RESEED_CACHE": str(self.folder.parent / "cache"),
            "HF_HUB_OFFLINE": "1",
            "COLUMNS": "160",
        }
        libraries = () if self.threads is None else ("OMP", "OPENBLAS", "MKL")
        held = {f"{name}_NUM_THREADS": str(self.threads) for name in libraries}
        return {**os.environ, **given, **held}


def make_toy(at: Place) -> None:
    """Every kind of run, and every command that makes something of them."""
    write_model(at.folder / "model")
    write_texts(at.folder / "texts.json")
    for name, content in STUDIES.items():
        at.write(name, content.replace("PORT", str(PORT)))
    studies = [("run", f"{name}.toml", "--quiet") for name in STUDIES]
    at.beside([*studies, ("calibrate", "small", "--out", "calibrated", "--quiet")])
    with models():
        at.beside([("explain", "words.toml", "--quiet"), *PRODUCTS])
        choose = ("select", "words.toml", "--run", at.runs("words")[0], *CHOICE, "--quiet")
        at.reseed("score", "words.toml", "--quiet")
        at.reseed(*choose)


def make_compare(at: Place) -> None:
    """SAEs of a study, and the same in formats of others, beside each other."""
    at.write("pair", PAIR)
    at.reseed("run", "pair.toml", "--quiet")
    first, second = (one for one in at.runs("pair") if ".topk" in one)
    folders = [f"pair/runs/{one}" for one in (first, second)]
    at.reseed("convert", folders[1], "sparsify", "--to", "sparsify")
    at.reseed("convert", folders[1], "saelens", "--to", "saelens")
    other = next(one for one in at.runs("pair") if "batchtopk" in one)
    for name in ("saelens", "dictionary_learning"):
        at.reseed("convert", f"pair/runs/{other}", f"batch-{name}", "--to", name)
    at.reseed("compare", *folders, "--out", "two", "--quiet")
    several = (folders[0], "sparsify", "saelens", "batch-saelens")
    named = ("--names", "a,sparsify,saelens,batch", "--activations", "pair#toy")
    at.reseed("compare", *several, *named, "--out", "several", "--quiet")


def make_quickstart(at: Place) -> None:
    """The quickstart at a tenth of its tokens."""
    source = (ROOT / "studies" / "quickstart.toml").read_text()
    at.write("quickstart", re.sub(r"^tokens = ([\d_]+)$", _tenth, source, flags=re.MULTILINE))
    at.reseed("run", "quickstart.toml", "--quiet")


def _tenth(found: re.Match[str]) -> str:
    return f"tokens = {int(found[1].replace('_', '')) // TENTH}"


PARTS: Mapping[str, tuple[Callable[[Place], None], int | None]] = {
    "toy": (make_toy, 1),
    "compare": (make_compare, 1),
    "quickstart": (make_quickstart, None),
}
"""Name to what makes the part, and in how many threads: small commands run two at a time, and two
that want all cores would wait for each other."""


# -- what is compared ------------------------------------------------------------------------------

UNSTEADY = frozenset({"seconds"})
"""Keys of JSON files and columns of tables that tell times, hosts or versions."""
ROUNDED = frozenset({"distance_from_init"})
"""Keys below which 12 digits count: a mean over runs in whatever order Polars gives them."""
LEFT_OUT = frozenset({".lock", "events.jsonl", "piece.json", "printed.log"})
"""Not compared; `piece.json` hangs on how a study is laid out, not on its numbers."""
LEFT_OUT_FOLDERS = frozenset({"journals", "model"})
PAGES = ".html"


def contents(part: Path) -> Iterator[tuple[str, Path]]:
    """Every file of a part that counts, by its path below it."""
    for path in sorted(part.rglob("*")):
        inner = path.relative_to(part)
        counts = inner.name not in LEFT_OUT and LEFT_OUT_FOLDERS.isdisjoint(inner.parts[:-1])
        if counts and path.is_file():
            yield inner.as_posix(), path


def digest_of(path: Path, part: Path) -> str:
    """Of what a file says, however it is laid out; a page has only its size."""
    if path.suffix == PAGES:
        return f"{path.stat().st_size} bytes"
    if path.suffix == ".parquet":
        return digest_of_table(pl.read_parquet(path))
    if path.suffix == ".safetensors":
        return digest_of_tensors(path.read_bytes())
    if path.suffix == ".json":
        return hashlib.sha256(canonical(path, part).encode()).hexdigest()
    if zipfile.is_zipfile(path):
        return digest_of_archive(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digest_of_table(table: pl.DataFrame) -> str:
    """Of the names, types and values of all columns."""
    sha = hashlib.sha256()
    for name in table.columns:
        if name not in UNSTEADY:
            sha.update(f"{name}\n".encode())
            for part in parts_of(table[name]):
                sha.update(part)
    return sha.hexdigest()


def parts_of(column: pl.Series) -> Iterator[bytes]:
    """The bytes that a column stands for; what lies under a null does not count."""
    yield f"{column.dtype} {len(column)}\n".encode()
    yield column.is_null().to_numpy().tobytes()
    there = column.drop_nulls()
    if isinstance(there.dtype, pl.Array):
        there = there.arr.to_list()
    if isinstance(there.dtype, pl.List):
        lengths = there.list.len()
        yield lengths.to_numpy().tobytes()
        yield from parts_of(there.filter(lengths > 0).explode())
    elif isinstance(there.dtype, pl.Struct):
        for field in there.struct.fields:
            yield from parts_of(there.struct.field(field.name))
    elif there.dtype.is_numeric() or there.dtype == pl.Boolean:
        yield np.ascontiguousarray(there.to_numpy()).tobytes()
    else:
        yield json.dumps(there.cast(pl.String).to_list()).encode()


def digest_of_tensors(data: bytes) -> str:
    """Of the names, types, shapes and bytes of all tensors, whatever their order in the file."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    sha = hashlib.sha256()
    for name in sorted(header):
        one = header[name]
        first, last = (8 + size + place for place in one["data_offsets"])
        sha.update(f"{name} {one['dtype']} {one['shape']}\n".encode())
        sha.update(data[first:last])
    return sha.hexdigest()


def digest_of_archive(path: Path) -> str:
    """Of the members of a ZIP file (.npz, .pt), without their times."""
    sha = hashlib.sha256()
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            sha.update(f"{name}\n".encode())
            sha.update(archive.read(name))
    return sha.hexdigest()


def canonical(path: Path, part: Path) -> str:
    """A JSON file with its keys in order, without what is never the same twice."""
    value = json.loads(path.read_text().replace(str(part.parent), "WORK"))
    return json.dumps(steady(value), indent=1, sort_keys=True, ensure_ascii=False)


def steady(value: Any) -> Any:
    """The value without keys of `UNSTEADY`, at any depth, and with those of `ROUNDED` rounded."""
    if isinstance(value, list):
        return [steady(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        key: rounded(one) if key in ROUNDED else steady(one)
        for key, one in value.items()
        if key not in UNSTEADY
    }


def rounded(value: Any) -> Any:
    """The value with 12 digits of each number, at any depth."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    return float(f"{value:.12g}") if isinstance(value, float) else value


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Every number and word of a JSON value by the path that leads to it."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, one in items for k, v in flat(one, f"{name}/{key}").items()}
    return {name: value}


# -- writing and comparing -------------------------------------------------------------------------


def texts_of(out: Path) -> Path:
    """The folder with the JSON files as text."""
    return out.with_suffix(".d")


def collect(part: Path, out: Path) -> dict[str, str]:
    """Digests of a part; its JSON files are written as text."""
    found: dict[str, str] = {}
    for inner, path in contents(part):
        name = f"{part.name}/{inner}"
        found[name] = digest_of(path, part)
        if path.suffix == ".json":
            target = texts_of(out) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(canonical(path, part))
    return found


def report(now: Mapping[str, str], before: Mapping[str, str], out: Path, against: Path) -> bool:
    """Print what differs, is missing and is new; whether nothing differs and nothing is missing."""
    pages = {name for name in (*now, *before) if name.endswith(PAGES)}
    missing = sorted(before.keys() - now.keys())
    new = sorted(now.keys() - before.keys())
    both = now.keys() & before.keys() - pages
    differ = sorted(name for name in both if now[name] != before[name])
    for word, names in (("differs", differ), ("missing", missing), ("new", new)):
        for name in names:
            print(f"{word}: {name}")
            if word == "differs" and name.endswith(".json"):
                show_keys(texts_of(against) / name, texts_of(out) / name)
    print(f"{len(both) - len(differ)} the same, {len(differ)} differ, "
          f"{len(missing)} missing, {len(new)} new")  # fmt: skip
    return not differ and not missing


def show_keys(before: Path, now: Path) -> None:
    """Print the first keys at which two JSON files differ, if both texts are there."""
    if not before.exists() or not now.exists():
        return
    a, b = (flat(json.loads(path.read_text())) for path in (before, now))
    keys = [key for key in sorted({*a, *b}) if key not in a or key not in b or a[key] != b[key]]
    for key in keys[:SHOWN]:
        print(f"    {key}: {a.get(key, 'not there')!s:.80} -> {b.get(key, 'not there')!s:.80}")
    if len(keys) > SHOWN:
        print(f"    and {len(keys) - SHOWN} more")


# -- the command -----------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    """What was asked for on the command line."""
    about, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=about, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="file for the digests")
    parser.add_argument("--against", type=Path, help="digests of an earlier state")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between")
    parser.add_argument("--work", type=Path, help="folder to work in, kept; else a temporary one")
    parser.add_argument("--reseed", help="the command, in place of this Python's")
    return parser.parse_args()


def make(parts: Sequence[str], work: Path, command: tuple[str, ...], out: Path) -> dict[str, str]:
    """Make the parts in a folder, each anew, and collect their digests."""
    found: dict[str, str] = {}
    for name in parts:
        folder = work / name
        folder.mkdir(parents=True)
        started = time.perf_counter()
        print(name, flush=True)
        maker, threads = PARTS[name]
        maker(Place(folder, command, threads))
        found |= collect(folder, out)
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
    return found


def main() -> int:
    """Make the parts, write their digests, and compare."""
    args = arguments()
    parts = args.only.split(",")
    if unknown := sorted(set(parts) - set(PARTS)):
        sys.exit(f"--only {unknown}: known parts are {', '.join(PARTS)}")
    command = tuple(shlex.split(args.reseed)) if args.reseed else ENTRY
    shutil.rmtree(texts_of(args.out), ignore_errors=True)
    with tempfile.TemporaryDirectory() as spare:
        work = (args.work or Path(spare)).resolve()
        try:
            found = make(parts, work, command, args.out)
        except (CommandError, FileExistsError) as error:
            print(error, file=sys.stderr)
            return 2
    args.out.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    print(f"{len(found)} digests: {args.out}")
    if args.against is None:
        return 0
    known = json.loads(args.against.read_text())
    before = {name: value for name, value in known.items() if name.split("/")[0] in parts}
    return 0 if report(found, before, args.out, args.against) else 1


if __name__ == "__main__":
    sys.exit(main())
