"""Latents as cards: their numbers, and the text they fire on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

from reseed.report.html import Html, Inside, join, table, tag
from reseed.report.numbers import NONE, cosine, cosine_range, count, percent, percent_range, rate
from reseed.report.study.reading import Card, GroupFacts

_SHOWN = 3
"""Contexts of a card that are seen without opening it."""

_SIGNS = {"\n": "⏎", "\r": "␍", "\t": "⇥"}


def cards(group: GroupFacts) -> Html:
    """The most and the least reproducible latents of a group."""
    seeds = {run.id: run.seeds for run in group.runs}
    rule = (
        "Chosen by sorting, not by hand: found in most other runs first, then by the highest "
        "decoder cosine; of a family only the first. "
    )
    none = "No latent of these runs was found in another one."
    most = _block("The most reproducible latents", rule, group.most, seeds, none)
    rule = "Live latents found in no other run, the lowest decoder cosine first. "
    none = "Every live latent was found in at least one other run."
    return join(most, _block("The least reproducible latents", rule, group.least, seeds, none))


def _block(title: str, rule: str, chosen: Sequence[Card], seeds: dict[str, str], none: str) -> Html:
    if not chosen:
        return tag("section", tag("h3", title), tag("p", none, class_="empty"))
    there = any(card.contexts for card in chosen)
    how = (
        "The stronger a token's colour, the stronger the latent fires there, compared with the "
        "strongest place on the card; faint tokens were left out of the activations."
        if there
        else "There is no text to show: the subject reads none, or no contexts were kept."
    )
    shown = [_card(card, seeds[card.latent["run"]]) for card in chosen]
    caption = tag("p", rule, how, class_="caption")
    return tag("section", tag("h3", title), caption, tag("div", *shown, class_="cards"))


def _card(card: Card, seeds: str) -> Html:
    one = card.latent
    title = tag("h4", f"Latent {one['latent']:,}", tag("small", seeds))
    return tag("article", title, _facts(one), texts(card.contexts), class_="card")


def _facts(one: dict[str, Any]) -> Html:
    others = one["n_seeds"] - 1
    found = f"{one['n_matched']} of {others} other run{'s' if others != 1 else ''}"
    facts = [
        ("found in", found),
        ("reproducibility", percent(one["recurrence_mean"])),
        ("95% interval", percent_range([one["recurrence_lo"], one["recurrence_hi"]])),
        ("decoder cosine", cosine(one["max_decoder_cos"])),
        ("encoder cosine", cosine(one["max_encoder_cos"])),
        ("fires on", f"{rate(one['firing_rate'])} of tokens{' (dense)' if one['dense'] else ''}"),
        ("family", _family(one["family_size"])),
    ]
    return tag("dl", *(tag("div", tag("dt", k), tag("dd", v)) for k, v in facts))


def _family(size: int | None) -> str:
    return "none (orphan)" if size is None else f"of {count(size)} runs"


def texts(contexts: Sequence[dict[str, Any]]) -> Html | None:
    """Contexts with their tokens coloured by activation; None if there are none.

    Args:
        contexts: rows of contexts.parquet, strongest first.
    """
    if not contexts:
        return None
    top = max(context["activation"] for context in contexts)
    shown = [_context(context, top) for context in contexts]
    more = shown[_SHOWN:]
    rest = tag("details", tag("summary", f"{len(more)} more"), *more) if more else None
    return tag("div", *shown[:_SHOWN], rest, class_="texts")


def _context(context: dict[str, Any], top: float) -> Html:
    pairs = zip(context["tokens"], context["activations"], strict=True)
    runs = [
        _tokens("".join(visible(token) for token, _ in same), activation, top)
        for activation, same in groupby(pairs, key=_state)
    ]
    return tag("p", *runs, class_="context", dir="auto")


def _state(pair: tuple[str, float | None]) -> float | None:
    return pair[1]


def _tokens(text: str, activation: float | None, top: float) -> Html:
    """Neighbouring tokens with the same activation; silent and excluded ones come in long rows."""
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


def visible(token: str) -> str:
    """A token with its control characters shown by signs; a line break also breaks nothing."""
    return "".join(_sign(character) for character in token)


def _sign(character: str) -> str:
    if character in _SIGNS:
        return _SIGNS[character]
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    return "\ufffd" if 0x7F <= code < 0xA0 else character


THRESHOLDED: Mapping[str, str] = {
    "shared": "the same partner in the decoder and the encoder assignment, both cosines reach tau",
    "both": "both cosines above tau, each under its own assignment",
    "equal": "the same partner in both assignments, whatever the cosine",
    "decoder_only": "decoder cosine above tau under the decoder assignment",
    "max_cos_both": "cosines to the nearest neighbours above tau; not one to one",
    "match_at_fdr": "as shared, beyond what chance gives, at a false discovery rate of 5%; no tau",
    "nearest_at_fdr": "the same for nearest neighbours, not one to one",
}

MEANS: Mapping[str, str] = {
    "pw_mcc": "mean decoder cosine under the assignment; no tau",
    "mmcs_decoder": "mean decoder cosine to the nearest neighbour; no tau",
}


def measures_table(headline: Mapping[str, Any]) -> Html:
    """One row for each measure: value, interval and chance, on all and on live latents."""
    rows = [
        _row(name, words, headline[name], percent, percent_range)
        for name, words in THRESHOLDED.items()
        if "all" in headline.get(name, {})
    ]
    rows += [
        _row(name, words, headline[name], cosine, cosine_range)
        for name, words in MEANS.items()
        if name in headline
    ]
    head: list[Inside] = [
        "measure", "what counts", "value", "95% interval", "chance", "untrained pair",
        "chance-corrected", "live latents", "chance, live",
    ]  # fmt: skip
    return join(
        table(head, rows, caption="The same runs under every measure", class_="numbers measures"),
        _about_equal(headline),
    )


def _row(
    name: str,
    words: str,
    found: Mapping[str, Any],
    shown: Callable[[float | None], str],
    interval: Callable[[Any], str],
) -> list[Html]:
    one, live = found["all"], found.get("live")
    cells = [
        shown(one["value"]),
        interval(one["interval_95"]),
        _chance(one, shown),
        shown(one["null_untrained"]),
        shown(one["chance_corrected"]),
        shown(live["value"]) if live else NONE,
        _chance(live, shown) if live else NONE,
    ]
    head = [tag("th", tag("code", name), scope="row"), tag("td", words, class_="word")]
    return [*head, *(tag("td", cell) for cell in cells)]


def _chance(one: Mapping[str, Any], shown: Callable[[float | None], str]) -> str:
    null = one["null_covariance"]
    return shown(null["mean"]) if null else NONE


def _about_equal(headline: Mapping[str, Any]) -> Html | None:
    """Why a measure without a threshold can be perfect before anything was learnt."""
    untrained = headline["equal"]["all"]["null_untrained"] if "equal" in headline else None
    if untrained is None or untrained < 0.9995:
        return None
    return tag(
        "p",
        "Why ", tag("code", "equal"), " of an untrained pair is 100%: in this recipe encoder and "
        "decoder of a latent start parallel, so both assignments see the same cosines and choose "
        "the same partners. They coincide; that is not agreement about features, and a high ",
        tag("code", "equal"), " by itself shows nothing.",
        class_="caption",
    )  # fmt: skip
