"""Latents as cards: their numbers, the text they fire on, what they were explained as."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any

from reseed.report.facts import Explained, GroupFacts, InterpretationFacts, Twin
from reseed.report.html import (
    NONE,
    Html,
    Inside,
    beside,
    count,
    decimals,
    interval,
    join,
    listed,
    percent,
    rate,
    table,
    tag,
    text,
    visible,
)
from reseed.report.latents.crops import crops_shown
from reseed.report.parts import note
from reseed.spec.interpretation import KINDS

_SHOWN = 3
"""Contexts of a card that are seen without opening it."""

_CARDS = 4
"""Cards that are seen without opening the rest."""

_WIDE = 0.5
"""Width of an interval from which on a word is said of it."""


def cards(group: GroupFacts, rows_are: str) -> Html:
    """The most and the least reproducible latents of a group."""
    block = partial(_block, group=group, rows_are=rows_are)
    if group.most and not group.most[0].row["n_matched"]:
        most = block("near", "The nearest misses", group.most)
    else:
        most = block("most", "The most reproducible latents", group.most)
    least = block("least", "The least reproducible latents", group.least)
    return join(most, least)


def _block(
    which: str, title: str, latents: Sequence[Twin], group: GroupFacts, rows_are: str
) -> Html:
    if not latents:
        none = text(f"no-{which}")
        return tag("section", tag("h3", title), tag("p", none, class_="empty"))
    texts = any(card.contexts for card in latents)
    how = text(_legend([context for card in latents for context in card.contexts]))
    wide = any(_width(card.row) > _WIDE for card in latents)
    words = [text(which), text("wide") if which == "most" and wide else None, how]
    words.insert(1, text("least-texts") if which == "least" and texts else None)
    caption = note(join(*(join(part, " ") for part in words if part is not None)))
    places = {run.id: (at, run.seeds) for at, run in enumerate(group.runs)}
    shown = [_card(card, places, rows_are) for card in latents]
    more = shown[_CARDS:]
    rest = tag("details", tag("summary", f"{len(more)} more"), tag("div", *more, class_="cards"))
    first = tag("div", *shown[:_CARDS], class_="cards")
    return tag("section", tag("h3", title), caption, first, rest if more else None)


def _legend(contexts: Sequence[dict[str, Any]]) -> str:
    """Which sentence says how to read what the latents fire on."""
    if not contexts:
        return "no-contexts"
    if "picture" not in contexts[0]:
        return "colours"
    seen = any(place["picture"] is not None or place["width"] for place in contexts)
    return "heat" if seen else "samples"


def _width(latent: Mapping[str, Any]) -> float:
    """Of the interval of its reproducibility; 0 where there is none."""
    return (latent["recurrence_hi"] or 0.0) - (latent["recurrence_lo"] or 0.0)


def _card(card: Twin, places: Mapping[str, tuple[int, str]], rows_are: str) -> Html:
    latent = card.row
    others, size = latent["n_seeds"] - 1, latent["family_size"]
    dense = " (dense)" if latent["dense"] else ""
    facts: dict[str, Inside] = {
        "found in": f"{latent['n_matched']} of {others} other run{'s' if others != 1 else ''}",
        "reproducibility": percent(latent["recurrence_mean"]),
        "95% interval": interval([latent["recurrence_lo"], latent["recurrence_hi"]]),
        "decoder cosine": decimals(latent["max_decoder_cos"]),
        "encoder cosine": decimals(latent["max_encoder_cos"]),
        "fires on": f"{rate(latent['firing_rate'])} of {rows_are}{dense}",
        "family": "none (orphan)" if size is None else f"of {count(size)} runs",
    }
    if latent.get("coherence") is not None:
        chance = f"{percent(latent['coherence'])} (chance {percent(latent['coherence_null'])})"
        facts["neighbours fire too"] = chance
    own = _side(latent["run"], latent["latent"], None, card.contexts, places)
    other = None
    if card.other is not None:
        cosine = f"nearest there, decoder cosine {decimals(card.cosine)}"
        other = _side(card.other, card.partner, cosine, card.partner_contexts, places)
    return tag("article", listed(facts), tag("div", own, other, class_="sides"), class_="card")


def _side(
    run: str,
    latent: int,
    about: str | None,
    contexts: Sequence[dict[str, Any]],
    places: Mapping[str, tuple[int, str]],
) -> Html:
    """A latent with its text; its number opens it in the table of all latents."""
    place, seeds = places[run]
    name = tag(
        "button",
        f"Latent {latent:,}",
        type="button",
        class_="link",
        data_latent=f"{place}:{latent}",
    )
    small = tag("small", ", ".join(filter(None, (seeds, about))))
    return tag("div", tag("h4", name, small), _texts(contexts), class_="side")


# -- text ----------------------------------------------------------------------------------------


def _texts(contexts: Sequence[dict[str, Any]]) -> Html | None:
    """Contexts, strongest first, with their tokens coloured by activation; None without any."""
    if not contexts:
        return None
    if "picture" in contexts[0]:
        return crops_shown(contexts)
    top = max(context["activation"] for context in contexts)
    shown = [context_shown(context, top) for context in contexts]
    more = shown[_SHOWN:]
    rest = tag("details", tag("summary", f"{len(more)} more"), *more) if more else None
    return tag("div", *shown[:_SHOWN], rest, class_="texts")


def context_shown(context: dict[str, Any], top: float) -> Html:
    """A context as HTML, each token by its activation over `top`."""
    # Neighbours of one activation share an element: silent and excluded tokens come in long rows.
    tokens = zip(context["activations"], context["tokens"], strict=True)
    rows = [
        _tokens("".join(visible(token) for _, token in alike), activation, top)
        for activation, alike in groupby(tokens, key=lambda pair: pair[0])
    ]
    return tag("p", *rows, class_="context", dir="auto")


def _tokens(text: str, activation: float | None, top: float) -> Html:
    if activation is None:
        return tag("i", text)
    if activation <= 0 or top <= 0:
        return tag("span", text)
    # The space before a word stays outside, or a line that ends there ends in a coloured stub.
    word = text.lstrip(" ") or text
    space = text[: len(text) - len(word)]
    strength = min(activation / top, 1.0)
    mark = tag("mark", word, style=f"--a:{strength:.2f}", title=f"activation {activation:.3g}")
    return join(space, mark)


# -- explanations --------------------------------------------------------------------------------


def explanations(facts: InterpretationFacts | None) -> Html | None:
    """Scores by how often latents came back, then the explanations themselves."""
    if facts is None:
        return None
    failed = f" {facts.failed} of them got no usable explanation." if facts.failed else ""
    parts: list[Inside] = [tag("p", facts.says, failed, class_="caption")]
    if facts.comparison is None:
        parts.append(tag("p", "Not scored yet: `reseed score` does it.", class_="empty"))
    else:
        parts += [_scores(facts.comparison), _sentences(facts.comparison, facts.ablation)]
    for kind in KINDS:
        if shown := [_explained(latent) for latent in facts.latents if latent.row["kind"] == kind]:
            title = "Partly reproducible" if kind == "partly" else kind.capitalize()
            parts += [tag("h4", title), tag("div", *shown, class_="cards")]
    return tag("section", tag("h3", "Explanations"), *parts, class_="explanations")


def _scores(comparison: Mapping[str, Any]) -> Html | None:
    rows: list[dict[str, Inside]] = []
    for scorer in comparison["scorers"]:
        means = {row["kind"]: row for row in scorer["kinds"]}
        rows.append(
            {
                "scorer": scorer["scorer"].replace("_", " "),
                **{kind: _mean(means.get(kind)) for kind in KINDS},
                "shuffled": decimals(scorer["controls"].get("shuffled")),
                "random latents": decimals(scorer["controls"].get("random")),
                "chance": decimals(scorer["chance"]),
                "failed": count(scorer["failed_questions"]),
            }
        )
    return table(rows, caption="Mean score by kind of latent, with 95% interval")


def _mean(row: Mapping[str, Any] | None) -> str:
    return NONE if row is None else beside(row["mean"], (row["lo"], row["hi"]), decimals)


def _sentences(comparison: Mapping[str, Any], ablation: str | None) -> Html:
    sentences = [scorer["says"] for scorer in comparison["scorers"]]
    sentences += comparison.get("unscored", [])
    if comparison["similarity"] is not None:
        sentences.append(comparison["similarity"]["says"])
    if ablation is not None:
        sentences.append(ablation)
    return tag("ul", *(tag("li", s[:1].upper() + s[1:]) for s in sentences), class_="plain")


def _explained(latent: Explained) -> Html:
    row = latent.row
    words: Inside = row["explanation"]
    if words is None:
        words = tag("i", f"no explanation: {row['failure']}")
    partner = None
    if latent.partner is not None:
        text = ("in another run: ", latent.partner)
        partner = tag("p", *text, class_="said other", dir="auto")
    scores = {name.replace("_", " "): decimals(value) for name, value in latent.scores.items()}
    return tag(
        "article",
        tag("h4", f"Latent {row['latent']:,}", tag("small", row["run"])),
        tag("p", words, class_="said", dir="auto"),
        partner,
        listed(scores) if scores else None,
        _texts(latent.contexts),
        class_="card",
    )
