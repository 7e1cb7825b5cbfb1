"""A tiny random llama, steered."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")


from reseed.errors import SpecError  # noqa: E402
from reseed.interpretation.models.steering import SteeredModel  # noqa: E402
from reseed.interpretation.scorers.likelihood import intervention, strength_for  # noqa: E402
from reseed.spec.interpretation import InterventionSpec  # noqa: E402

WORDS = [
    *"0123456789",
    *["the", "cat", "sat", "on", "a", "mat", "dog", "ran", "far", "away", "red", "blue", "green"],
]
TEXTS = ["the cat sat on a mat", "dog ran far", "red"]


@pytest.fixture(scope="module")
def model():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS) + 3,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=48,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>", *WORDS])}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.fixture
def steered(model, tokenizer):
    return lambda site="layers.1", **more: SteeredModel(model, tokenizer, site, **more)


def unit(seed=0):
    row = np.random.default_rng(seed).normal(size=16)
    return row / np.linalg.norm(row)


@pytest.mark.parametrize("site", ["layers.1", "layers.1:in", "layers.1.mlp", "layers.0.mlp:in"])
def test_the_divergence_is_that_of_the_shifted_activations(model, tokenizer, steered, site):
    """Against a forward pass in which the activations are shifted by hand."""
    path, _, before = site.partition(":")
    part = model.base_model.get_submodule(path)
    shift = torch.from_numpy(3.0 * unit()).float()

    def shifted(value):
        return (value[0] + shift, *value[1:]) if isinstance(value, tuple) else value + shift

    original = part.forward
    clean, moved = [], []
    for text in TEXTS:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            clean.append(torch.log_softmax(model(ids).logits[0].double(), -1))
            if before:
                part.forward = lambda x, *a, **k: original(shifted(x), *a, **k)
            else:
                part.forward = lambda *a, **k: shifted(original(*a, **k))
            try:
                moved.append(torch.log_softmax(model(ids).logits[0].double(), -1))
            finally:
                del part.forward
    a, b = torch.cat(moved), torch.cat(clean)
    truth = float((a.exp() * (a - b)).sum(-1).mean())
    subject = steered(site)
    assert subject.kl(TEXTS, unit(), 3.0) == pytest.approx(truth, rel=1e-5)
    assert truth > 1e-3
    assert subject.kl(TEXTS, unit(), 0.0) == pytest.approx(0, abs=1e-12)


def test_nothing_of_the_steering_stays_behind(steered, model):
    subject = steered(new_tokens=6)
    clean = subject.generate(TEXTS, None, 0.0)
    subject.generate(TEXTS, unit(), 50.0)
    with pytest.raises(SpecError, match="width 16, the direction 3"):
        subject.kl(TEXTS, np.ones(3), 1.0)
    assert subject.generate(TEXTS, None, 0.0) == clean
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_a_direction_of_strength_zero_writes_what_the_clean_subject_writes(steered):
    subject = steered(new_tokens=8)
    assert subject.generate(TEXTS, unit(), 0.0) == subject.generate(TEXTS, None, 0.0)
    assert subject.generate(TEXTS, unit(), 80.0) != subject.generate(TEXTS, None, 0.0)
    other = steered(new_tokens=8, seed=1)
    assert other.generate(TEXTS, None, 0.0) != subject.generate(TEXTS, None, 0.0)


def test_greedy_text_is_that_of_the_library(model, tokenizer, steered):
    subject = steered(new_tokens=7, temperature=0.0)
    for text, written in zip(TEXTS, subject.generate(TEXTS, None, 0.0), strict=True):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        out = model.generate(
            ids, max_new_tokens=7, do_sample=False, pad_token_id=0, attention_mask=ids * 0 + 1
        )
        truth = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        assert written == truth


def test_sampling_follows_the_probabilities(model, tokenizer, steered):
    """The Gumbel trick against the softmax, over many first tokens."""
    subject = steered(new_tokens=1)
    ids = torch.tensor([tokenizer("the cat")["input_ids"]])
    with torch.no_grad():
        truth = torch.softmax(model(ids).logits[0, -1].double(), -1).numpy()
    written = subject.generate(["the cat"] * 600, None, 0.0)
    for word in ("cat", "dog", "7"):
        p = truth[3 + WORDS.index(word)]
        assert abs(np.mean([w == word for w in written]) - p) < 4 * np.sqrt(p * (1 - p) / 600)


def test_the_strength_for_a_divergence_is_found(steered):
    settings = InterventionSpec(kl=0.2)
    strength, reached = strength_for(steered(), TEXTS, unit(), settings)
    assert reached == pytest.approx(0.2, rel=0.05)
    assert steered().kl(TEXTS, unit(), strength) == reached


def test_a_latent_that_raises_a_word_is_explained_by_it(known, model, tokenizer):
    """Steering along what the head reads as `dog` writes `dog`, steering away does not."""

    class Reads:
        name = "reads"

        def logprobs(self, before, text):
            return np.array([float(before.split().count(text))])

        many = known.Likelihood.many

    from dataclasses import replace

    head = model.lm_head.weight[3 + WORDS.index("dog")].detach().double().numpy()
    item = replace(known.item(0), explanation=known.explanation(0, "dog"))
    subject = SteeredModel(model, tokenizer, "norm", new_tokens=12)
    settings = InterventionSpec(kl=1.0)
    (one,) = intervention(subject, Reads(), [item], {known.latent(0): head}, settings)
    (other,) = intervention(subject, Reads(), [item], {known.latent(0): -head}, settings)
    assert one.interval[0] > 0
    assert one.value > other.value + 1


def test_sites_are_checked(steered):
    with pytest.raises(SpecError, match="means 3 places"):
        steered("layers.*")
    with pytest.raises(SpecError, match="no such module"):
        steered("layers.9")
