"""Which figure of which result: what stands behind `.plot()`.

Figures are drawn from what the pages are drawn from (`reseed.report.figures`). A page has more of
them, and lists to choose from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import polars as pl

from reseed.errors import SpecError, StoreError, nearest
from reseed.matching.measures import SHARED
from reseed.records import Match, SAEArrays
from reseed.report.facts import read_study
from reseed.report.figures import agreement_data, headline_data, n_of_m_data
from reseed.report.notebook.draw import (
    Data,
    colour_of,
    cosine_bars,
    figure_of,
    forest,
    n_of_m,
    roc,
    rule,
    shares,
)
from reseed.runs import stability_name
from reseed.spec.statistics import Range
from reseed.study import Study

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from reseed.sae.model import SAE

_TABLES = ("cosines", "shares", "n_of_m")

_BINS = 50


class PairNumbers(Protocol):
    """Two SAEs beside each other."""

    @property
    def a(self) -> str: ...  # noqa: D102
    @property
    def b(self) -> str: ...  # noqa: D102
    @property
    def numbers(self) -> Mapping[str, Any]: ...  # noqa: D102
    @property
    def curve(self) -> pl.DataFrame: ...  # noqa: D102
    @property
    def cosines(self) -> pl.DataFrame: ...  # noqa: D102


def pair_data(pair: PairNumbers, tau: float) -> dict[str, Any]:
    """What the figures of a pair are drawn from."""
    shared = pair.numbers[SHARED.id]
    null = Range(**{end: shared["null"][end] for end in ("mean", "lo", "hi")})
    number = {"tau": tau, "value": shared["value"], "interval": None, "untrained": None}
    label = f"{pair.a} and {pair.b}"
    return {"label": label, **agreement_data(number, null, pair.cosines, pair.curve)}


# -- doors ---------------------------------------------------------------------------------------


def plot_study(study: Study, figure: str, group: str | None) -> Figure:
    """See `Study.plot`."""
    groups = [g for g in read_study(study.store).groups if g.headline is not None]
    if not groups:
        raise StoreError(f"{study.folder} has no group of two finished runs, so nothing to plot")
    if group is not None:
        name = study.groups_named(group)[0].name
        groups = [g for g in groups if g.group == name] or groups[:0]
        if not groups:
            raise StoreError(f"group {group!r} has one finished run, so nothing to plot")
    data: list[Data] = []
    for chosen in groups if figure == "forest" else groups[:1]:
        piece = stability_name(chosen.group)
        tables = {name: study.store.table(piece, f"{name}.parquet") for name in _TABLES}
        assert chosen.headline is not None
        drawn = headline_data(chosen.headline, tables)
        data.append(drawn | {"label": chosen.label, "n_of_m": n_of_m_data(tables["n_of_m"])})
    return _named(figure, _OF_GROUPS)(data)


def plot_agreement(data: Sequence[Data], figure: str, number: int) -> Figure:
    """See `Comparison.plot`."""
    draw = _named(figure, {name: _OF_GROUPS[name] for name in ("forest", "shares", "cosines")})
    if not 0 <= number < len(data):
        raise SpecError(f"pair {number}: this comparison has pairs 0 to {len(data) - 1}")
    return draw(data if figure == "forest" else data[number : number + 1])


def plot_calibration(data: Sequence[Data], figure: str, label: str | None) -> Figure:
    """See `Calibration.plot`."""
    draw = _named(figure, {"roc": roc, "rule": rule})
    labels = [str(drawn["label"]) for drawn in data]
    if not data or (label is not None and label not in labels):
        raise SpecError(f"architecture {label!r}: {nearest(label or '', labels)}")
    return draw(data[0 if label is None else labels.index(label)])


def plot_match(match: Match) -> Figure:
    """See `Match.plot`."""
    import plotly.graph_objects as go

    bars = go.Histogram(x=match.similarity, nbinsx=_BINS, marker_color=colour_of("observed"))
    return figure_of([bars], "similarity of a pair", "pairs", repr(match))


def plot_sae(sae: SAE) -> Figure:
    """See `SAE.plot`; a transcoder with two sizes has lengths of decoder rows instead."""
    import plotly.graph_objects as go

    arrays: SAEArrays = sae.arrays()
    lengths = np.linalg.norm(arrays.W_dec, axis=1)
    if arrays.W_enc.shape != arrays.W_dec.shape:
        bars = go.Histogram(x=lengths, nbinsx=_BINS, marker_color=colour_of("observed"))
        return figure_of([bars], "length of a decoder row", "latents", repr(sae))
    size = np.linalg.norm(arrays.W_enc, axis=1) * lengths
    own = _cosines(arrays.W_enc, arrays.W_dec, size)
    other = np.roll(arrays.W_dec, 1, axis=0)  # rows of another latent: chance
    chance = _cosines(arrays.W_enc, other, np.roll(lengths, 1) * size / np.maximum(lengths, 1e-30))
    bins = {"start": -1.0, "end": 1.0, "size": 2 / _BINS}
    traces = [
        go.Histogram(x=own, xbins=bins, name="own decoder row", marker_color=colour_of("observed")),
        go.Histogram(x=chance, xbins=bins, name="chance: of the next latent",
                     marker_color=colour_of("null"), opacity=0.6),
    ]  # fmt: skip
    out = figure_of(traces, "cosine of encoder and decoder row", "latents", repr(sae))
    return out.update_layout(barmode="overlay")


def _cosines(a: Any, b: Any, size: Any) -> Any:
    return np.einsum("fd,fd->f", a, b) / np.maximum(size, 1e-30)


_OF_GROUPS: Mapping[str, Callable[[Sequence[Data]], Figure]] = {
    "forest": forest,
    "cosines": cosine_bars,
    "shares": shares,
    "n-of-m": n_of_m,
}


def _named(name: str, figures: Mapping[str, Callable[..., Figure]]) -> Callable[..., Figure]:
    if name not in figures:
        raise SpecError(f"figure {name!r}: {nearest(name, figures)}")
    return figures[name]
