"""The page of a comparison. Reads its folder, computes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from reseed.matching.measures import MATCH_AT_FDR, PW_MCC, SHARED
from reseed.report.figures import agreement_data
from reseed.report.html import (
    Html,
    Inside,
    count,
    decimals,
    document,
    interval,
    join,
    listed,
    percent,
    table,
    tag,
    text,
)
from reseed.report.parts import (
    agreement_figures,
    answer,
    at_most,
    details,
    figure,
    header,
    link,
    measures_table,
    note,
    notes,
)
from reseed.runs import compared_name
from reseed.spec.statistics import Range
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
    null = Range(**{end: shared["null"][end] for end in ("mean", "lo", "hi")})
    number = {"tau": tau, "value": shared["value"], "interval": None, "untrained": None}
    return {"label": pair.label, **agreement_data(number, null, pair.cosines, pair.curve)}


# -- the answers ---------------------------------------------------------------------------------


def _verdict(pairs: Sequence[PairPage], tau: float) -> list[Html]:
    chance = at_most([pair.numbers[SHARED.id]["null"]["mean"] for pair in pairs])
    blanks = {"range": _shares(pairs, SHARED.id), "tau": f"{tau:g}"}
    shared = text("pairs-shared", **blanks, chance=chance)
    return [
        answer(text("pairs-question"), shared),
        answer(text("pairs-fdr-question"), text("fdr", range=_shares(pairs, MATCH_AT_FDR))),
    ]


def _shares(pairs: Sequence[PairPage], measure: str) -> Html:
    """Of one pair both sides, of several the range of their means."""
    if len(pairs) == 1:
        pair, number = pairs[0], pairs[0].numbers[measure]
        if percent(number["a"]) == percent(number["b"]):
            return join(tag("strong", percent(number["a"])), " of the latents of each")
        return join(
            tag("strong", percent(number["a"])), f" of the latents of {pair.a} and ",
            tag("strong", percent(number["b"])), f" of those of {pair.b}",
        )  # fmt: skip
    ordered = sorted(pairs, key=lambda pair: pair.numbers[measure]["value"])
    ends = [
        join(tag("strong", percent(pair.numbers[measure]["value"])), f" ({pair.label})")
        for pair in (ordered[0], ordered[-1])
    ]
    return join("Between ", ends[0], " and ", ends[1], " of the latents")


def _headline(summary: Mapping[str, Any], pairs: Sequence[PairPage]) -> Html:
    forest = figure("forest", key="pairs-forest") if len(pairs) > 1 else None
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
    if shared["interval_95"] is None:
        return note(text("one-pair"))
    ends = interval([min(max(end, 0.0), 1.0) for end in shared["interval_95"]])
    return note(text("over-pairs", shared=percent(shared["value"]), interval=ends))


def _saes_table(saes: Sequence[Mapping[str, Any]]) -> Html | None:
    ran = any("on_activations" in sae for sae in saes)
    rows: list[dict[str, Inside]] = []
    for sae in saes:
        row: dict[str, Inside] = {
            "SAE": sae["name"],
            "format": str(sae["about"].get("format", "arrays")),
            "latents": count(sae["latents"]),
            "dimensions": count(sae["dimensions"]),
            "rule": ", ".join(str(v) for v in (sae["activation"] or {}).values()) or None,
        }
        if ran:
            fit = sae.get("on_activations", {})
            row |= {
                "live": count(fit.get("live")),
                "dead": count(fit.get("dead")),
                "FVU": decimals(fit.get("fvu")),
                "robust FVU": decimals(fit.get("fvu_robust")),
                "L0": f"{fit['l0']:.4g}" if "l0" in fit else None,
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
    return join(table(rows, caption="Crossing over", words=("to",)), note(text("crossing")))


# -- one pair ------------------------------------------------------------------------------------


def _pair_parts(pair: PairPage) -> list[Html | None]:
    return [
        *agreement_figures(pair.curve, "pair-"),
        _measures(pair),
        _certificates(pair.certificates),
    ]


def _measures(pair: PairPage) -> Html:
    def cells(measure: str, shown: Callable[[float | None], str]) -> dict[str, Inside]:
        number = pair.numbers[measure]
        null = number["null"]
        return {
            "value": shown(number["value"]),
            pair.a: shown(number.get("a")),
            pair.b: shown(number.get("b")),
            "chance": shown(null["mean"] if null else None),
            "chance-corrected": shown(number["chance_corrected"]),
        }

    return measures_table("The same pair under every measure", cells)


def _certificates(certificates: Mapping[str, Mapping[str, Any]]) -> Html | None:
    rows: list[dict[str, Inside]] = [
        {
            "rows": view,
            "pairs": count(proof["pairs"]),
            "summed cosine": f"{proof['primal']:.6g}",
            "gap": f"{proof['gap']:.2g}",
            "proven": "yes" if proof["optimal"] else f"no, {proof['ended']}",
            "ties": count(proof["ties"]),
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
