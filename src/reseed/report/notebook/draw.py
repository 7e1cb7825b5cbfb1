"""The main figures of the pages as Plotly figures, in the colours of the pages.

One function a figure, as in `assets/plots.js` and `assets/calibration.js`, of the same data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reseed.matching.measures import SHARED
from reseed.report.html import asset

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Data = Mapping[str, Any]
"""What a page draws a group, a pair or an architecture from."""


def forest(groups: Sequence[Data]) -> Figure:
    """Shared shares of groups with interval, chance and an untrained pair."""
    import plotly.graph_objects as go

    labels = [_plain(group["label"]) for group in groups]
    numbers = [group["headline"] for group in groups]
    ends = [number["interval"] or (number["value"],) * 2 for number in numbers]
    reach = {
        "array": [high - n["value"] for n, (_, high) in zip(numbers, ends, strict=True)],
        "arrayminus": [n["value"] - low for n, (low, _) in zip(numbers, ends, strict=True)],
    }
    chance = [number["null"] and number["null"][0] for number in numbers]
    untrained = [number["untrained"] for number in numbers]
    marks: dict[str, Any] = {"mode": "markers", "y": labels}
    traces = [
        go.Scatter(x=chance, name="chance", marker=mark_of("null", "diamond"), **marks),
        go.Scatter(x=untrained, name="untrained pair", marker=mark_of("untrained", "x"), **marks),
        go.Scatter(x=[n["value"] for n in numbers], name="shared, 95% interval",
                   marker=mark_of("observed", "circle"), error_x=reach, **marks),
    ]  # fmt: skip
    if all(value is None for value in untrained):
        del traces[1]
    out = figure_of(traces, "share of latents", "", "What comes back")
    return out.update_xaxes(range=[-0.02, 1.02], tickformat=".0%").update_yaxes(
        autorange="reversed"
    )


def cosine_bars(groups: Sequence[Data]) -> Figure:
    """Matched decoder cosines of the first group beside chance."""
    import plotly.graph_objects as go

    cosines = groups[0]["cosines"]
    edges, counts = cosines["bin"], cosines["decoder"]
    middle = [edge + 0.01 for edge in edges]
    traces: list[Any] = [
        go.Bar(x=middle, y=counts["observed"], width=0.02, name="trained pair",
               marker_color=colour_of("observed"), opacity=0.75)
    ]  # fmt: skip
    for kind, name in (("null", "chance"), ("untrained", "untrained pair")):
        if kind in counts:
            line = {"color": colour_of(kind), "shape": "hv", "dash": "dash"}
            traces.append(go.Scatter(x=edges, y=counts[kind], name=name, mode="lines", line=line))
    return figure_of(traces, "cosine to the partner", "latents", groups[0]["label"])


def shares(groups: Sequence[Data]) -> Figure:
    """Shared share of the first group over tau, with chance."""
    import plotly.graph_objects as go

    group = groups[0]
    tau, curve = group["shares"]["tau"], group["shares"]["curves"][f"{SHARED.id}/all"]
    traces: list[Any] = []
    for name, low, high, kind in (
        ("share", "lo", "hi", "observed"),
        ("null", "null_lo", "null_hi", "null"),
        ("untrained", "", "", "untrained"),
    ):
        if name not in curve:
            continue
        colour = colour_of(kind)
        if low in curve and any(value is not None for value in curve[low]):
            band: dict[str, Any] = {"mode": "lines", "line": {"width": 0}, "showlegend": False}
            traces.append(go.Scatter(x=tau, y=curve[low], hoverinfo="skip", **band))
            fill = {"fill": "tonexty", "fillcolor": _faint(colour), "hoverinfo": "skip"}
            traces.append(go.Scatter(x=tau, y=curve[high], **band, **fill))
        words = {"null": "chance", "untrained": "untrained pair"}.get(name, name)
        dash = "solid" if name == "share" else "dash"
        line = {"color": colour, "dash": dash}
        traces.append(go.Scatter(x=tau, y=curve[name], name=words, mode="lines", line=line))
    out = figure_of(traces, "tau", "share of latents", group["label"])
    line = {"dash": "dot", "width": 1.5, "color": colour_of("muted")}
    out.add_vline(x=group["tau"], line=line, opacity=1, annotation_text=f"tau {group['tau']:g}")
    return out.update_yaxes(range=[-0.02, 1.02], tickformat=".0%")


def n_of_m(groups: Sequence[Data]) -> Figure:
    """In how many runs latents are found, with two laws."""
    import plotly.graph_objects as go

    counts = groups[0]["n_of_m"]["all"]
    x = [f"{n} of {m}" for n, m in zip(counts["n"], counts["m"], strict=True)]
    fitted = mark_of("untrained", "circle-open")
    traces = [
        go.Bar(x=x, y=counts["share"], name="latents", marker_color=colour_of("observed")),
        go.Scatter(x=x, y=counts["beta_binomial"], name="beta-binomial", mode="markers",
                   marker=fitted),
        go.Scatter(x=x, y=counts["binomial"], name="binomial: chance", mode="markers",
                   marker=mark_of("null", "diamond")),
    ]  # fmt: skip
    out = figure_of(traces, "runs in which the latent is found", "share of latents",
                  groups[0]["label"])  # fmt: skip
    return out.update_yaxes(tickformat=".0%", rangemode="tozero")


def roc(drawn: Data) -> Figure:
    """Recall over false alarms of every threshold n of M."""
    import plotly.graph_objects as go

    judges = drawn["judges"]
    curve, area = drawn["curves"][f"feature/live/{judges}"], drawn["areas"]["feature/live"]
    auc = area["auc"][area["m"].index(judges)]
    line = {"color": colour_of("observed")}
    traces = [
        go.Scatter(x=[0, 1], y=[0, 1], name="guessing", mode="lines",
                   line={"color": colour_of("null"), "dash": "dot"}),
        go.Scatter(x=[*curve["false_alarm"], 0], y=[*curve["recall"], 0], line=line,
                   text=[*(f"at least {n} of {judges}" for n in curve["n"]), "none"],
                   name=f"M = {judges}" + (f", AUC {auc:.3f}" if auc is not None else ""),
                   mode="lines+markers"),
    ]  # fmt: skip
    out = figure_of(traces, "false alarms", "recall", drawn["label"])
    return out.update_layout(xaxis_tickformat=".0%", yaxis_tickformat=".0%")


def rule(drawn: Data) -> Figure:
    """Precision and recall over n."""
    import plotly.graph_objects as go

    judges = drawn["judges"]
    curve = drawn["curves"][f"feature/live/{judges}"]
    traces: list[Any] = []
    for name, kind in (("precision", "observed"), ("recall", "untrained")):
        line = {"color": colour_of(kind)}
        traces.append(go.Scatter(x=curve["n"], y=curve[name], name=name, line=line,
                                 mode="lines+markers"))  # fmt: skip
    base = go.Scatter(x=curve["n"][:1], y=curve["precision"][:1], name="calling everything",
                      mode="markers", marker=mark_of("null", "diamond"))  # fmt: skip
    out = figure_of([*traces, base], f"n, of {judges}", "share", drawn["label"])
    return out.update_layout(xaxis_dtick=1, yaxis_tickformat=".0%")


# -- what all share ------------------------------------------------------------------------------


def figure_of(traces: Sequence[Any], x: str, y: str, title: str) -> Figure:
    """Traces with titles."""
    import plotly.graph_objects as go

    out = go.Figure(traces)
    return out.update_layout(
        template="simple_white", title=_plain(title), xaxis_title=x, yaxis_title=y
    )


def _plain(text: object) -> str:
    """Plotly reads a few tags inside labels; names of sites come from outside."""
    return str(text).replace("&", "&amp;").replace("<", "&lt;")


def colour_of(name: str) -> str:
    """Of the light page; its style sheet is the one home of colours."""
    match = re.search(rf"--{name}: (#[0-9a-f]{{6}});", asset("page.css"))
    assert match is not None
    return match[1]


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"


def mark_of(kind: str, symbol: str) -> dict[str, Any]:
    """A marker."""
    return {"color": colour_of(kind), "symbol": symbol, "size": 11}
