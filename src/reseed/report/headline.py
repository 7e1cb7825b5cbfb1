"""The top of the page: the verdict in a sentence, what weakens it, and the headline tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reseed.report.markup import Html, Inside, join, table, tag
from reseed.report.numbers import (
    NONE,
    count,
    mean_and_range,
    percent,
    percent_range,
    span,
)

Groups = Sequence[dict[str, Any]]
_ALONE = tag("td", "one run: nothing to compare", colspan=7, class_="word")


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
    parts = [_found(groups, _what_differs(summary["training"])), _chance(groups)]
    if any(g["notes"] for g in groups):
        parts.append(join(" ", tag("a", "Read the notes first.", href="#notes")))
    return tag("p", *parts, class_="verdict")


def _what_differs(training: dict[str, Any]) -> str:
    init, data = len(training["init_seeds"]) > 1, len(training["data_seeds"]) > 1
    if init and data:
        return "its seeds (init, data order or both)"
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
        found = group["headline"]["shared"]
        ceiling = percent(group["headline"]["ceiling_same_run"])
        controls = group.get("controls", {})
        name = _name(group, number, 2 + len(controls))
        rows.append([name, *_share_cells("all", found["all"], ceiling)])
        rows.append(_share_cells("live", found["live"], NONE))
        rows += [_control_cells(kind, one) for kind, one in controls.items()]
    head: list[Inside] = [
        "SAE", "latents", _shared_head(groups), "95% interval", "chance (range of draws)",
        "untrained pair", "run with itself", "chance-corrected",
    ]  # fmt: skip
    return table(head, rows, caption="What comes back", class_="numbers")


def _shared_head(groups: Groups) -> str:
    tau = next((g["headline"]["tau"] for g in groups if "headline" in g), None)
    return "shared" if tau is None else f"shared at tau {tau:g}"


def _share_cells(stratum: str, one: dict[str, Any], ceiling: str) -> list[Html]:
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
    return [tag("td", stratum, class_="word"), *(tag("td", cell) for cell in cells)]


def _control_cells(kind: str, one: dict[str, Any]) -> list[Html]:
    """A control run beside the runs that it is compared with, on all latents."""
    name = f"control: {kind.replace('_', ' ')}"
    if one["shared"] is None:
        few = tag("td", "fewer than two runs", colspan=6, class_="word")
        return [tag("td", name, class_="word"), few]
    return _share_cells(name, one["shared"]["all"], NONE)


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
        "FVU, held out", "L0", "assignments proven optimal", "largest gap",
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
        "Intervals are over runs, one left out at a time, not over latents. Chance: random "
        "dictionaries with the covariance of the trained ones. Chance-corrected: 0 is chance, 100% "
        "is full agreement. Run with itself: what the measurement gives when everything comes "
        f"back. Live, dead and dense latents, FVU and L0 were measured on {tokens} held-out "
        "tokens; where runs differ, a range is given. The gap is how far an assignment can be from "
        f"the best one.{controls}",
        class_="caption",
    )


def _training_row(name: Html, group: dict[str, Any], training: dict[str, Any]) -> list[Html]:
    counts, found = group["counts"], group["reconstruction"]
    proof = group.get("certificates")
    cells = [
        count(counts["runs"]),
        count(group["tokens"]),
        f"{training['epochs']:.3g}",
        count(counts["latents"]),
        *(span(counts[name]) for name in ("live", "dead", "dense")),
        mean_and_range(found["fvu"]),
        mean_and_range(found["l0"]),
        f"{proof['optimal']:,} of {proof['assignments']:,}" if proof else NONE,
        f"{proof['largest_gap']:.2g}" if proof else NONE,
    ]
    return [name, *(tag("td", cell) for cell in cells)]


def _name(group: dict[str, Any], number: int, rows: int | None = None) -> Html:
    link = tag("a", group["label"], href="#details", data_choose=number)
    return tag("th", link, scope="rowgroup" if rows else "row", rowspan=rows)
