"""What the pages of a study, a comparison and a calibration are put together from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import polars as pl

from reseed.matching import measures
from reseed.report.html import Html, Inside, listed, tag
from reseed.report.numbers import columns, decimals, decimals_range, percent, percent_range, short

_TABS = 6
"""Up to so many sections are chosen by buttons; more by a list."""

_NOTES = 8
"""Notes that are seen without opening the rest."""


def header(kicker: str, title: str, *answers: Html | None) -> Html:
    """The top of a page: what it is about, and the answers."""
    return tag("header", tag("p", kicker, class_="kicker"), tag("h1", title), *answers)


def answer(question: str | None, *words: Inside) -> Html:
    """A question of the page and its answer."""
    asked = tag("span", question, class_="question") if question else None
    return tag("p", asked, *words, class_="verdict")


def at_most(shares: Sequence[float]) -> tuple[str, Html]:
    """The largest of several shares, called so where they differ."""
    most = percent(max(shares))
    return "" if percent(min(shares)) == most else "at most ", tag("strong", most)


def notes(items: Iterable[Inside]) -> Html | None:
    """What weakens the numbers, folded where it is much; None if nothing does."""
    entries = [tag("li", item) for item in items]
    if not entries:
        return None
    title, more = tag("h2", "Before you believe the numbers"), entries[_NOTES:]
    summary = tag("summary", f"{len(more)} more")
    rest = tag("details", summary, tag("ul", *more)) if more else None
    shown = tag("ul", *entries[:_NOTES])
    return tag("section", title, shown, rest, class_="warning", id="notes")


def details(what: str, labels: Sequence[str], sections: Sequence[Sequence[Inside]]) -> Html:
    """Sections of which one is shown at a time; figures are drawn when theirs is shown.

    Args:
        what: a section is about, e.g. `"SAE"`.
        labels: of the sections, which are their titles too.
        sections: what stands in each.
    """
    shown = [
        tag(
            "section",
            tag("h2", label),
            *inside,
            class_="group",
            data_group=number,
            hidden=number > 0,
        )
        for number, (label, inside) in enumerate(zip(labels, sections, strict=True))
    ]
    return tag("div", _chooser(what, labels), *shown, id="details")


def _chooser(what: str, labels: Sequence[str]) -> Html | None:
    if len(labels) < 2:
        return None
    if len(labels) <= _TABS:
        buttons = (
            tag("button", label, type="button", data_choose=n, aria_pressed=str(n == 0).lower())
            for n, label in enumerate(labels)
        )
        return tag("nav", *buttons, class_="tabs", aria_label=f"Which {what}")
    options = (tag("option", label, value=n) for n, label in enumerate(labels))
    return tag("nav", tag("label", f"{what} ", tag("select", *options, id="choose")), class_="tabs")


def link(label: str, number: int) -> Html:
    """A link that shows one of the sections."""
    return tag("a", label, href="#details", data_choose=number)


def figure(
    name: str, title: str | None, caption: Inside, *before: Inside, height: str = "", **data: str
) -> Html:
    """A figure: title, plot, legend (both filled by the script) and how to read it."""
    plot = tag(
        "div",
        class_=f"plot {height}".strip(),
        data_plot=name,
        role="img",
        aria_label=title or "Shares of all",
        **data,
    )
    legend = tag("div", class_="legend")
    heading = tag("h3", title) if title else None
    return tag("figure", heading, *before, plot, legend, tag("figcaption", caption))


def pair(*figures: Html | None) -> Html:
    """Two figures side by side where the screen is wide enough."""
    return tag("div", *figures, class_="pair")


def choices(**options: tuple[str, Sequence[str]]) -> Html:
    """Lists to choose from; the figure below them is drawn anew.

    Args:
        options: name that the script knows, to the label and what can be chosen.
    """
    lists = (
        tag("label", label, " ", tag("select", *(tag("option", v, value=v) for v in values),
            data_option=name))
        for name, (label, values) in options.items()
    )  # fmt: skip
    return tag("div", *lists, class_="controls")


# -- agreement of two or more SAEs ---------------------------------------------------------------


def cosine_figures(caption: str) -> Html:
    """Histograms of the cosines of matched latents, decoder and encoder."""
    encoder = "The same for encoder rows, which have an assignment of their own."
    return pair(
        figure("cosines", "Matched cosines, decoder", caption, data_view="decoder"),
        figure("cosines", "Matched cosines, encoder", encoder, data_view="encoder"),
    )


def share_figure(curve: pl.DataFrame, caption: str) -> Html:
    """Share over tau, for any measure and stratum of the curve."""
    values = {name: curve[name].unique(maintain_order=True).to_list() for name in _CURVE}
    strata = [s for s in values["stratum"] if not s.startswith("rate")]  # they have a figure
    lists = choices(measure=("measure", values["measure"]), stratum=("latents", strata))
    return figure("shares", "Share over tau", caption, lists)


_CURVE = ("measure", "stratum")

_KINDS = {"observed": "observed", "N2": "null", "N4": "untrained"}
"""First word of what a histogram is of, to its name in the script."""


def agreement_data(
    shared: dict[str, Any], tau: float, cosines: pl.DataFrame, curve: pl.DataFrame
) -> dict[str, Any]:
    """What the figures of this part, and the one over all groups, are drawn from.

    Args:
        shared: the headline number: value, interval, null, untrained.
        tau: its threshold.
        cosines: histograms of matched cosines.
        curve: shares over tau.
    """
    return {
        "headline": shared,
        "tau": tau,
        "cosines": _cosines_data(cosines),
        "shares": _shares_data(curve),
    }


def _cosines_data(table: pl.DataFrame) -> dict[str, Any]:
    bins = table.filter(kind="observed", view="decoder")["bin"]
    out: dict[str, Any] = {"bin": short(bins.to_list())}
    for (kind, view), rows in table.group_by(["kind", "view"], maintain_order=True):
        name = _KINDS[str(kind).split()[0]]
        out.setdefault(str(view), {})[name] = short(rows["latents"].to_list())
    return out


def _shares_data(table: pl.DataFrame) -> dict[str, Any]:
    parts = table.filter(~pl.col("stratum").str.starts_with("rate")).partition_by(
        _CURVE, as_dict=True, maintain_order=True
    )
    drawn = ("share", "lo", "hi", "null", "null_lo", "null_hi", "untrained")
    names = [name for name in drawn if name in table.columns]
    return {
        "tau": short(table["tau"].unique(maintain_order=True).to_list()),
        "curves": {"/".join(map(str, key)): columns(t, *names) for key, t in parts.items()},
    }


class ShownMeasure(NamedTuple):
    """A measure of agreement and how its numbers are written."""

    id: str
    words: str
    number: Callable[[float | None], str]
    interval: Callable[[Any], str]

    def row(self) -> dict[str, Inside]:
        """The first columns of its row in a table."""
        return {"measure": tag("code", self.id), "what counts": self.words}


def shown_measures() -> Iterator[ShownMeasure]:
    """All measures in the order of the tables: those with a threshold, at the FDR, means."""
    for measure in measures.THRESHOLDED:
        yield ShownMeasure(measure.id, measure.words, percent, percent_range)
    for name, words in measures.AT_FDR.items():
        yield ShownMeasure(name, words, percent, percent_range)
    for measure in measures.MEANS:
        yield ShownMeasure(measure.id, measure.words, decimals, decimals_range)


_WORDS = {
    "Latent": "one unit of a sparse autoencoder (SAE): an encoder row that decides when it fires "
    "and a decoder row that it writes.",
    "Shared at tau": "the best one-to-one assignment of decoder rows and that of encoder rows give "
    "the latent the same partner in the other run, and both cosines reach tau.",
    "Match at FDR 5%": "the latent has the same partner in both assignments and resembles it more "
    "than random latents resemble their best match, at a false discovery rate of 5% "
    "(Benjamini-Hochberg). It needs no tau.",
    "95% interval": "over runs, leaving out one at a time (one seed where both seeds vary): what "
    "other seeds would change, not what other latents would.",
    "Chance": "the same measurement on random dictionaries with the mean and covariance of the "
    "trained ones: what their shape alone gives.",
    "Untrained pair": "the same measurement on the same SAEs before training.",
    "Run with itself": "what the measurement gives when everything comes back.",
    "Chance-corrected": "0 is chance, 100% is full agreement.",
    "N of M": "in how many of all M runs a latent is found, counting its own.",
    "Family, orphan": "a family is latents of several runs, at most one of each, that are one "
    "feature; an orphan is a latent without a family.",
    "FVU, L0": "FVU is the fraction of variance unexplained by the reconstruction: 0 is perfect, 1 "
    "is no better than the mean. L0 is how many latents fire on a token, on average.",
    "Cosine to its start": "of a live latent's decoder row to where training began. Latents that "
    "hardly moved agree because they started alike.",
    "Largest gap": "how far an assignment can be from the best one, in summed cosine.",
}


def glossary(tokens: str, *, controls: bool) -> Html:
    """What the words and columns of the page of a study mean.

    Args:
        tokens: how many were held out.
        controls: whether there are control runs.
    """
    meanings: dict[str, Inside] = dict(_WORDS)
    meanings["Live, dead, dense"] = (
        f"on {tokens} held-out tokens a live latent fired at least once, a dead one never, a dense "
        "one on more of them than the study's dense_rate (a tenth unless changed). Where runs "
        "differ, a range is given."
    )
    if controls:
        meanings["Control"] = (
            "runs of the same recipe and seeds in which there is less to find, or nothing; each is "
            "evaluated on its own activations."
        )
    title = tag("summary", "What the words and columns mean")
    return tag("details", title, listed(meanings, "glossary"), open=True)
