"""Texts made of known features, a model that knows them, and models that do not.

Feature 7 fires on the words `w7a` (strongly), `w7b` and `w7c` (weakly) and on nothing else.
"""

import hashlib
import json
import math
import re

import numpy as np

from reseed.interpretation.records import Example, Explanation, Item, Latent, Reply, TokenChoice

STRENGTH = {"a": 10.0, "b": 6.0, "c": 4.5}
FILLER = "the of and to in is was for on that with as by".split()  # noqa: SIM905
SPLITS = ("explain", "score", "judge")


def latent(feature):
    return Latent(run="run0", latent=feature)


def window(rng, feature, fires, split, document, features=12, length=16):
    """One window; words of other features are in all of them."""
    others = [f for f in range(features) if f != feature]
    words = [str(rng.choice(FILLER)) for _ in range(length)]
    for place in rng.choice(length, 3, replace=False):
        words[place] = f"w{rng.choice(others)}{rng.choice(list('abc'))}"
    letter = str(rng.choice(list("abc")))
    if fires:
        for place in rng.choice(length, int(rng.integers(1, 3)), replace=False):
            words[place] = f"w{feature}{letter}"
    own = re.compile(rf"w{feature}([abc])")
    hits = [own.fullmatch(word) for word in words]
    return Example(
        split=split,
        kind="firing" if fires else "random",
        tokens=tuple(f" {word}" for word in words),
        activations=tuple(STRENGTH[hit[1]] if hit else 0.0 for hit in hits),
        document=document,
        block=document,
        position=0,
        quantile={"a": 2, "b": 1, "c": 0}[letter] if fires else None,
    )


def examples(feature, split, firing=15, silent=15, seed=0):
    """Each from a document of its own; splits and features share none."""
    first = (SPLITS.index(split) * 1000 + feature) * 1000
    rng = np.random.default_rng([seed, first])
    return tuple(window(rng, feature, i < firing, split, first + i) for i in range(firing + silent))


def explanation(feature, text=None):
    return Explanation(of=latent(feature), text=text or f"fires on f{feature}", model="truth")


def item(feature, split="score", explained=True, **sizes):
    said = explanation(feature) if explained else None
    return Item(of=latent(feature), explanation=said, examples=examples(feature, split, **sizes))


def items(count, split="score", **more):
    return [item(feature, split, **more) for feature in range(count)]


# -- models ----------------------------------------------------------------------------------------


class Model:
    """An asker that answers each request by a function of it."""

    def __init__(self, answer, name="fake"):
        self.answer, self.name, self.asked = answer, name, []

    def ask(self, requests):
        self.asked += requests
        replies = [self.answer(request) for request in requests]
        return [
            one if not isinstance(one, str) else Reply(text=one, prompt_tokens=9, reply_tokens=3)
            for one in replies
        ]


def question(request):
    return request.messages[-1].content


def lines(request, label=r"\d+"):
    return re.findall(rf"^{label}: ?(.*)$", question(request), re.MULTILINE)


def features_in(text):
    return [int(n) for n in re.findall(r"w(\d+)[abc]", text)]


def marked(text):
    return " ".join(re.findall(r"<<(.*?)>>", text))


def described(text):
    found = re.findall(r"fires on f(\d+)", text)
    return int(found[-1]) if found else None


def truth(request):
    """The right reply to any question of this room."""
    if request.purpose == "explain":
        shown = " ".join(lines(request, r"Text \d+"))
        hits = features_in(marked(shown)) or features_in(shown)
        return json.dumps({"explanation": f"fires on f{max(set(hits), key=hits.count)}"})
    texts = lines(request)
    feature = described(question(request))
    if request.purpose == "detection":
        return json.dumps({"answers": [int(feature in features_in(t)) for t in texts]})
    if request.purpose.startswith("fuzzing"):
        right = [all(features_in(word) == [feature] for word in marked(t).split()) for t in texts]
        return json.dumps({"answers": [int(r) for r in right]})
    if request.purpose == "intruder":
        hits = [set(features_in(t)) for t in texts]
        common = max(set().union(*hits), key=lambda f: sum(f in h for h in hits))
        alone = [i for i, h in enumerate(hits) if common not in h]
        return json.dumps({"intruder": alone[0] if alone else 0})
    assert request.purpose == "simulation"
    own = re.compile(rf"w{feature}([abc])")
    found = [own.fullmatch(t.strip()) for t in texts]
    values = [round(STRENGTH[one[1]]) if one else 0 for one in found]
    return json.dumps({"activations": values})


def random_of(request):
    told = "\n".join(message.content for message in request.messages)
    return np.random.default_rng(int(hashlib.sha256(told.encode()).hexdigest()[:16], 16))


def guess(request):
    """A reply of the right form that knows nothing."""
    rng = random_of(request)
    key, schema = next(iter(request.schema["properties"].items()))
    if schema["type"] == "string":
        return json.dumps({key: f"fires on f{rng.integers(12)}"})
    if schema["type"] == "integer":
        return json.dumps({key: int(rng.integers(schema["maximum"] + 1))})
    high = schema["items"]["maximum"] + 1
    return json.dumps({key: rng.integers(high, size=schema["minItems"]).tolist()})


def with_choices(answer, sure=0.9):
    """Replies of 0 and 1 with the probabilities of both, token by token."""

    def reply(request):
        text = answer(request)
        pieces = re.findall(r"\d|[^\d]+", text)
        choices = []
        for piece in pieces:
            other = {"0": "1", "1": "0"}.get(piece)
            rest = {} if other is None else {other: math.log(1 - sure), " ": -9.0}
            choices.append(TokenChoice(token=piece, logprob=math.log(sure), alternatives=rest))
        return Reply(text=text, prompt_tokens=9, reply_tokens=9, choices=tuple(choices))

    return reply


# -- instruments -----------------------------------------------------------------------------------


class Embedder:
    """Counts of the features in a text, or of those that an explanation names."""

    name = "counts"

    def __init__(self):
        self.texts = []

    def embed(self, texts):
        self.texts += texts
        out = np.full((len(texts), 40), 0.01)
        for row, text in zip(out, texts, strict=True):
            for feature in {*features_in(text), described(text)} - {None}:
                row[feature] += 1
        return out


class Likelihood:
    """Finds the words of the feature named before probable, and names of the features before."""

    name = "likely"

    def logprobs(self, prefix, text):
        feature, before = described(prefix.rsplit("Description:", 1)[-1]), features_in(prefix)
        words = text.split()
        known = [
            f in before if (f := described(text)) is not None else features_in(w) == [feature]
            for w in words
        ]
        return np.where(known, -1.0, -4.0)

    def many(self, pairs):
        return [self.logprobs(prefix, text) for prefix, text in pairs]
