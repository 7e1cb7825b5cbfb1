"""What the pages of a study, a comparison and a calibration are put together from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from reseed.matching import measures
from reseed.report.html import (
    NONE,
    Html,
    Inside,
    decimals,
    fill,
    join,
    listed,
    percent,
    prose,
    table,
    tag,
)

_TABS = 6
"""Up to so many sections are chosen by buttons; more by a list."""

_NOTES = 8
"""Notes that are seen without opening the rest."""


def header(kicker: str, title: str, *answers: Html | None) -> Html:
    """The top of a page: what it is about, and the answers."""
    return tag("header", tag("p", kicker, class_="kicker"), tag("h1", title), *answers)


def answer(question: str | None, *words: Inside) -> Html:
    """A question of the page and its answer."""
    heading = tag("span", question, class_="question") if question else None
    return tag("p", heading, *words, class_="verdict")


def at_most(shares: Sequence[float], number: Callable[[float | None], str] = percent) -> Html:
    """The largest of several shares, called so where they differ."""
    most = number(max(shares))
    return join(None if number(min(shares)) == most else "at most ", tag("strong", most))


def plainly(facts: Mapping[str, Any]) -> Html:
    """What a record says, as `key value` in words; None and what is empty is left out."""
    shown = [
        f"{key} {_plain(value)}" for key, value in facts.items() if value not in (None, [], {})
    ]
    return join("; ".join(shown) or NONE)


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items()) + ")"
    if isinstance(value, list | tuple):
        return ", ".join(_plain(inner) for inner in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def notes(items: Iterable[Inside]) -> Html | None:
    """What weakens the numbers and mends it, folded where it is much; None if nothing does."""
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
    name: str,
    *before: Inside,
    key: str | None = None,
    height: str = "",
    data: Mapping[str, str] | None = None,
    **blanks: Inside,
) -> Html:
    """A figure: title, plot, legend (both filled by the script) and how to read it.

    Args:
        name: of the plot in the script.
        before: what stands between title and plot.
        key: of title and caption in the prose, if it is not the name.
        height: class of the plot.
        data: attributes that the script reads.
        blanks: of title and caption.
    """
    words = prose()["figures"][key or name]
    title = words["title"].format(**blanks) if "title" in words else None
    plot = tag(
        "div",
        class_=f"plot {height}".strip(),
        data_plot=name,
        role="img",
        aria_label=title or "Shares of all",
        **data or {},
    )
    legend, caption = tag("div", class_="legend"), fill(words["caption"], **blanks)
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


def note(words: Inside) -> Html:
    """What is said below a table."""
    return tag("p", words, class_="caption")


# -- agreement of two or more SAEs ---------------------------------------------------------------


def agreement_figures(curve: pl.DataFrame, of: str = "") -> list[Html | None]:
    """Histograms of matched cosines, and the share over tau for any measure and stratum.

    Args:
        curve: the share by measure, stratum and tau.
        of: begins the keys of the captions.
    """
    decoder, encoder = {"data_view": "decoder"}, {"data_view": "encoder"}
    names = curve["measure"].unique(maintain_order=True).to_list()
    strata = curve["stratum"].unique(maintain_order=True).to_list()
    strata = [name for name in strata if not name.startswith("rate")]  # they have a figure
    lists = choices(measure=("measure", names), stratum=("latents", strata))
    return [
        pair(
            figure("cosines", key=f"{of}cosines", data=decoder),
            figure("cosines", key="encoder-cosines", data=encoder),
        ),
        figure("shares", lists, key=f"{of}shares"),
    ]


def measures_table(
    caption: str,
    cells: Callable[[str, Callable[[float | None], str]], Mapping[str, Inside] | None],
    *after: Html | None,
) -> Html:
    """Every measure of agreement: those with a threshold, those at the FDR, means.

    Args:
        caption: of the table.
        cells: from the id of a measure, and how its numbers are written, to what stands in its
            row; None leaves the row out.
        after: what stands below.
    """
    shares = {measure.id: measure.words for measure in measures.THRESHOLDED} | measures.AT_FDR
    means = {measure.id: measure.words for measure in measures.MEANS}
    rows = [
        {"measure": tag("code", name), "what counts": words, **row}
        for name, words in (shares | means).items()
        if (row := cells(name, percent if name in shares else decimals)) is not None
    ]
    shown = table(rows, caption=caption, words=("what counts",), class_="numbers measures")
    return tag("section", tag("h3", "Other measures of agreement"), shown, *after)


def glossary(tokens: str, *, controls: bool) -> Html:
    """What the words and columns of the page of a study mean.

    Args:
        tokens: how many of what were held out.
        controls: whether there are control runs.
    """
    return words_of("words", *([] if controls else ["Control"]), tokens=tokens)


def words_of(key: str, *without: str, **blanks: Inside) -> Html:
    """What the words and columns of a page mean; `key` of their table in the prose."""
    words = prose()[key].items()
    meanings = {word: fill(said, **blanks) for word, said in words if word not in without}
    title = tag("summary", "What the words and columns mean")
    return tag("details", title, listed(meanings, "glossary"))
