"""The sampled windows as tables: examples, the text of their windows, and counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import polars as pl

from reseed.evidence.rows import Integers
from reseed.evidence.sampler import KINDS, WindowSampler
from reseed.evidence.windows import SPLITS, Entries, cut
from reseed.spec.analysis import EvidenceSpec
from reseed.subjects.language.blocks import TextPositions

QUANTILES = 10
"""Ranks of activation that firing examples are given: deciles."""

EXAMPLES = "examples.parquet"
WINDOWS = "example_windows.parquet"
COUNTS = "example_counts.parquet"

_BLOCKS = 256
_ORDER = ["latent", "split", "kind", "order"]

EXAMPLE_SCHEMA = {
    "latent": pl.Int64,
    "split": pl.String,
    "kind": pl.String,
    "quantile": pl.Int64,
    "strength": pl.Float32,
    "window": pl.Int64,
    "position": pl.Int64,
    "neighbour": pl.Int64,
    "activations": pl.List(pl.Float32),
}

WINDOW_SCHEMA = {
    "window": pl.Int64,
    "split": pl.String,
    "document": pl.Int64,
    "block": pl.Int64,
    "first": pl.Int64,
    "tokens": pl.List(pl.String),
}

JOINED_SCHEMA = {
    **{name: EXAMPLE_SCHEMA[name] for name in ("latent", "split", "kind", "quantile", "strength")},
    "document": pl.Int64,
    "block": pl.Int64,
    "position": pl.Int64,
    "tokens": pl.List(pl.String),
    "activations": pl.List(pl.Float32),
}
"""Of examples with their text: what `reseed.interpretation.examples` reads."""

COUNT_SCHEMA = {
    "latent": pl.Int64,
    "split": pl.String,
    "windows": pl.Int64,
    "firing": pl.Int64,
    "silent": pl.Int64,
}


class ExampleTables(NamedTuple):
    """What is kept of one run."""

    examples: pl.DataFrame
    """latent, split, kind, quantile, strength, window, position, neighbour, activations; a latent
    that is silent has an empty list of activations"""
    windows: pl.DataFrame
    """window, split, document, block, first (position of the first token), tokens: once each"""
    counts: pl.DataFrame
    """latent, split, windows (there are), firing (in which it fires), silent"""

    def joined(self, latents: Iterable[int] | None = None) -> pl.DataFrame:
        """Examples (of these latents) with the text of their windows, in `JOINED_SCHEMA`."""
        examples = self.examples
        if latents is not None:
            examples = examples.filter(pl.col("latent").is_in(list(latents)))
        silent = pl.lit(0.0, pl.Float32).repeat_by(pl.col("tokens").list.len())
        fires = pl.col("kind") == KINDS[0]
        return (
            examples.join(
                self.windows.drop("split"), on="window", how="left", maintain_order="left"
            )
            .with_columns(pl.when(fires).then("activations").otherwise(silent).alias("activations"))
            .select(list(JOINED_SCHEMA))
        )

    def files(self) -> dict[str, pl.DataFrame]:
        """By the names under which they are kept."""
        return {EXAMPLES: self.examples, WINDOWS: self.windows, COUNTS: self.counts}


def tables_of(sampler: WindowSampler | None, text: TextPositions | None) -> ExampleTables:
    """The tables of a run; without rows where there is no text or nothing was asked for."""
    if sampler is None or text is None:
        schemas = EXAMPLE_SCHEMA, WINDOW_SCHEMA, COUNT_SCHEMA
        return ExampleTables(*(pl.DataFrame(schema=schema) for schema in schemas))
    kept = sampler.entries()
    silent = [_frame(kept[kind], kind, sampler.base) for kind in KINDS[1:]]
    rows = pl.concat([_firing(kept, sampler.base), *silent])
    windows = _windows(rows["window"], text, sampler.spec)
    # where it is silent a window was chosen for no token: its first stands for it
    position = pl.coalesce(pl.col("position"), pl.col("first"))
    length = pl.col("tokens").list.len().alias("length")
    examples = (
        rows.join(windows.select("window", "first", length), on="window", how="left")
        .with_columns(position.alias("position"), pl.col("activations").list.head(pl.col("length")))
        .sort(_ORDER, maintain_order=True)
        .with_columns(_named("split", SPLITS), _named("kind", KINDS))
        .select(list(EXAMPLE_SCHEMA))
        .cast(EXAMPLE_SCHEMA)  # pyright: ignore[reportArgumentType]
    )
    return ExampleTables(examples, windows, _counts(sampler))


def _named(column: str, names: tuple[str, ...]) -> pl.Expr:
    return pl.col(column).replace_strict(dict(enumerate(names)), return_dtype=pl.String)


def _frame(entries: Entries, kind: str, base: int) -> pl.DataFrame:
    """Entries as they are kept, sorted by group and key."""
    width = entries["activations"].shape[1]
    fires = kind == "firing"
    notes = pl.Series("note", entries["note"].astype(np.int64))
    nothing = pl.Series([None], dtype=pl.Int64).new_from_index(0, len(entries))
    strength = entries["activations"].max(axis=1) if fires else np.zeros(len(entries), np.float32)
    flat = pl.Series(entries["activations"].reshape(len(entries), width))
    silent = pl.Series([[]], dtype=pl.List(pl.Float32))
    lists = flat.arr.to_list() if fires else silent.new_from_index(0, len(entries))
    return pl.DataFrame(
        {
            "latent": entries["group"] // len(SPLITS) + base,
            "split": entries["group"] % len(SPLITS),
            "kind": np.full(len(entries), KINDS.index(kind)),
            "order": np.arange(len(entries)),
            "quantile": nothing,
            "strength": strength,
            "window": entries["window"],
            "position": notes if fires else nothing,
            "neighbour": notes if kind == "neighbour" else nothing,
            "activations": lists,
        }
    )


def _firing(kept: Mapping[str, Entries], base: int) -> pl.DataFrame:
    """The sample and the strongest, each window once, strongest first, with its quantile."""
    sample, strongest = (
        _frame(kept[part], "firing", base).with_columns(pl.lit(drawn).alias("drawn"))
        for part, drawn in (("firing", 1), ("strongest", 0))
    )
    group = ["latent", "split"]
    drawn = pl.col("drawn").cast(pl.Int64)
    # by rank among the sample of a group
    decile = (drawn.cum_sum() - drawn) * QUANTILES // drawn.sum().clip(1)
    return (
        pl.concat([sample, strongest])
        .sort(*group, "strength", "window", pl.col("drawn"), descending=[False] * 4 + [True])
        .filter(
            pl.any_horizontal(
                pl.col(*group, "window") != pl.col(*group, "window").shift()
            ).fill_null(True)
        )
        .with_columns(
            decile.clip(upper_bound=QUANTILES - 1).over(group).alias("quantile"),
            (-pl.int_range(pl.len())).alias("order"),
        )
        .drop("drawn")
    )


def _windows(wanted: pl.Series, text: TextPositions, spec: EvidenceSpec) -> pl.DataFrame:
    """The text of each window that an example is in."""
    ids = wanted.unique().sort().to_numpy()
    blocks = np.unique(ids // text.length)
    cuts = range(_BLOCKS, len(blocks), _BLOCKS)
    parts = [_shown(some, ids, text, spec) for some in np.split(blocks, cuts) if len(some)]
    return pl.concat([pl.DataFrame(schema=WINDOW_SCHEMA), *parts])


def _shown(
    blocks: Integers, ids: Integers, text: TextPositions, spec: EvidenceSpec
) -> pl.DataFrame:
    """Those of the windows of these blocks that are among `ids`."""
    there = cut(text, blocks, spec.window, spec.seed)
    chosen = np.flatnonzero(np.isin(there.id, ids))
    block, first, last = there.block[chosen], there.first[chosen], there.last[chosen]
    places = zip(block.tolist(), first.tolist(), last.tolist(), strict=True)
    return pl.DataFrame(
        {
            "window": there.id[chosen],
            "split": [SPLITS[split] for split in there.split[chosen].tolist()],
            "document": there.document[chosen],
            "block": block,
            "first": first,
            "tokens": [text.tokens(*place) for place in places],
        },
        schema=WINDOW_SCHEMA,
    )


def _counts(sampler: WindowSampler) -> pl.DataFrame:
    windows = np.tile(sampler.windows, sampler.latents)
    return pl.DataFrame(
        {
            "latent": np.repeat(np.arange(sampler.latents), len(SPLITS)) + sampler.base,
            "split": list(SPLITS) * sampler.latents,
            "windows": windows,
            "firing": sampler.firing,
            "silent": windows - sampler.firing,
        },
        schema=COUNT_SCHEMA,
    )
