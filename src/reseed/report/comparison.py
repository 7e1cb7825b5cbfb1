"""The page of a comparison. Reads its folder, computes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from reseed.matching.measures import MATCH_AT_FDR, PW_MCC, SHARED
from reseed.report.function import what_pairs_add
from reseed.report.html import (
    Html,
    Inside,
    count,
    decimals,
    document,
    interval,
    join,
    listed,
    marked,
    percent,
    table,
    tag,
    text,
)
from reseed.report.latents.counterparts import firing_of, pair_entry, pair_section, places_of
from reseed.report.notebook.plots import pair_data
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
    plainly,
    words_of,
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
    table: pl.DataFrame
    curve: pl.DataFrame
    cosines: pl.DataFrame

    @property
    def label(self) -> str:
        """As shown to people."""
        return f"{self.a} and {self.b}"


def write_comparison(store: Store, name: str, latents: pl.DataFrame) -> None:
    """Write the page; equal folders give equal bytes.

    Args:
        store: the folder of the comparison.
        name: of the file to write.
        latents: of all pairs, with firing where the SAEs were run.
    """
    summary = store.read_json("comparison.json")
    pairs = [_read_pair(store, pair) for pair in summary["pairs"]]
    firing, tau = firing_of(latents), summary["tau"]
    places = places_of(store, len(latents)) if firing is not None else {}
    names = [sae["name"] for sae in summary["saes"]]
    title = f"{names[0]} (A) · {names[1]} (B)" if len(names) == 2 else " · ".join(names)
    body = tag(
        "main",
        header("Which latents are in both?", title, *_verdict(pairs, tau)),
        notes(summary["warnings"]),
        _headline(summary, pairs, latents),
        details(
            "pair",
            [p.label for p in pairs],
            [_pair_parts(pair, firing, texts=bool(places)) for pair in pairs],
        ),
        tag("footer", _provenance(summary)),
    )
    data = [
        pair_data(pair, tau) | pair_entry(pair.table, (pair.a, pair.b), places, firing, tau)
        for pair in pairs
    ]
    store.write(name, document(f"{title} · reseed", body, data).encode())


def _read_pair(store: Store, pair: Mapping[str, Any]) -> PairPage:
    piece = compared_name((pair["a"], pair["b"]))
    return PairPage(
        **pair,
        table=store.table(piece, "table.parquet"),
        curve=store.table(piece, "curve.parquet"),
        cosines=store.table(piece, "cosines.parquet"),
    )


# -- the answers ---------------------------------------------------------------------------------


def _verdict(pairs: Sequence[PairPage], tau: float) -> list[Html | None]:
    """One sentence, and which number to quote for which question."""
    numbers = [pair.numbers for pair in pairs]
    shared, matched = _shares(pairs, SHARED.id), _shares(pairs, MATCH_AT_FDR)
    rows: list[dict[str, Inside]] = [
        {
            "question": text(f"pairs-question-{name}"),
            "quote": text(f"quote-{name}", range=share, tau=f"{tau:g}"),
            "chance": at_most([n[measure][f"null_{s}"]["mean"] for n in numbers for s in "ab"]),
        }
        for name, measure, share in (("shared", SHARED.id, shared), ("fdr", MATCH_AT_FDR, matched))
        if all(number[measure]["null"] for number in numbers)
    ]
    words = ("quote", "chance")
    shown = table(rows, caption="Which number to quote", words=words, class_="numbers which")
    brief = {
        name: _shares(pairs, measure, brief=True)
        for name, measure in (("shared", SHARED.id), ("matched", MATCH_AT_FDR))
    }
    lead = text("pairs-lead", **brief)
    return [answer(None, lead), tag("div", shown, class_="first")]


def _shares(pairs: Sequence[PairPage], measure: str, *, brief: bool = False) -> Html:
    """Of one pair both sides, of several the range of their means."""
    if len(pairs) == 1:
        a, b = (percent(pairs[0].numbers[measure][side]) for side in "ab")
        if a == b:
            return join(tag("strong", a), " of the latents of each")
        return join(
            tag("strong", a), " of the latents of A and ", tag("strong", b), " of those of B"
        )
    ordered = sorted(pairs, key=lambda pair: pair.numbers[measure]["value"])
    low, high = (
        tag("strong", percent(p.numbers[measure]["value"])) for p in ordered[:: len(ordered) - 1]
    )
    if brief:
        return join(low, " to ", high, " of the latents, by pair,")
    return join(low, f" ({ordered[0].label}) to ", high, f" ({ordered[-1].label})")


def _headline(summary: Mapping[str, Any], pairs: Sequence[PairPage], latents: pl.DataFrame) -> Html:
    forest = figure("forest", key="pairs-forest") if len(pairs) > 1 else None
    of_pairs = {pair.label: latents.filter(sae=pair.a, other=pair.b) for pair in pairs}
    added = what_pairs_add(of_pairs)
    shown = (_pairs_table(pairs), _over(summary), added, _saes_table(summary["saes"]))
    crossing = _crossing(summary.get("crossing", []))
    meanings = words_of("pair-words")
    return tag("section", tag("h2", "Headline"), forest, *shown, crossing, meanings)


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
                "its chance": percent(shared["null_a"]["mean"]),
                "B's shared": tag("strong", percent(shared["b"])),
                "chance of that": percent(shared["null_b"]["mean"]),
                "chance-corrected": percent(shared["chance_corrected"]),
                "A's match, FDR 5%": percent(fdr["a"]),
                "B's match, FDR 5%": percent(fdr["b"]),
                "mean cosine (PW-MCC)": decimals(mean["value"]),
                "chance of the mean": decimals(mean["null"]["mean"]),
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


def _pair_parts(pair: PairPage, firing: pl.DataFrame | None, *, texts: bool) -> list[Html | None]:
    return [
        pair_section(pair.table, (pair.a, pair.b), firing, texts=texts),
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
    """Files, what is known of each SAE, and the formulas."""
    facts: dict[str, Inside] = {"reseed": summary["reseed"], "chance": text("pair-null")}
    for sae in summary["saes"]:
        about = {key: value for key, value in sae["about"].items() if key != "files"}
        digest = tag("code", str(sae["sha256_of_arrays"])[:16])
        facts[sae["name"]] = join(plainly(about), "; SHA-256 of the arrays begins ", digest)
    formulas = [
        tag("li", tag("code", f"{measure['id']} v{measure['version']}"), f": {measure['formula']}; "
            f"{measure['unequal_widths']}. {measure['source']}")
        for measure in summary["measures"]
    ]  # fmt: skip
    formula = tag("details", tag("summary", "Formulas and sources of the measures"),
        tag("ul", *formulas, class_="plain"))  # fmt: skip
    title = tag("h2", "Where this comes from")
    return tag("section", title, note(marked(text("pair-files"))), listed(facts, "facts"), formula)
