"""The page of what survives, one HTML file. Reads the store, computes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reseed.report.html import (
    Html,
    Inside,
    beside,
    count,
    decimals,
    document,
    interval,
    join,
    percent,
    table,
    tag,
    text,
)
from reseed.report.parts import (
    answer,
    choices,
    details,
    figure,
    header,
    note,
    pair,
    plainly,
    words_of,
)
from reseed.store import Store
from reseed.survival.figures import AREAS, AXES, SHOWN, drawn, place_of
from reseed.survival.summary import SUMMARY_PIECE

_SCRIPTS = ("draw.js", "survival.js", "page.js")

COUNTERPARTS = {
    "same_seed": "trained on the variant, same seed",
    "other_seed": "on the variant, another seed",
    "ceiling": "on the whole, another seed",
}
"""Whose latents are counterparts, in words."""


def write_survival(store: Store, name: str) -> None:
    """Write the page; equal stores give equal bytes.

    Args:
        store: of the study.
        name: of the file to write.
    """
    about = store.document(SUMMARY_PIECE, "survival.json")
    curves = store.table(SUMMARY_PIECE, "curves.parquet")
    variants: Sequence[Mapping[str, Any]] = about["variants"]
    labels = list(variants[0]["groups"])
    lead = [part for label in labels for part in _verdict(variants, label, len(labels) > 1)]
    body = tag(
        "main",
        header("Which features are still there?", about["study"], *lead),
        tag("section", tag("h2", "The variants"), _versions(about), note(text("survival-blocks"))),
        details("SAE", labels, [_group(variants, label) for label in labels]),
        words_of("survival-words", r=f"{about['survives']:g}"),
        tag("footer", note(text("survival-files")), note(str(about["unit"]))),
    )
    data = [drawn(variants, label, curves.filter(group=label)) for label in labels]
    store.write(name, document(f"{about['study']} · what survives", body, data, _SCRIPTS).encode())


# -- the answers ---------------------------------------------------------------------------------


def _verdict(variants: Sequence[Mapping[str, Any]], label: str, named: bool) -> list[Html]:
    """How much survives at the least and the most, and whether reproducible latents do more."""
    of = {v["variant"]: v["groups"][label] for v in variants}
    ordered = sorted(of, key=lambda name: of[name]["survival"]["value"] or 0.0)
    least, most = (
        join(tag("strong", percent(of[name]["survival"]["value"])), f" ({name})")
        for name in (ordered[0], ordered[-1])
    )
    question = f"{label}: how many survive?" if named else "How many of the latents survive?"
    parts = [answer(question, text("survival-range", least=least, most=most))]
    for key in ("auroc", "auroc_of_r"):
        areas = [n[key] for n in of.values() if n[key] and n[key]["value"] is not None]
        ends = [area["interval_95"] for area in areas if area["interval_95"]]
        if not ends:
            continue
        values = [area["value"] for area in areas]
        blanks: dict[str, Inside] = {
            "above": tag("strong", str(sum(low > 0.5 for low, _ in ends))),
            "below": tag("strong", str(sum(high < 0.5 for _, high in ends))),
            "known": str(len(ends)),
            "range": interval([min(values), max(values)], decimals),
        }
        parts.append(answer(text(f"survival-{key}-question"), text("survival-areas", **blanks)))
    return parts


def _versions(about: Mapping[str, Any]) -> Html | None:
    whole = about["whole"]["cross_entropy"]
    rows: list[dict[str, Inside]] = []
    if whole:
        first: dict[str, Inside] = {"variant": "the whole", "what": None, "taken out": None}
        first["perplexity"] = f"{whole['perplexity']:.2f}"
        first["cross-entropy, nats"] = beside(whole["value"], whole["interval_95"], decimals)
        rows.append(first)
    for variant in about["variants"]:
        settings = {
            key: value
            for key, value in variant["settings"].items()
            if key not in ("name", "method", "share")
        }
        row: dict[str, Inside] = {"variant": variant["variant"], "what": _what(variant, settings)}
        row |= {"taken out": percent(variant["share_removed"])}
        if entropy := variant["cross_entropy"]:
            more = entropy["more_than_whole"]
            row |= {
                "perplexity": f"{entropy['perplexity']:.2f}",
                "cross-entropy, nats": beside(entropy["value"], entropy["interval_95"], decimals),
                "more than the whole": beside(more["value"], more["interval_95"], decimals),
            }
        moved = {n["site"]: n["distance"] for n in variant["groups"].values()}
        rows.append(row | {f"distance, {site}": decimals(d) for site, d in moved.items()})
    return table(rows, caption="Versions of the subject", words=("what",))


def _what(variant: Mapping[str, Any], settings: Mapping[str, Any]) -> Html:
    told = join("; ", plainly(settings)) if settings else None
    return join(str(variant["method"]), told)


# -- one group -----------------------------------------------------------------------------------


def _group(variants: Sequence[Mapping[str, Any]], label: str) -> list[Html | None]:
    names = [v["variant"] for v in variants]
    areas = choices(area=("AUROC", list(AREAS.values())))
    axes = [words for key, words in AXES.items() if any(place_of(v, label, key) for v in variants)]
    return [
        _headline(variants, label),
        _kinds(variants, label),
        figure(
            "survival-by",
            choices(what=("drawn", list(SHOWN.values())), axis=("against", axes)),
            height="tall",
        ),
        pair(
            figure("survival-kinds", height="tall"), figure("survival-areas", areas, height="tall")
        ),
        figure("survival-curve", choices(variant=("variant", names)), height="tall"),
        _fit(variants, label),
        _second(variants, label),
    ]


def _headline(variants: Sequence[Mapping[str, Any]], label: str) -> Html | None:
    rows: list[dict[str, Inside]] = []
    for variant in variants:
        numbers = variant["groups"][label]
        row: dict[str, Inside] = {"variant": variant["variant"]}
        row |= {"survive": tag("strong", _told(numbers["survival"]))}
        row |= {"tokens shuffled": percent(numbers["null_shuffled"]["value"])}
        row |= {"untrained SAE": percent(numbers["untrained"]["value"])}
        row |= {kind: percent(d["value"]) for kind, d in numbers["directions"].items()}
        for key in ("share", "perplexity"):
            random = numbers.get(f"random_at_equal_{key}")
            if random:
                row[f"more than random, equal {key}"] = _told(random["difference"])
        rows.append(row | {"latents": count(numbers["survival"]["latents"])})
    shown = table(rows, caption="Latents that survive (95% interval over runs), and nulls")
    return join(shown, note(text("survival-nulls")))


def _kinds(variants: Sequence[Mapping[str, Any]], label: str) -> Html | None:
    rows: list[dict[str, Inside]] = []
    for variant in variants:
        numbers = variant["groups"][label]
        area = numbers["auroc"]
        row: dict[str, Inside] = {"variant": variant["variant"]}
        row |= {
            f"{kind} ({count(share['latents'])})": _told(share)
            for kind, share in numbers["kinds"].items()
        }
        if area and area["value"] is not None:
            null = area["null"]
            row["AUROC inside strata"] = beside(area["value"], area["interval_95"], decimals)
            row["chance"] = interval([null["lo"], null["hi"]], decimals)
            row["pairs"] = count(area["pairs"])
        if of_r := numbers["auroc_of_r"]:
            row["r of found above orphans"] = beside(of_r["value"], of_r["interval_95"], decimals)
            null = of_r["null"]
            row["chance of that"] = interval([null.get("lo"), null.get("hi")], decimals)
        row["without strata"] = decimals(numbers["auroc_without_strata"]["value"])
        row["of the firing rate"] = decimals(numbers["auroc_of_rate"]["value"])
        rows.append(row)
    shown = table(rows, caption="Survival by how many runs found the latent")
    return join(shown, note(text("survival-strata")))


def _fit(variants: Sequence[Mapping[str, Any]], label: str) -> Html | None:
    rows: list[dict[str, Inside]] = []
    for variant in variants:
        numbers = variant["groups"][label]
        row: dict[str, Inside] = {"variant": variant["variant"]}
        for name, words in (("fvu", "FVU"), ("fvu_robust", "robust FVU"), ("l0", "L0")):
            for side in ("whole", "variant"):
                row[f"{words}, {side}"] = decimals(numbers[name][side]["value"])
        row["mean r"] = beside(
            numbers["mean_r"]["value"], numbers["mean_r"]["interval_95"], decimals
        )
        row["median rate ratio"] = decimals(numbers["median_rate_ratio"]["value"])
        row["silent"] = percent(numbers["silent"]["value"])
        row["clearly survive"] = percent(numbers["clearly"]["value"])
        row["clearly do not"] = percent(numbers["clearly_not"]["value"])
        rows.append(row)
    return table(rows, caption="The frozen SAEs on both versions (mean over runs)")


def _second(variants: Sequence[Mapping[str, Any]], label: str) -> Html | None:
    """SAEs trained on the variant itself, and crosscoders; None where none was asked for."""
    found: list[dict[str, Inside]] = []
    crossed: list[dict[str, Inside]] = []
    for variant in variants:
        second = variant["groups"][label].get("second")
        if second is None:
            continue
        parts = second["counterparts"]
        for kind in parts["same_seed"]:
            row: dict[str, Inside] = {"variant": f"{variant['variant']}, {kind}"}
            for name, of in parts.items():
                row[COUNTERPARTS[name]] = _told(of[kind])
            found.append(row | {"latents": count(parts["same_seed"][kind]["latents"])})
        plain = second["crosscoder"]
        for arm, told in {"plain": plain, **plain.get("arms", {})}.items():
            for where, of in told["where"].items():
                row = {"variant": f"{variant['variant']}, {arm}, {where}"}
                row |= {"latents": count(of["latents"])}
                again = of["recurrence"]
                seen = "not known of one seed" if again is None else percent(again)
                crossed.append(row | {"found by another seed": seen})
    if not found:
        return None
    title = tag("h3", "Second opinions")
    tables = (
        table(found, caption="Latents with a counterpart by activations, r of .7 or more"),
        table(crossed, caption="Crosscoders of both versions: where live latents lie"),
    )
    return tag("section", title, *tables, note(text("survival-second")))


def _told(number: Mapping[str, Any]) -> str:
    return beside(number["value"], number["interval_95"])
