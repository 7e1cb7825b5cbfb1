"""Which way of matching finds the latents that can stand in for each other?

    reseed run studies/two_widths.toml
    python -m benchmarks.matchers studies/two_widths --group "topk 1,024" --latents 330
    python -m benchmarks.matchers --toy

Every matcher names partners for the same latents, with a score. On a language model a partner is
judged by R, what is left of the effect of ablating the latent once the partner is in its place
(docs/substitution.md); on the toy by whether both are the same known feature, 1 or -1. Latents are
taken from the highest score down: at coverage c stands the mean of R (clipped to [-1, 1]; 0 for a
latent without a partner) over the c best-scored, and the area below that curve is the matcher's
number. `R` is 1 - summed effects of replacing over summed effects of ablating, at full coverage.
Intervals are by a bootstrap over latents and pairs of runs, of each number and of its difference to
the exact assignment by decoder rows. A picture is written as SVG if asked for.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

import reseed
from reseed.events import Events
from reseed.evidence.rows import Encoded, Reader, feed, readers_of
from reseed.evidence.substitution.draw import Windows
from reseed.evidence.substitution.ratio import of_pairs
from reseed.evidence.substitution.stage import LENGTH
from reseed.evidence.substitution.swap import measure_pairs
from reseed.matching.codes import from_entries
from reseed.matching.entries import dense
from reseed.matching.match import Views, geometry_of
from reseed.runs import pairs_of
from reseed.seeds import generator
from reseed.subjects.inputs import Inputs

Floats = NDArray[np.float64]
DECODER = "decoder, exact"
DRAWS = 1_000


class Named(NamedTuple):
    """What a matcher says of each latent of A."""

    partner: NDArray[np.int64]
    """[F_a] latent of B, -1 for none"""
    score: Floats
    """[F_a] how sure it is"""


def matchers(a: Views, b: Views, codes: tuple[Any, Any], covariance: Floats) -> dict[str, Named]:
    """Partners by every way of matching; `codes` `[tokens, F]` of both on the same tokens."""
    size = len(a.decoder)
    out: dict[str, Named] = {}

    def named(match: Any) -> Named:
        partner, score = np.full(size, -1), np.full(size, -1.0)
        partner[match.pairs[:, 0]] = match.pairs[:, 1]
        score[match.pairs[:, 0]] = match.similarity
        return Named(partner, score)

    for view in ("decoder", "encoder", "mean", "minimum"):
        out[f"{view}, exact"] = named(reseed.match(a, b, view=view))
    out["whitened, exact"] = named(reseed.match(a, b, view="whitened", covariance=covariance))
    out["contribution, exact"] = named(reseed.match(a, b, view="contribution", codes=codes))
    out["correlation, exact"] = named(reseed.match_activations(*codes))
    least = reseed.reject_threshold(a, b)
    out["decoder, exact, reject"] = named(reseed.match(a, b, reject=least))
    S = dense(geometry_of(a, b))
    best, back = S.argmax(axis=1), S.argmax(axis=0)
    out["decoder, nearest"] = Named(best, S.max(axis=1))
    mutual = back[best] == np.arange(size)
    out["decoder, mutual nearest"] = Named(np.where(mutual, best, -1), S.max(axis=1))
    out["decoder, greedy"] = greedy(S)
    both = dense(geometry_of(a, b, view="mean"))
    out["mean, nearest"] = Named(both.argmax(axis=1), both.max(axis=1))
    return out


def greedy(S: Floats) -> Named:
    """The most similar pair that is left, again and again."""
    partner, score = np.full(len(S), -1), np.full(len(S), -1.0)
    taken = np.zeros(S.shape[1], bool)
    for flat in np.argsort(-S, axis=None):
        i, j = divmod(int(flat), S.shape[1])
        if partner[i] < 0 and not taken[j]:
            partner[i], score[i], taken[j] = j, S[i, j], True
    return Named(partner, score)


def curve(score: Floats, quality: Floats) -> Floats:
    """[n] mean quality of the 1, 2, ... best-scored; ties share their mean."""
    order = np.argsort(-score, kind="stable")
    _, tie = np.unique(-score[order], return_inverse=True)
    mean = np.bincount(tie, quality[order]) / np.bincount(tie)
    return np.cumsum(mean[tie]) / np.arange(1, len(score) + 1)


def ranking(judged: pl.DataFrame) -> pl.DataFrame:
    """A row for each matcher, best first.

    `judged` has matcher, unit (pair of runs), latent, score, quality and the effects ablate and
    replace; every matcher has the same latents. An interval is over draws of units and latents.
    """
    first = judged.filter(matcher=DECODER)
    units = first["unit"].to_numpy()
    numbers = generator("matchers-bootstrap")
    draws = [np.arange(len(first)), *(_resampled(units, numbers) for _ in range(DRAWS))]
    values: dict[str, Floats] = {}
    for (name,), rows in judged.group_by("matcher", maintain_order=True):
        score, quality, effects = (
            rows["score"].to_numpy(),
            rows["quality"].to_numpy(),
            rows.select("ablate", "replace").to_numpy(),
        )
        values[str(name)] = np.array(
            [
                (
                    curve(score[at], quality[at]).mean(),
                    quality[at].mean(),
                    1 - effects[at, 1].sum() / max(effects[at, 0].sum(), 1e-12),
                )
                for at in draws
            ]
        )
    table: list[dict[str, Any]] = []
    for name, found in values.items():
        row: dict[str, Any] = {"matcher": name}
        paired = judged.filter((pl.col("matcher") == name) & pl.col("paired"))
        row["paired"] = len(paired) / len(first)
        for column, which in (("area", 0), ("mean", 1), ("R", 2)):
            row[column] = _shown(found[:, which])
        row["area, to decoder"] = _shown(found[:, 0] - values[DECODER][:, 0], sign=True)
        row["at"] = found[0, 0]
        table.append(row)
    return pl.DataFrame(table).sort("at", descending=True).drop("at")


def _resampled(units: NDArray[Any], numbers: np.random.Generator) -> NDArray[np.int64]:
    """Latents of units drawn with replacement, drawn with replacement in each."""
    known = np.unique(units)
    chosen = numbers.choice(known, len(known)) if len(known) > 2 else known
    parts = [np.flatnonzero(units == unit) for unit in chosen]
    return np.concatenate([numbers.choice(part, len(part)) for part in parts])


def _shown(values: Floats, *, sign: bool = False) -> str:
    low, high = np.quantile(values[1:], [0.025, 0.975])
    form = "+.3f" if sign else ".3f"
    return f"{values[0]:{form}} ({low:{form}} to {high:{form}})"


# -- a language model ------------------------------------------------------------------------------


def on_study(path: str, label: str, latents: int, each: int) -> pl.DataFrame:
    """Judged by what partners do in the subject; runs of the first group with such a label."""
    study = reseed.Study.load(path)
    events = Events()
    inputs = Inputs(study, events)
    group = next(group for group in study.groups() if label in group.label)
    specs = {run.id: run.spec for run in study.runs if run.id in group.runs}
    readers = readers_of({run: spec.site for run, spec in specs.items()}, study.store)
    sites = next((spec.site, spec.target) for spec in specs.values())
    codes, covariance = _codes(readers, inputs, events)
    candidates: list[dict[str, Any]] = []
    for a, b in pairs_of(group.runs):
        views = [_views(readers[run].sae) for run in (a, b)]
        fired = np.diff(codes[a].tocsc().indptr)
        live = np.flatnonzero(fired >= 4)
        some = generator("matchers-latents", a, b).permutation(live)
        chosen = np.sort(some[: -(-latents // len(pairs_of(group.runs)))])
        for name, found in matchers(views[0], views[1], (codes[a], codes[b]), covariance).items():
            candidates += [
                {
                    "matcher": name,
                    "unit": f"{a}--{b}",
                    "kind": "",
                    "run_a": a,
                    "latent_a": int(i),
                    "run_b": b,
                    "latent_b": int(found.partner[i]),
                    "score": float(found.score[i]),
                }
                for i in chosen
            ]
    frame = pl.DataFrame(candidates)
    ends = ["run_a", "latent_a", "run_b", "latent_b"]
    pairs = frame.filter(pl.col("latent_b") >= 0).unique(ends, maintain_order=True)
    pairs = pairs.select("kind", *ends)
    print(f"{len(pairs)} distinct pairs of {latents} latents", flush=True)
    windows = Windows(inputs.text, inputs.split[1], LENGTH)
    windows.gather(readers, inputs.source, events)
    saes = {run: reader.sae for run, reader in readers.items()}
    effects = measure_pairs(inputs.spliced, sites, saes, pairs, windows, each, events)
    found = of_pairs(pairs, effects).select(*ends, "kl_ablate", "kl_replace", "r_kl")
    own = found.group_by(ends[:2]).agg(pl.col("kl_ablate").max().alias("own"))
    judged = frame.join(found, on=ends, how="left", maintain_order="left").join(
        own, on=ends[:2], how="left", maintain_order="left"
    )
    paired = pl.col("latent_b") >= 0
    return judged.select(
        "matcher",
        "unit",
        "latent_a",
        "latent_b",
        "score",
        paired.alias("paired"),
        pl.col("r_kl").clip(-1, 1).fill_null(0.0).alias("quality"),
        pl.col("own").fill_null(0.0).alias("ablate"),
        pl.when(paired).then("kl_replace").otherwise("own").fill_null(0.0).alias("replace"),
    )


def _views(sae: Any) -> Views:
    return Views(sae.W_enc.numpy(), sae.W_dec.numpy())


def _codes(
    readers: Mapping[str, Reader], inputs: Inputs, events: Events
) -> tuple[dict[str, Any], Floats]:
    """Codes of all runs on held-out rows, and the covariance of these."""
    parts: dict[str, list[Any]] = {run: [] for run in readers}
    rows: list[Floats] = []

    def add(chunk: Encoded) -> None:
        for run in readers:
            made = chunk.codes(run)
            parts[run].append((made.values.float().numpy(), made.latents.numpy()))
        rows.append(chunk.rows(next(iter(readers))).numpy().astype(np.float64))

    feed(add, readers, inputs.source, inputs.split[1], events, "codes")
    out: dict[str, Any] = {}
    for run, reader in readers.items():
        values, latents = (np.concatenate(part) for part in zip(*parts[run], strict=True))
        out[run] = from_entries(values, latents, reader.sae.latents, run)
    return out, np.cov(np.concatenate(rows).T)


# -- the toy ---------------------------------------------------------------------------------------

FOUND = 0.7
"""Cosine to a known feature from which on a latent is that feature."""


def on_toy(seeds: int = 4) -> pl.DataFrame:
    """Judged by whether both latents are the same known feature: 1, or -1 where they are not.

    Fewer latents than features and little training, so that not all of A's features are in B.
    """
    from reseed.spec.subject import ToySpec
    from reseed.subjects.toy import Toy

    toy = Toy(ToySpec(kind="toy", features=512, dimensions=48, active=6, zipf=0.7, noise=0.02))
    x = np.concatenate([toy.rows(block) for block in range(160)])
    saes = reseed.train(
        x[:32_768], latents=192, k=6, init_seeds=list(range(seeds)), tokens=400_000, lr=3e-3
    )
    held_out = x[32_768:]
    unit = toy.features / np.linalg.norm(toy.features, axis=1, keepdims=True)
    judged: list[dict[str, Any]] = []
    for m, n in combinations(range(seeds), 2):
        a, b = saes[m], saes[n]
        views = [_views(sae) for sae in (a, b)]
        codes = a.encode(held_out).numpy(), b.encode(held_out).numpy()
        features = [_features(view.decoder, unit) for view in views]
        known = np.flatnonzero(features[0] >= 0)
        for name, found in matchers(views[0], views[1], codes, np.cov(held_out.T)).items():
            right = features[1][found.partner] == features[0]
            right &= found.partner >= 0
            judged += [
                {
                    "matcher": name,
                    "unit": f"{m}--{n}",
                    "latent_a": int(i),
                    "latent_b": int(found.partner[i]),
                    "score": float(found.score[i]),
                    "paired": bool(found.partner[i] >= 0),
                    "quality": float(found.partner[i] >= 0) * (1.0 if right[i] else -1.0),
                    "ablate": 1.0,
                    "replace": 0.0 if right[i] else 1.0 + float(found.partner[i] >= 0),
                }
                for i in known
            ]
    return pl.DataFrame(judged)


def _features(decoder: Any, unit: Any) -> NDArray[np.int64]:
    """[F] the known feature of each latent, -1 for none."""
    S = decoder @ unit.T / np.linalg.norm(decoder, axis=1, keepdims=True)
    return np.where(S.max(axis=1) >= FOUND, S.argmax(axis=1), -1)


# -- what is shown ---------------------------------------------------------------------------------

COLOURS = ("#1b6ca8", "#c1440e", "#2e7d32", "#7b3fa0", "#a67c00", "#555555", "#00838f", "#ad1457")


LOWEST = -0.5
"""Quality at the foot of the picture."""


def _height(quality: Any) -> Any:
    return 300 - 260 * (quality - LOWEST) / (1 - LOWEST)


def picture(judged: pl.DataFrame, names: Sequence[str]) -> str:
    """Quality against coverage of some matchers, as SVG."""
    lines: list[str] = []
    for tick in (-0.5, 0, 0.5, 1):
        y = _height(tick)
        lines.append(f'<path d="M60 {y:.0f}H480" stroke="#ddd"/>')
        lines.append(f'<text x="52" y="{y + 4:.0f}" text-anchor="end">{tick:g}</text>')
    for tick in (0, 0.25, 0.5, 0.75, 1):
        x = 60 + 420 * tick
        lines.append(f'<text x="{x:.0f}" y="320" text-anchor="middle">{tick:.0%}</text>')
    for place, name in enumerate(names):
        rows = judged.filter(matcher=name)
        values = curve(rows["score"].to_numpy(), rows["quality"].to_numpy())
        xs = 60 + 420 * np.arange(1, len(values) + 1) / len(values)
        ys = _height(values.clip(LOWEST, 1))
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
        colour = COLOURS[place % len(COLOURS)]
        stroke = f'fill="none" stroke="{colour}" stroke-width="2"'
        lines.append(f'<polyline points="{points}" {stroke}/>')
        lines.append(f'<text x="490" y="{60 + 20 * place}" fill="{colour}">{name}</text>')
    axes = '<path d="M60 40V300H480" fill="none" stroke="#888"/>'
    title = '<text x="270" y="340" text-anchor="middle">latents kept, surest first</text>'
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 700 350" font-family="sans-serif" '
        f'font-size="12">{axes}{title}{"".join(lines)}</svg>\n'
    )


def main() -> None:
    """Print the ranking as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", nargs="?")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--group", default="", help="part of the label of a group of the study")
    parser.add_argument("--latents", type=int, default=60)
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--keep", type=Path, help="Parquet file for what was judged")
    asked = parser.parse_args()
    if asked.toy == (asked.study is not None):
        parser.error("give a study, or --toy")
    judged = (
        on_toy() if asked.toy else on_study(asked.study, asked.group, asked.latents, asked.windows)
    )
    if asked.keep is not None:
        judged.write_parquet(asked.keep)
    table = ranking(judged)
    print("| " + " | ".join(table.columns) + " |\n|" + "---|" * len(table.columns))
    for row in table.iter_rows():
        print("| " + " | ".join(f"{v:.0%}" if isinstance(v, float) else v for v in row) + " |")
    if asked.svg is not None:
        shown = [DECODER, *(name for name in table["matcher"] if name != DECODER)][: len(COLOURS)]
        asked.svg.write_text(picture(judged, shown), "utf-8")


if __name__ == "__main__":
    main()
