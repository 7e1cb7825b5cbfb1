"""The parts that all pages are put together from."""

from __future__ import annotations

from collections.abc import Sequence

from reseed.report.markup import Html, Inside, tag

_TABS = 6
"""Up to so many sections are chosen by buttons; more by a list."""


def figure(
    name: str, title: str, caption: Inside, *before: Inside, height: str = "", **data: str
) -> Html:
    """A figure: title, plot, legend (both filled by the script) and how to read it."""
    plot = tag(
        "div", class_=f"plot {height}".strip(), data_plot=name, role="img", aria_label=title, **data
    )
    legend = tag("div", class_="legend")
    return tag("figure", tag("h3", title), *before, plot, legend, tag("figcaption", caption))


def pair(*figures: Html) -> Html:
    """Two figures side by side where the screen is wide enough."""
    return tag("div", *figures, class_="pair")


def choice(name: str, label: str, options: Sequence[str]) -> Html:
    """A list to choose from; the figure below it is drawn anew."""
    inside = (tag("option", option, value=option) for option in options)
    return tag("label", label, " ", tag("select", *inside, data_option=name))


def chooser(labels: Sequence[str], what: str) -> Html | None:
    """Which of several sections is shown; None if there is one.

    Args:
        labels: of the sections, in their order.
        what: one of them is, e.g. `"SAE"`.
    """
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
