"""What commands print: tables that fit 80 columns, and the sentences below them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from reseed.screen import Screen

if TYPE_CHECKING:
    import polars as pl

    from reseed.comparison.summary import Comparison
    from reseed.interpretation.select.stage import Selection

_SHOWN_OF_A_KIND = 8


def table(heads: Iterable[str], title: str | None = None, left: Collection[str] = ("",)) -> Table:
    """An empty table; the columns named in `left` hold text, the others numbers."""
    out = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", padding=(0, 1, 0, 0))
    for head in heads:
        out.add_column(head, justify="left" if head in left else "right", overflow="fold")
    return out


def facts(rows: Iterable[tuple[str, str]], style: str) -> Table:
    """Names and what is to be said of each; `style` is that of the names."""
    out = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    out.add_column(style=style, no_wrap=True)
    out.add_column(overflow="fold")
    for name, text in rows:
        out.add_row(name, text)
    return out


def warn(console: Screen, sentences: Iterable[str]) -> None:
    """Sentences that a reader must know, each behind a mark."""
    for sentence in sentences:
        console.print(Text.assemble(("! ", "yellow"), sentence))


def number(value: float | None, form: str = ".3f", *ends: float | None) -> str:
    """A number with its interval, if there is one; a dash where it is not known."""
    if value is None:
        return "–"
    low, high = ends or (None, None)
    if low is None or high is None:
        return f"{value:{form}}"
    between = " to " if form.startswith("+") else "–"
    return f"{value:{form}} ({low:{form}}{between}{high:{form}})"


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def show_summary(console: Screen, summary: Mapping[str, Any]) -> None:
    """The short table at the end of a run."""
    runs, training = summary["runs"], summary["training"]
    title = f"{summary['study']}: {len(runs['done'])} runs of {training['tokens']:,} tokens"
    out = table(("", "live", "FVU", "shared (95 %)", "chance", "untrained", "FDR 5 %"), title)
    for group in summary["groups"]:
        counts, fvu = group["counts"], group["reconstruction"]["fvu"]["mean"]
        live = sum(counts["live"]) / (counts["latents"] * counts["runs"])
        out.add_row(group["label"], f"{live:.0%}", f"{fvu:.3f}", *_shared(group.get("headline")))
        for kind, control in group["controls"].items():
            if control["shared"] is not None:
                fvu = control["reconstruction"]["fvu"]["mean"]
                cells = _shared({"shared": control["shared"], "match_at_fdr": {}})
                out.add_row(f"  {kind}", "", f"{fvu:.3f}", *cells, style="dim")
    console.print(out)
    headlines = [group["headline"] for group in summary["groups"] if "headline" in group]
    for headline in headlines[:1]:
        console.print(
            "shared: latents with the same counterpart by encoder and decoder, both cosines at "
            f"least {headline['tau']:g}, in another run; chance: random dictionaries of the same "
            f"covariance; a run against itself gives {headline['ceiling_same_run']:.0%}; FDR 5 %: "
            "with a match that chance does not explain, whatever the cosine.",
            style="dim",
        )
    warn(console, (f"{g['label']}: {note}" for g in summary["groups"] for note in g["notes"]))


def _shared(headline: Mapping[str, Any] | None) -> Sequence[str]:
    if headline is None:
        return ["–"] * 4
    shared, at_fdr = headline["shared"]["all"], headline["match_at_fdr"].get("all")
    null = shared["null_covariance"]
    interval = "" if shared["interval_95"] is None else f" ({_percents(shared['interval_95'])})"
    return [
        f"{shared['value']:.1%}{interval}",
        "–" if null is None else f"{null['mean']:.1%}",
        f"{shared['null_untrained']:.1%}",
        "–" if at_fdr is None else f"{at_fdr['value']:.1%}",
    ]


def _percents(ends: Sequence[float]) -> str:
    return "–".join(f"{100 * min(max(end, 0.0), 1.0):.1f}" for end in ends)


def show_calibration(console: Screen, summary: Mapping[str, Any]) -> None:
    """The short table of a calibration."""
    heads = ("", "AUC", "precision", "recall", "base", "features found", "coverage", "subspaces")
    out = table(heads, summary["study"])
    for group in summary["groups"]:
        detector, recall = group["detector"]["feature"], group["recall"]
        planted = group["subspaces"]
        out.add_row(
            group["label"].split(" · ")[-1],
            number(detector["auc"]),
            *(number(detector[name], ".0%") for name in ("precision", "recall", "base")),
            f"{recall['mean']:.0%} of {recall['of']:,}",
            number(group["coverage"].get("posterior", {}).get("coverage"), ".0%"),
            f"{planted['stable']} of {planted['planted']}" if planted else "–",
        )
    console.print(out)
    for group in summary["groups"][:1]:
        console.print(
            f'precision, recall: of "found by all {group["judges"]} runs" for live latents that '
            f"are a true feature (cosine at least {group['feature']:g}); base: precision of "
            "calling every live latent; features found: true features that a run has a latent for; "
            "coverage: of the 95 % interval of reproducibility; subspaces: planted ones that come "
            "out as one span in every run.",
            style="dim",
        )


def by_size(families: Mapping[str, int]) -> str:
    """How many families are found in how many runs, most runs first."""
    sizes = sorted(families.items(), key=lambda item: -int(item[0]))
    parts = (f"{count:,} in {size} run{'s' if size != '1' else ''}" for size, count in sizes)
    return ", ".join(parts)


def evaluation(rows: pl.DataFrame) -> Table:
    """A consensus SAE beside what else there is."""
    out = table(("", "latents", "trained on", "FVU", "L0", "dead"), "on held-out tokens")
    for row in rows.iter_rows(named=True):
        cells = [
            _with_range(row, metric, form)
            for metric, form in (("fvu", ".4f"), ("l0", ".1f"), ("dead", ".1%"))
        ]
        out.add_row(row["sae"], f"{row['latents']:,}", f"{row['tokens']:,}", *cells)
    return out


def _with_range(row: Mapping[str, Any], name: str, form: str) -> str:
    low, high = (row[f"{name}{end}"] for end in ("_lo", "_hi"))
    known = low is not None and f"{low:{form}}" != f"{high:{form}}"
    return number(row[name], form, *((low, high) if known else ()))


def skill(rows: pl.DataFrame, title: str) -> Table:
    """What all features predict beyond the frequency."""
    out = table(("", "frequency alone", "everything", "gain (95 %)"), title)
    for row in rows.iter_rows(named=True):
        known = row["gain"] is not None
        cells = [number(row[name] if known else None, ".4f") for name in ("frequency", "full")]
        out.add_row(row["metric"].replace("_", " "), *cells, _gain(row))
    return out


def _gain(row: Mapping[str, Any]) -> str:
    return number(row["gain"], "+.4f", row["lo"], row["hi"])


def each_feature(rows: pl.DataFrame) -> Table:
    """What each feature alone adds to the frequency."""
    out = table(("", "gain in log-loss (95 %)", "AUROC"), "frequency and one more feature")
    for row in rows.iter_rows(named=True):
        out.add_row(row["feature"], _gain(row), number(row["auroc"]))
    return out


def reliability(rows: pl.DataFrame) -> Table:
    """Predicted probabilities against what happened."""
    heads = ("predicted", "observed (95 %)", "trials")
    out = table(heads, "predicted and observed, on held-out runs")
    for row in rows.iter_rows(named=True):
        observed = number(row["observed"], ".1%", row["lo"], row["hi"])
        out.add_row(f"{row['predicted']:.1%}", observed, f"{row['trials']:,}")
    return out


def explanations(rows: pl.DataFrame) -> Table:
    """Some explanations of each kind of latent."""
    out = table(heads := ("kind", "latent", "explanation"), left=heads)
    for kind in rows["kind"].unique(maintain_order=True):
        of_kind = rows.filter(kind=kind)
        for row in of_kind.head(_SHOWN_OF_A_KIND).iter_rows(named=True):
            failed = Text(f"failed: {row['failure'] or ''}", "dim")
            text = failed if row["explanation"] is None else row["explanation"]
            out.add_row(kind, str(row["latent"]), text)
        if len(of_kind) > _SHOWN_OF_A_KIND:
            out.add_row(kind, "...", Text(f"{len(of_kind) - _SHOWN_OF_A_KIND} more", "dim"))
    return out


def scores(scorers: Iterable[Mapping[str, Any]]) -> Table:
    """Scores by kind of latent, beside their controls."""
    kinds = ("reproducible", "partly", "orphan")
    out = table(("scorer", *kinds, "shuffled", "random", "chance", "failed"), left=("scorer",))
    for scorer in scorers:
        by_kind = {row["kind"]: row for row in scorer["kinds"]}
        rows = [by_kind.get(kind, {"mean": None}) for kind in kinds]
        cells = [number(row["mean"], ".3f", row.get("lo"), row.get("hi")) for row in rows]
        beside = [scorer["controls"].get(name) for name in ("shuffled", "random")]
        cells += [number(value) for value in (*beside, scorer["chance"])]
        out.add_row(scorer["scorer"], *cells, str(scorer["failed_questions"]))
    return out


def show_accounts(console: Screen, accounts: Mapping[str, Mapping[str, Any]]) -> None:
    """What was asked of models, and what it took."""
    for purpose, account in accounts.items():
        cost = f", cost {account['cost']:.4g}" if account["cost"] else ""
        console.print(
            f"{purpose}: {account['asked']:,} asked, {account['remembered']:,} remembered, "
            f"{account['failed']:,} without a reply, {account['prompt_tokens']:,} + "
            f"{account['reply_tokens']:,} tokens{cost}",
            style="dim",
        )


def selection(result: Selection) -> Table:
    """How well what each method chose tells the labels apart."""
    heads = ("method", "k", "balanced accuracy (95 %)", "minus random")
    out = table(heads, f"{result.task}: {result.run}", left=("method",))
    for row in result.table().iter_rows(named=True):
        ends = row["balanced_accuracy_lo"], row["balanced_accuracy_hi"]
        accuracy = number(row["balanced_accuracy"], ".3f", *ends)
        out.add_row(row["method"], str(row["k"]), accuracy, number(row["minus_random"], "+.3f"))
    return out


def show_comparison(console: Screen, result: Comparison) -> None:
    """Every two SAEs, and the mean over all of them."""
    heads = ("A", "B", "A's shared", "B's shared", "at FDR 5 %", "PW-MCC", "proven")
    out = table(heads, left=("A", "B"))
    for pair in result.pairs:
        shared, mcc, fdr = (pair.numbers[name] for name in ("shared", "pw_mcc", "match_at_fdr"))
        proven = sum(view["optimal"] for view in pair.certificates.values())
        out.add_row(
            pair.a,
            pair.b,
            *(f"{shared[s]:.1%} ({shared[f'null_{s}']['mean']:.1%})" for s in "ab"),
            f"{fdr['a']:.1%} / {fdr['b']:.1%}",
            f"{mcc['value']:.3f} ({mcc['null']['mean']:.3f})",
            f"{proven} of {len(pair.certificates)}",
        )
    console.print(out)
    over = result.summary["over_pairs"]["shared"]
    mean = "two SAEs are one pair: there is no interval over trainings"
    if over["interval_95"] is not None:
        ends = _percents(over["interval_95"])
        mean = f"all pairs: {over['value']:.1%} shared (95 %: {ends}; unit: the SAE)"
    console.print(
        "shared: same counterpart by encoder and decoder, both cosines at least "
        f"{result.summary['tau']:g}; in brackets chance: random dictionaries like these; {mean}.",
        style="dim",
    )
    warn(console, result.warnings)
