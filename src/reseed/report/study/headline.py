"""The top of the page: the verdict in a sentence, what weakens it, and the headline tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reseed.report.html import Html, Inside, join, table, tag
from reseed.report.numbers import NONE, count, mean_and_range, percent, percent_range, span

Groups = Sequence[dict[str, Any]]

_ALONE = tag("td", "one run: nothing to compare", colspan=8, class_="word")


def verdict(summary: dict[str, Any]) -> Html:
    """What the study found, in plain language."""
    groups = [g for g in summary["groups"] if "headline" in g]
    if not groups:
        why = (
            "no run has finished"
            if not summary["groups"]
            else "a latent can come back only where an SAE was trained at least twice"
        )
        return tag("p", f"No verdict yet: {why}.", class_="verdict")
    parts: list[Html | None] = [
        _found(groups, _what_differs(summary["training"], groups)),
        _chance(groups),
    ]
    parts.append(_without_tau(groups))
    if any(g["notes"] for g in groups):
        parts.append(join(" ", tag("a", "Read the notes first.", href="#notes")))
    return tag("p", *parts, class_="verdict")


def _what_differs(training: dict[str, Any], groups: Groups) -> str:
    init, data = len(training["init_seeds"]) > 1, len(training["data_seeds"]) > 1
    if init and data:
        apart = all(g["independent"]["they"] == "share neither seed" for g in groups)
        return "its two seeds, init and data order" if apart else "its seeds"
    return "the order of its data" if data else "its init seed"


def _found(groups: Groups, differs: str) -> Html:
    tail = f" of the latents of an SAE come back in another run that differs only in {differs}"
    at = f" (same partner, both cosines at least {groups[0]['headline']['tau']:g})"
    if len(groups) == 1:
        one = groups[0]["headline"]["shared"]["all"]
        interval = one["interval_95"]
        shown = (
            f" (95% interval {percent_range(interval)})" if interval else " (two runs: no interval)"
        )
        return join(tag("strong", percent(one["value"])), shown, tail, at, "; ")
    ordered = sorted(groups, key=lambda g: g["headline"]["shared"]["all"]["value"])
    return join("From ", _end(ordered[0]), " to ", _end(ordered[-1]), tail, at, "; ")


def _end(group: dict[str, Any]) -> Html:
    """One end of the range over groups, with its interval."""
    one = group["headline"]["shared"]["all"]
    interval = f"95% interval {percent_range(one['interval_95'])}, " if one["interval_95"] else ""
    return join(tag("strong", percent(one["value"])), f" ({interval}{group['label']})")


def _chance(groups: Groups) -> Html:
    found = [g["headline"]["shared"]["all"] for g in groups]
    nulls = [one["null_covariance"]["mean"] for one in found if one["null_covariance"]]
    untrained = [one["null_untrained"] for one in found if one["null_untrained"] is not None]
    parts: list[Inside] = ["chance was not measured"]
    if nulls:
        parts = ["chance alone gives ", _most(nulls), tag("strong", percent(max(nulls)))]
    if untrained:
        parts += [", two untrained SAEs give ", _most(untrained), percent(max(untrained))]
    return join(*parts, ".")


def _without_tau(groups: Groups) -> Html | None:
    """The share with a match at a false discovery rate, which needs no threshold."""
    found = [g["headline"]["match_at_fdr"].get("all") for g in groups]
    values = [one["value"] for one in found if one and one["value"] is not None]
    if not values:
        return None
    low, high = percent(min(values)), percent(max(values))
    shown = low if low == high else f"{low} to {high}"
    return join(
        " Without a threshold: ", tag("strong", shown), " have a match that chance does not "
        "explain (false discovery rate 5%)."
    )  # fmt: skip


def _most(values: Sequence[float]) -> str:
    return "at most " if min(values) < max(values) else ""


def warnings(summary: dict[str, Any], failures: Sequence[tuple[str, str]]) -> Html | None:
    """The notes of all groups, and the runs that the numbers lack; None if there is nothing."""
    groups = summary["groups"]
    items: list[Html] = []
    for group in groups:
        for note in group["notes"]:
            if len(groups) > 1:
                items.append(tag("li", tag("b", group["label"], ": "), note))
            else:  # a note continues the name of its group; alone it is a sentence
                items.append(tag("li", note[:1].upper() + note[1:]))
    for run, reason in failures:
        items.append(tag("li", "Left out because it failed: ", tag("code", run), f", {reason}"))
    for run in summary["runs"]["missing"]:
        items.append(tag("li", "Left out because it is not done yet: ", tag("code", run)))
    if not items:
        return None
    title = tag("h2", "Before you believe the numbers")
    return tag("section", title, tag("ul", *items), class_="warning", id="notes")


def shares_table(groups: Groups) -> Html:
    """What comes back, on all and on live latents, beside chance and ceiling."""
    rows: list[list[Html]] = []
    for number, group in enumerate(groups):
        if "headline" not in group:
            rows.append([_name(group, number), _ALONE])
            continue
        found, ceiling = group["headline"], percent(group["headline"]["ceiling_same_run"])
        controls = group.get("controls", {})
        tau = f"shared at tau {found['tau']:g}"
        strata = [
            (stratum, words, found[name].get(stratum))
            for stratum in ("all", "live")
            for name, words in (("shared", tau), ("match_at_fdr", "match at FDR 5%"))
        ]
        shown = [(s, words, one) for s, words, one in strata if one is not None]
        for at, (stratum, words, one) in enumerate(shown):
            name = [_name(group, number, len(shown) + len(controls))] if at == 0 else []
            reached = ceiling if at == 0 else NONE
            rows.append([*name, *_share_cells(stratum, words, one, reached)])
        rows += [_control_cells(kind, one, tau) for kind, one in controls.items()]
    head: list[Inside] = [
        "SAE", "latents", "what counts", "share", "95% interval", "chance (range of draws)",
        "untrained pair", "run with itself", "chance-corrected",
    ]  # fmt: skip
    return table(head, rows, caption="What comes back", class_="numbers shares")


def _share_cells(stratum: str, words: str, one: dict[str, Any], ceiling: str) -> list[Html]:
    null = one["null_covariance"]
    chance = NONE if null is None else percent(null["mean"])
    if null is not None and null["lo"] != null["hi"]:
        chance += f" ({percent_range([null['lo'], null['hi']])})"
    cells = [
        tag("strong", percent(one["value"])),
        percent_range(one["interval_95"]),
        chance,
        percent(one["null_untrained"]),
        ceiling,
        percent(one["chance_corrected"]),
    ]
    names = (tag("td", name, class_="word") for name in (stratum, words))
    return [*names, *(tag("td", cell) for cell in cells)]


def _control_cells(kind: str, one: dict[str, Any], tau: str) -> list[Html]:
    """A control run beside the runs that it is compared with, on all latents."""
    name = f"control: {kind.replace('_', ' ')}"
    if one["shared"] is None:
        few = tag("td", "fewer than two runs", colspan=7, class_="word")
        return [tag("td", name, class_="word"), few]
    return _share_cells(name, tau, one["shared"]["all"], NONE)


def training_table(groups: Groups, training: dict[str, Any]) -> Html:
    """What was trained: counts, reconstruction, tokens, certificates."""
    rows: list[list[Html]] = []
    for number, group in enumerate(groups):
        rows.append(_training_row(_name(group, number), group, training))
        for kind, one in group.get("controls", {}).items():
            if one["counts"] is not None:
                name = tag("th", f"control: {kind.replace('_', ' ')}", scope="row")
                rows.append(_training_row(name, {**one, "tokens": group["tokens"]}, training))
    head: list[Inside] = [
        "SAE", "runs", "tokens seen", "epochs", "latents", "live", "dead", "dense",
        "FVU, held out", "L0", "cosine to its start", "assignments proven optimal", "largest gap",
    ]  # fmt: skip
    return table(head, rows, caption="What was trained, a run", class_="numbers")


def reading(groups: Groups) -> Html:
    """How to read both tables."""
    tokens = span([group["reconstruction"]["held_out_tokens"] for group in groups])
    controls = ""
    if any(group.get("controls") for group in groups):
        controls = (
            " Controls are runs of the same recipe and seeds in which there is less to find, or "
            "nothing; each is evaluated on its own activations."
        )
    return tag(
        "p",
        "Intervals are over runs, one left out at a time (whole seeds where both vary), not over "
        "latents. Chance: random "
        "dictionaries with the covariance of the trained ones. Chance-corrected: 0 is chance, 100% "
        "is full agreement. FDR: latents whose match stands out from the best matches of random "
        "latents, at a false discovery rate of 5% (Benjamini-Hochberg). Run with itself: what the "
        "measurement gives when everything comes back. Live, dead and dense latents, "
        f"FVU and L0 were measured on {tokens} held-out tokens; where runs differ, a range is "
        "given. Cosine to its start: of a live latent's decoder row to where training began; "
        "agreement of latents that hardly moved is agreement of starts. The gap is how far an "
        f"assignment can be from the best one.{controls}",
        class_="caption",
    )


def _training_row(name: Html, group: dict[str, Any], training: dict[str, Any]) -> list[Html]:
    counts, found = group["counts"], group["reconstruction"]
    proof, moved = group.get("certificates"), group.get("distance_from_init")
    cells = [
        count(counts["runs"]),
        count(group["tokens"]),
        f"{training['epochs']:.3g}",
        count(counts["latents"]),
        *(span(counts[name]) for name in ("live", "dead", "dense")),
        mean_and_range(found["fvu"]),
        mean_and_range(found["l0"]),
        mean_and_range(moved) if moved and moved["mean"] is not None else NONE,
        f"{proof['optimal']:,} of {proof['assignments']:,}" if proof else NONE,
        f"{proof['largest_gap']:.2g}" if proof else NONE,
    ]
    return [name, *(tag("td", cell) for cell in cells)]


def _name(group: dict[str, Any], number: int, rows: int | None = None) -> Html:
    link = tag("a", group["label"], href="#details", data_choose=number)
    return tag("th", link, scope="rowgroup" if rows else "row", rowspan=rows)
