"""The field's other measures of agreement, each with its chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from reseed.report.markup import Html, Inside, join, table, tag
from reseed.report.numbers import NONE, cosine, cosine_range, percent, percent_range

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
