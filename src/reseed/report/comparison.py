"""The page of a comparison. Reads its folder, computes nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from reseed.report.html import Html, Inside, choice, chooser, document, figure, join, table, tag
from reseed.report.html import pair as beside
from reseed.report.numbers import NONE, cosine, count, percent, percent_range, short
from reseed.report.study.cards import MEANS, THRESHOLDED
from reseed.report.study.figures import cosines_data, shares_data
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


def write_comparison(store: Store, name: str) -> None:
    """Write the page; equal folders give equal bytes.

    Args:
        store: the folder of the comparison.
        name: of the file to write.

    Raises:
        StoreError: if a piece is missing or damaged, or the disk is full.
    """
    summary = store.read_json("comparison.json")
    pairs = [read_pair(store, one) for one in summary["pairs"]]
    title = " · ".join(one["name"] for one in summary["saes"])
    body = tag(
        "main",
        tag(
            "header",
            tag("p", "Which latents are in both?", class_="kicker"),
            tag("h1", title),
            tag("p", _verdict(pairs, summary["tau"]), class_="verdict"),
        ),
        _warnings(summary["warnings"]),
        _headline(summary, pairs),
        tag(
            "div",
            chooser([one.label for one in pairs], "pair"),
            *(pair_section(p, n) for n, p in enumerate(pairs)),
            id="details",
        ),
        tag("footer", _provenance(summary)),
    )
    data = [pair_data(pair, summary["tau"]) for pair in pairs]
    store.write_bytes(name, document(f"{title} · reseed", body, data).encode())


def _verdict(pairs: Sequence[PairPage], tau: float) -> Html:
    ordered = sorted(pairs, key=lambda one: one.numbers["shared"]["value"])
    tail = f" (same partner by encoder and decoder, both cosines at least {tau:g}). "
    if len(pairs) == 1:
        one = pairs[0]
        found = one.numbers["shared"]
        parts: list[Inside] = [
            tag("strong", percent(found["a"])), f" of the latents of {one.a} are in {one.b}, and ",
            tag("strong", percent(found["b"])), f" of those of {one.b} in {one.a}", tail,
        ]  # fmt: skip
    else:
        low, high = ordered[0], ordered[-1]
        parts = [
            "From ", tag("strong", percent(low.numbers["shared"]["value"])), f" ({low.label}) ",
            "to ", tag("strong", percent(high.numbers["shared"]["value"])), f" ({high.label}) of "
            "the latents are in the other SAE", tail,
        ]  # fmt: skip
    most = max(one.numbers["shared"]["null"]["mean"] for one in pairs)
    found = [one.numbers["match_at_fdr"]["value"] for one in pairs]
    span = (
        percent(found[0]) if len(found) == 1 else f"{percent(min(found))} to {percent(max(found))}"
    )
    return join(
        *parts, "Random dictionaries of the same covariance share ", percent(most),
        ". Without a threshold: ", tag("strong", span), " have a match that chance does not "
        "explain (false discovery rate 5%).",
    )  # fmt: skip


def _warnings(said: Sequence[str]) -> Html | None:
    if not said:
        return None
    items = (tag("li", one) for one in said)
    title = tag("h2", "Before you believe the numbers")
    return tag("section", title, tag("ul", *items), class_="warning", id="notes")


def _headline(summary: Mapping[str, Any], pairs: Sequence[PairPage]) -> Html:
    forest = None
    if len(pairs) > 1:
        caption = "Dots are shared latents, the mean of both sides; diamonds are chance."
        plot = tag("div", class_="plot", data_plot="forest", role="img", aria_label="Shared")
        legend = tag("div", class_="legend")
        forest = tag("figure", plot, legend, tag("figcaption", caption))
    return tag(
        "section", tag("h2", "Headline"), forest, _pairs_table(pairs), _over(summary),
        _saes_table(summary["saes"]), _crossing(summary.get("crossing", [])),
    )  # fmt: skip


def _pairs_table(pairs: Sequence[PairPage]) -> Html:
    head: list[Inside] = [
        "A and B", "A's shared", "B's shared", "chance", "chance-corrected", "A's match, FDR 5%",
        "B's match, FDR 5%", "mean cosine (PW-MCC)", "its chance", "proven optimal",
    ]  # fmt: skip
    rows: list[list[Html]] = []
    for number, one in enumerate(pairs):
        shared, mcc = one.numbers["shared"], one.numbers["pw_mcc"]
        fdr = one.numbers["match_at_fdr"]
        proven = sum(found["optimal"] for found in one.certificates.values())
        cells = [
            tag("strong", percent(shared["a"])),
            tag("strong", percent(shared["b"])),
            percent(shared["null"]["mean"]),
            percent(shared["chance_corrected"]),
            percent(fdr["a"]),
            percent(fdr["b"]),
            cosine(mcc["value"]),
            cosine(mcc["null"]["mean"]),
            f"{proven} of {len(one.certificates)}",
        ]
        link = tag("a", one.label, href="#details", data_choose=number)
        rows.append([tag("th", link, scope="row"), *(tag("td", cell) for cell in cells)])
    return table(head, rows, caption="What is in both", class_="numbers")


def _over(summary: Mapping[str, Any]) -> Html:
    found = summary["over_pairs"]["shared"]
    if found["interval_95"] is None:
        words = (
            "Two SAEs are one pair: how much another training would change these numbers cannot be "
            "told from them. With three or more an interval over SAEs is given."
        )
    else:
        words = (
            f"Over all pairs {percent(found['value'])} are shared, 95% interval "
            f"{percent_range([min(max(x, 0.0), 1.0) for x in found['interval_95']])} with one SAE "
            "left out at a time; it holds for SAEs made in the same way as these."
        )
    return tag("p", words, class_="caption")


def _saes_table(saes: Sequence[Mapping[str, Any]]) -> Html:
    ran = any("on_activations" in one for one in saes)
    head: list[Inside] = ["SAE", "format", "latents", "dimensions", "rule"]
    if ran:
        head += ["live", "dead", "FVU", "L0"]
    rows: list[list[Html]] = []
    for one in saes:
        rule = ", ".join(str(v) for v in (one["activation"] or {}).values()) or NONE
        cells = [
            str(one["about"].get("format", "arrays")),
            count(one["latents"]),
            count(one["dimensions"]),
            rule,
        ]
        if ran:
            found = one.get("on_activations", {})
            cells += [
                count(found.get("live")),
                count(found.get("dead")),
                cosine(found.get("fvu")),
                NONE if found.get("l0") is None else f"{found['l0']:.4g}",
            ]
        rows.append([tag("th", one["name"], scope="row"), *(tag("td", cell) for cell in cells)])
    return table(head, rows, caption="The SAEs", class_="numbers")


def _crossing(found: Sequence[Mapping[str, Any]]) -> Html | None:
    if not found:
        return None
    head: list[Inside] = ["from", "to", "rows", "FVU, own SAE", "FVU, map alone", "FVU, crossing"]
    rows = [
        [
            tag("th", one["from"], scope="row"), tag("th", one["to"], scope="row"),
            *(tag("td", cell) for cell in (
                count(one["rows"]), cosine(one["fvu"]["own"]), cosine(one["fvu"]["map_alone"]),
                cosine(one["fvu"]["through_first"]))),
        ]
        for one in found
    ]  # fmt: skip
    words = (
        "Rows were turned into the basis of the first SAE by orthogonal Procrustes on half of the "
        "tokens. Crossing: activations turned, reconstructed by the first SAE, turned back, on the "
        "other half. Above 1 the crossing is worse than the mean, and shared directions are "
        "not shared function."
    )
    made = table(head, rows, caption="Crossing over", class_="numbers")
    return join(made, tag("p", words, class_="caption"))


def _provenance(summary: Mapping[str, Any]) -> Html:
    facts = [
        tag(
            "div",
            tag("dt", one["name"]),
            tag("dd", tag("code", one["sha256_of_arrays"]), " ", _about(one["about"])),
        )
        for one in summary["saes"]
    ]
    formulas = [
        tag("li", tag("code", f"{one['id']} v{one['version']}"), f": {one['formula']}; "
            f"{one['unequal_widths']}. {one['source']}")
        for one in summary["measures"]
    ]  # fmt: skip
    return tag(
        "section",
        tag("h2", "Where this comes from"),
        tag("p", f"reseed {summary['reseed']}; chance: {summary['null']}."),
        tag("dl", *facts, class_="facts"),
        tag("ul", *formulas, class_="plain"),
    )


def _about(about: Mapping[str, Any]) -> Html:
    return tag("code", json.dumps(about, ensure_ascii=False, default=str))
