"""The part of a comparison's page about two SAEs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from reseed.report.figures import cosines_data, shares_data
from reseed.report.layout import choice, figure
from reseed.report.layout import pair as beside
from reseed.report.markup import Html, Inside, table, tag
from reseed.report.measures import MEANS, THRESHOLDED
from reseed.report.numbers import NONE, cosine, count, percent, short
from reseed.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class PairPage:
    """What is shown of two SAEs."""

    a: str
    b: str
    numbers: Mapping[str, Any]
    certificates: Mapping[str, Any]
    curve: pl.DataFrame
    cosines: pl.DataFrame

    @property
    def label(self) -> str:
        """As shown to people."""
        return f"{self.a} and {self.b}"


def read_pair(store: Store, one: Mapping[str, Any]) -> PairPage:
    """A pair from its piece.

    Args:
        store: the folder of the comparison.
        one: of the pairs of `comparison.json`.

    Raises:
        StoreError: if the piece is missing or damaged.
    """
    piece = f"pairs/{one['a']}--{one['b']}"
    return PairPage(
        **one,
        curve=store.table(piece, "curve.parquet"),
        cosines=store.table(piece, "cosines.parquet"),
    )


def pair_section(pair: PairPage, number: int) -> Html:
    """All figures and tables of a pair; figures are drawn when the section is shown."""
    measures = pair.curve["measure"].unique(maintain_order=True).to_list()
    strata = pair.curve["stratum"].unique(maintain_order=True).to_list()
    controls = tag(
        "div",
        choice("measure", "measure", measures),
        choice("stratum", "latents", strata),
        class_="controls",
    )
    curve = (
        "Share of latents with a partner at this cosine or above, the mean of both sides; the "
        "dotted mark is tau. Believe the part that lies clear of chance."
    )
    near = "How similar each latent is to its partner; what chance also has, shows nothing."
    return tag(
        "section",
        tag("h2", pair.label),
        beside(
            figure("cosines", "Matched cosines, decoder", near, data_view="decoder"),
            figure("cosines", "Matched cosines, encoder", near, data_view="encoder"),
        ),
        figure("shares", "Share over tau", curve, controls),
        _measures(pair),
        _certificates(pair),
        class_="group",
        data_group=number,
        hidden=number > 0,
    )


def _measures(pair: PairPage) -> Html:
    rows: list[list[Html]] = []
    for words, shown in ((THRESHOLDED, percent), (MEANS, cosine)):
        for name, meaning in words.items():
            one = pair.numbers[name]
            cells = [
                shown(one["value"]), shown(one.get("a")), shown(one.get("b")),
                shown(one["null"]["mean"] if one["null"] else None),
                shown(one["chance_corrected"]),
            ]  # fmt: skip
            head = [tag("th", tag("code", name), scope="row"), tag("td", meaning, class_="word")]
            rows.append([*head, *(tag("td", cell) for cell in cells)])
    names: list[Inside] = [
        "measure", "what counts", "value", pair.a, pair.b, "chance", "chance-corrected",
    ]  # fmt: skip
    shown_ = table(names, rows, caption="The field's measures", class_="numbers measures")
    return tag("section", tag("h3", "The same pair under every measure"), shown_)


def _certificates(pair: PairPage) -> Html:
    rows = [
        [
            tag("th", view, scope="row"),
            *(tag("td", cell) for cell in (
                count(one["pairs"]), f"{one['primal']:.6g}", f"{one['gap']:.2g}",
                "yes" if one["optimal"] else f"no, {one['ended']}",
                NONE if one["ties"] is None else count(one["ties"]), one["solver"])),
        ]
        for view, one in pair.certificates.items()
    ]  # fmt: skip
    head: list[Inside] = ["rows", "pairs", "summed cosine", "gap", "proven", "ties", "solver"]
    return table(head, rows, caption="Certificates of both assignments", class_="numbers")


def pair_data(pair: PairPage, tau: float) -> dict[str, Any]:
    """What the figures of a pair are drawn from."""
    shared = pair.numbers["shared"]
    null = shared["null"]
    return {
        "label": pair.label,
        "headline": {
            "value": shared["value"],
            "interval": None,
            "null": short([null["mean"], null["lo"], null["hi"]]),
            "untrained": None,
        },
        "tau": tau,
        "cosines": cosines_data(pair.cosines),
        "shares": shares_data(pair.curve),
    }
