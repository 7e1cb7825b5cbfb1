"""The page of a comparison. Reads its folder, computes nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from reseed.matching.measures import MATCH_AT_FDR, PW_MCC, SHARED
from reseed.report.html import Html, Inside, document, join, listed, table, tag
from reseed.report.numbers import NONE, count, decimals, percent, percent_range, short
from reseed.report.parts import (
    agreement_data,
    answer,
    at_most,
    cosine_figures,
    details,
    figure,
    header,
    link,
    notes,
    share_figure,
    shown_measures,
)
from reseed.runs import compared_name
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


def write_comparison(store: Store, name: str) -> None:
    """Write the page; equal folders give equal bytes.

    Args:
        store: the folder of the comparison.
        name: of the file to write.

    Raises:
        StoreError: if a piece is missing or damaged, or the disk is full.
    """
    summary = store.read_json("comparison.json")
    pairs = [_read_pair(store, pair) for pair in summary["pairs"]]
    title = " · ".join(sae["name"] for sae in summary["saes"])
    body = tag(
        "main",
        header("Which latents are in both?", title, *_verdict(pairs, summary["tau"])),
        notes(summary["warnings"]),
        _headline(summary, pairs),
        details("pair", [p.label for p in pairs], [_pair_parts(pair) for pair in pairs]),
        tag("footer", _provenance(summary)),
    )
    data = [_pair_data(pair, summary["tau"]) for pair in pairs]
    store.write(name, document(f"{title} · reseed", body, data).encode())


def _read_pair(store: Store, pair: Mapping[str, Any]) -> PairPage:
    piece = compared_name((pair["a"], pair["b"]))
    return PairPage(
        **pair,
        curve=store.table(piece, "curve.parquet"),
        cosines=store.table(piece, "cosines.parquet"),
    )


def _pair_data(pair: PairPage, tau: float) -> dict[str, Any]:
    shared = pair.numbers[SHARED.id]
    null = shared["null"]
    number = {
        "value": shared["value"],
        "interval": None,
        "null": short([null["mean"], null["lo"], null["hi"]]),
        "untrained": None,
    }
    return {"label": pair.label, **agreement_data(number, tau, pair.cosines, pair.curve)}


# -- the answers ---------------------------------------------------------------------------------


def _verdict(pairs: Sequence[PairPage], tau: float) -> list[Html]:
    chance = [pair.numbers[SHARED.id]["null"]["mean"] for pair in pairs]
    return [
        answer(
            "How many latents are in both, nearly unchanged?",
            *_shares(pairs, SHARED.id),
            f" have the same partner by encoder and by decoder, with both cosines at least {tau:g}."
            " Random dictionaries of the same covariance share ",
            *at_most(chance),
            ".",
        ),
        answer(
            "How many resemble a latent of the other more than chance allows, at any cosine?",
            *_shares(pairs, MATCH_AT_FDR),
            " do, at a false discovery rate of 5%.",
        ),
    ]


def _shares(pairs: Sequence[PairPage], measure: str) -> list[Inside]:
    """Of one pair both sides, of several the range of their means."""
    if len(pairs) == 1:
        pair, number = pairs[0], pairs[0].numbers[measure]
        if percent(number["a"]) == percent(number["b"]):
            return [tag("strong", percent(number["a"])), " of the latents of each"]
        return [
            tag("strong", percent(number["a"])), f" of the latents of {pair.a} and ",
            tag("strong", percent(number["b"])), f" of those of {pair.b}",
        ]  # fmt: skip
    ordered = sorted(pairs, key=lambda pair: pair.numbers[measure]["value"])
    ends = [
        join(tag("strong", percent(pair.numbers[measure]["value"])), f" ({pair.label})")
        for pair in (ordered[0], ordered[-1])
    ]
    return ["Between ", ends[0], " and ", ends[1], " of the latents"]


def _headline(summary: Mapping[str, Any], pairs: Sequence[PairPage]) -> Html:
    caption = "Dots are shared latents, the mean of both sides; diamonds are chance."
    forest = figure("forest", None, caption) if len(pairs) > 1 else None
    shown = (_pairs_table(pairs), _over(summary), _saes_table(summary["saes"]))
    crossing = _crossing(summary.get("crossing", []))
    return tag("section", tag("h2", "Headline"), forest, *shown, crossing)


def _pairs_table(pairs: Sequence[PairPage]) -> Html | None:
    rows: list[dict[str, Inside]] = []
    for number, pair in enumerate(pairs):
        shared, mean = pair.numbers[SHARED.id], pair.numbers[PW_MCC.id]
        fdr = pair.numbers[MATCH_AT_FDR]
        proven = sum(certificate["optimal"] for certificate in pair.certificates.values())
        rows.append(
            {
                "A and B": link(pair.label, number),
                "A's shared": tag("strong", percent(shared["a"])),
                "B's shared": tag("strong", percent(shared["b"])),
                "chance": percent(shared["null"]["mean"]),
                "chance-corrected": percent(shared["chance_corrected"]),
                "A's match, FDR 5%": percent(fdr["a"]),
                "B's match, FDR 5%": percent(fdr["b"]),
                "mean cosine (PW-MCC)": decimals(mean["value"]),
                "its chance": decimals(mean["null"]["mean"]),
                "proven optimal": f"{proven} of {len(pair.certificates)}",
            }
        )
    return table(rows, caption="What is in both")


def _over(summary: Mapping[str, Any]) -> Html:
    shared = summary["over_pairs"][SHARED.id]
    words = (
        "Two SAEs are one pair and give no interval: they do not show how much another training "
        "would change these numbers. Three or more do."
    )
    if shared["interval_95"] is not None:
        ends = percent_range([min(max(x, 0.0), 1.0) for x in shared["interval_95"]])
        words = (
            f"Over all pairs {percent(shared['value'])} are shared (95% interval {ends}, leaving "
            "out one SAE at a time). This holds for SAEs made in the same way as these."
        )
    return tag("p", words, class_="caption")


def _saes_table(saes: Sequence[Mapping[str, Any]]) -> Html | None:
    ran = any("on_activations" in sae for sae in saes)
    rows: list[dict[str, Inside]] = []
    for sae in saes:
        row: dict[str, Inside] = {
            "SAE": sae["name"],
            "format": str(sae["about"].get("format", "arrays")),
            "latents": count(sae["latents"]),
            "dimensions": count(sae["dimensions"]),
            "rule": ", ".join(str(v) for v in (sae["activation"] or {}).values()) or NONE,
        }
        if ran:
            rows_of = sae.get("on_activations", {})
            l0 = rows_of.get("l0")
            row |= {
                "live": count(rows_of.get("live")),
                "dead": count(rows_of.get("dead")),
                "FVU": decimals(rows_of.get("fvu")),
                "L0": NONE if l0 is None else f"{l0:.4g}",
            }
        rows.append(row)
    return table(rows, caption="The SAEs", words=("format", "rule"))


def _crossing(pairs: Sequence[Mapping[str, Any]]) -> Html | None:
    if not pairs:
        return None
    rows: list[dict[str, Inside]] = [
        {
            "from": pair["from"],
            "to": pair["to"],
            "rows": count(pair["rows"]),
            "FVU, own SAE": decimals(pair["fvu"]["own"]),
            "FVU, map alone": decimals(pair["fvu"]["map_alone"]),
            "FVU, crossing": decimals(pair["fvu"]["through_first"]),
        }
        for pair in pairs
    ]
    words = (
        "Rows were turned into the basis of the first SAE by orthogonal Procrustes on half of the "
        "tokens. Crossing, on the other half: activations are turned, reconstructed by the first "
        "SAE and turned back. Above 1 that is worse than the mean: shared directions are then not "
        "shared function."
    )
    shown = table(rows, caption="Crossing over", words=("to",))
    return join(shown, tag("p", words, class_="caption"))


# -- one pair ------------------------------------------------------------------------------------


def _pair_parts(pair: PairPage) -> list[Html | None]:
    return [
        cosine_figures(
            "How similar each latent is to its partner. What chance shows too, shows nothing."
        ),
        share_figure(
            pair.curve,
            "Share of latents whose partner has this cosine or a higher one, the mean of both "
            "sides; the dotted mark is tau. Trust the line where it lies clear of chance.",
        ),
        _measures(pair),
        _certificates(pair.certificates),
    ]


def _measures(pair: PairPage) -> Html:
    rows: list[dict[str, Inside]] = []
    for measure in shown_measures():
        number = pair.numbers[measure.id]
        null = number["null"]
        rows.append(
            {
                **measure.row(),
                "value": measure.number(number["value"]),
                pair.a: measure.number(number.get("a")),
                pair.b: measure.number(number.get("b")),
                "chance": measure.number(null["mean"] if null else None),
                "chance-corrected": measure.number(number["chance_corrected"]),
            }
        )
    caption, words = "The same pair under every measure", ("what counts",)
    shown = table(rows, caption=caption, words=words, class_="numbers measures")
    return tag("section", tag("h3", "Other measures of agreement"), shown)


def _certificates(certificates: Mapping[str, Mapping[str, Any]]) -> Html | None:
    rows: list[dict[str, Inside]] = [
        {
            "rows": view,
            "pairs": count(proof["pairs"]),
            "summed cosine": f"{proof['primal']:.6g}",
            "gap": f"{proof['gap']:.2g}",
            "proven": "yes" if proof["optimal"] else f"no, {proof['ended']}",
            "ties": NONE if proof["ties"] is None else count(proof["ties"]),
            "solver": proof["solver"],
        }
        for view, proof in certificates.items()
    ]
    return table(rows, caption="Certificates of both assignments", words=("solver",))


def _provenance(summary: Mapping[str, Any]) -> Html:
    facts: dict[str, Inside] = {}
    for sae in summary["saes"]:
        about = json.dumps(sae["about"], ensure_ascii=False, default=str)
        facts[sae["name"]] = tag("code", f"{sae['sha256_of_arrays']} {about}")
    formulas = [
        tag("li", tag("code", f"{measure['id']} v{measure['version']}"), f": {measure['formula']}; "
            f"{measure['unequal_widths']}. {measure['source']}")
        for measure in summary["measures"]
    ]  # fmt: skip
    return tag(
        "section",
        tag("h2", "Where this comes from"),
        tag("p", f"reseed {summary['reseed']}; chance: {summary['null']}."),
        listed(facts, "facts"),
        tag("ul", *formulas, class_="plain"),
    )
