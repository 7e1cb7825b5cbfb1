"""The parts that every figure of the page is put together from."""

from __future__ import annotations

from reseed.report.markup import Html, Inside, tag


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


def choice(name: str, label: str, options: list[str]) -> Html:
    """A list to choose from; the figure below it is drawn anew."""
    inside = (tag("option", option, value=option) for option in options)
    return tag("label", label, " ", tag("select", *inside, data_option=name))
