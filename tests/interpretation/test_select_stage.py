"""Choosing latents of a real study of a tiny language model whose documents have labels."""

import json
import os

import numpy as np
import pytest

import reseed
from reseed.errors import SpecError, StoreError
from reseed.events import Events
from reseed.interpretation.records import Explanation, Latent, Reply
from reseed.interpretation.select.stage import document_features, select

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch = pytest.importorskip("torch", reason="training needs torch")

ANIMALS = ["cat", "dog", "cow", "hen", "pig", "fox"]
COLOURS = ["red", "blue", "green", "grey", "pink", "gold"]
PLAIN = ["the", "on", "a", "far", "away", "one", "two", "three"]
SPECIALS = ["<unk>", "<s>", "</s>", "<pad>"]


def language_model(folder):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = SPECIALS + ANIMALS + COLOURS + PLAIN
    backend = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    roles = dict(zip(("unk_token", "bos_token", "eos_token", "pad_token"), SPECIALS, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=backend, **roles).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=32,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)


def documents(count):
    rng = np.random.default_rng(0)
    out = []
    for number in range(count):
        own = (ANIMALS, COLOURS)[number % 2]
        words = [str(rng.choice(own if rng.random() < 0.25 else PLAIN)) for _ in range(12)]
        words[int(rng.integers(12))] = str(rng.choice(own))  # at least one
        out.append({"text": " ".join(words), "topic": ("animals", "colours")[number % 2]})
    return out


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("selecting")
    language_model(folder / "model")
    (folder / "texts.json").write_text(json.dumps(documents(400)))
    (folder / "tiny.toml").write_text(
        f"""
[subject]
model = "{folder / "model"}"
[text]
source = "{folder / "texts.json"}"
label = "topic"
block = 32
[activations]
sites = ["layers.0"]
tokens = 4800
held_out = 0.3
[[sae]]
latents = 48
k = 4
lr = 3e-3
[seeds]
init = [0]
[training]
tokens = 8000
batch = 128
threads = 1
[stability]
null_draws = 1
"""
    )
    study = reseed.Study.load(folder / "tiny.toml")
    reseed.run(study, progress=False)
    return study


class Words:
    """A model that ranks by the number at the end of an explanation."""

    name = "fake"

    def __init__(self):
        self.asked = 0

    def ask(self, requests):
        self.asked += len(requests)
        out = []
        for request in requests:
            lines = request.messages[1].content.splitlines()
            worth = {
                int(line.split(".")[0]): int(line.split()[-1])
                for line in lines
                if ". fires on worth " in line
            }
            ranked = sorted(worth, key=lambda n: -worth[n])
            text = json.dumps({"ranking": ranked})
            out.append(Reply(text=text, prompt_tokens=1, reply_tokens=1))
        return out


def run_of(study):
    return study.runs[0].id


def test_latents_of_words_tell_topics_apart(study):
    methods = ["lasso", "mrmr", "random"]
    found = select(study, Events(), run_of(study), k=5, methods=methods)
    best = found.evaluation.filter(method="lasso", k=5).row(0, named=True)
    assert best["balanced_accuracy_lo"] > 0.7
    assert best["minus_random"] > 0
    assert found.classes == ("animals", "colours")
    assert sum(found.documents) > 300
    assert found.chosen.filter(method="mrmr")["place"].to_list() == [1, 2, 3, 4, 5]
    assert "chance 0.500" in found.says
    assert found.table()["k"].is_sorted()


def test_features_are_those_of_the_saes_codes(study):
    """The first training document, token by token."""
    from reseed.subjects.language.blocks import TokenBlocks
    from reseed.subjects.shards import TOKENS, ShardSource

    run = study.runs[0]
    found = document_features(study, Events(), [run.id])[run.id]
    tokens = TokenBlocks.open(study.store, TOKENS)
    blocks = list(range(len(tokens.ids)))
    source = ShardSource(study.store)
    codes = run.sae().encode(source.read(blocks)["layers.0"]).numpy()
    of = tokens.document[tokens.keep]
    for place, number in enumerate(found.documents["document"][:20]):
        wanted = codes[of == number].max(axis=0)
        assert np.allclose(found.matrix("max", range(48))[place], wanted, atol=1e-4)
    assert set(found.documents["side"]) <= {"training", "held_out", "both"}


def test_explanations_choose_and_a_second_call_asks_nothing(study):
    run = run_of(study)
    explanations = {
        n: Explanation(of=Latent(run=run, latent=n), text=f"worth {n}", model="fake")
        for n in range(2, 42)
    }
    asker = Words()
    given = {"explanations": explanations, "asker": asker}
    found = select(study, Events(), run, "animals", 4, ["llm-rank", "random"], **given)
    assert found.chosen.filter(method="llm-rank")["latent"].to_list() == [41, 40, 39, 38]
    assert found.chosen["explanation"][0] == "worth 41"
    assert found.classes == ("not animals", "animals")
    assert asker.asked == 1
    again = select(study, Events(), run, "animals", 4, ["llm-rank", "random"], **given)
    assert asker.asked == 1
    assert again.evaluation.equals(found.evaluation)
    other = select(study, Events(), run, "animals", 3, ["llm-rank"], **given)
    assert asker.asked == 2
    assert other.chosen.height == 3


def test_documents_can_be_held_out_by_chance(study):
    found = select(study, Events(), run_of(study), k=2, methods=["mrmr"], held_out=0.5)
    assert abs(found.documents[0] - found.documents[1]) <= 2


def test_what_is_not_there_is_named(study, finished):
    run = run_of(study)
    with pytest.raises(SpecError, match="no run 'x'"):
        select(study, Events(), "x")
    with pytest.raises(SpecError, match="no documents are labelled 'animal'; did you mean"):
        select(study, Events(), run, "animal")
    with pytest.raises(SpecError, match="names no model to ask"):
        select(study, Events(), run, methods=["llm-score"])
    foreign = Explanation(of=Latent(run=run, latent=99), text="x", model="fake")
    with pytest.raises(SpecError, match="Are they of this run"):
        select(study, Events(), run, explanations={99: foreign})
    toy = reseed.Study.load(finished)
    with pytest.raises(SpecError, match="reads no text"):
        select(toy, Events(), toy.runs[0].id)


def test_a_run_that_is_not_done_is_named(study):
    wider = study.spec.model_copy(
        update={"seeds": study.spec.seeds.model_copy(update={"init": (0, 1)})}
    )
    other = reseed.Study(wider, study.folder)
    missing = [one.id for one in other.runs if one.id not in {r.id for r in study.runs}]
    with pytest.raises(StoreError, match="is not done"):
        select(other, Events(), missing[0])
