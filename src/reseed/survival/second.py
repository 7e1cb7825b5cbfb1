"""Second opinions on what survives: SAEs trained on the variant itself, and crosscoders of both.

The frozen SAEs can only see what the whole had. So SAEs of the same settings and seeds are trained
on the variant's rows, and matched one to one with those of the whole by activations on the same
held-out tokens: with the same seed (the subject differs), with another seed (both differ), beside
the ceiling, two seeds of the whole (the seed differs). And crosscoders read both versions side by
side: a latent whose decoder row lies in one version only is *exclusive*, and an exclusive latent
that another seed does not find is no finding. Beside the plain crosscoder there are kinds that
are made to find such latents, by a mask or by what they learn; see `arms_of`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.errors import SpecError
from reseed.events import Events, Stop
from reseed.evidence.rows import Encoded, KeptCodes, Reader, device_of, feed
from reseed.formats import own
from reseed.matching.activations import match_activations
from reseed.matching.match import match
from reseed.runs import Failed, run_name, run_state
from reseed.sae import Tensor, torch
from reseed.sae.architectures.crosscoder import CrosscoderSpec, relative_norms
from reseed.sae.model import from_arrays
from reseed.seeds import digest
from reseed.spec.training import RunSpec
from reseed.store import Store
from reseed.study import Study
from reseed.subjects.inputs import Inputs
from reseed.subjects.shards import ShardSource, harvest, harvested
from reseed.subjects.source import BlockSource, DerivedSource, Stream
from reseed.subjects.variants import open_variant
from reseed.survival.summary import Version, arms_of, survival_name
from reseed.survival.surviving import SURVIVES, OverRuns
from reseed.training.scale import BatchStream, means, measured
from reseed.training.stage import train_missing

_VARIANT = "variant"

COUNTERPARTS = ("same_seed", "other_seed", "ceiling")


def both_versions(whole: BlockSource, variant: BlockSource, site: str) -> BlockSource:
    """The rows of a site in both: `site` of the whole, `variant`, and both side by side."""

    def change(rows: dict[str, Tensor], blocks: list[int]) -> dict[str, Tensor]:
        x, y = rows[site], variant.read(blocks)[site]
        return {site: x, _VARIANT: y, _joined(site): torch.cat([x, y], dim=1)}

    size = whole.sites[site]
    return DerivedSource(whole, change, {site: size, _VARIANT: size, _joined(site): 2 * size})


def _joined(site: str) -> str:
    return f"{site}+{_VARIANT}"


def _check(spec: RunSpec) -> None:
    """Refuse what cannot be trained again on one site."""
    if spec.target != spec.site or spec.sae.end_to_end is not None:
        raise SpecError(
            f"{spec.sae.label} writes another site or trains through the subject; --retrain trains "
            "on the rows of one site. Leave it out, or name another group with --group"
        )


def second_opinion(
    study: Study,
    inputs: Inputs,
    version: Version,
    specs: Mapping[str, RunSpec],
    whole: Mapping[str, Reader],
    latents: pl.DataFrame,
    over: OverRuns,
    arms: Sequence[str],
    events: Events,
    stop: Stop,
) -> dict[str, Any]:
    """The files of the piece: `counterparts.parquet`, `crosscoder.parquet`, `second.json`.

    The variant's rows and what is trained on them lie in a store of their own inside the study's.

    Args:
        study: whose SAEs these are.
        inputs: of the whole.
        version: what is trained on.
        specs: run to its spec, of one group.
        whole: run to its SAE.
        latents: run, latent, kind of those that fire in the whole.
        over: of these runs.
        arms: kinds of crosscoders to train beside the plain one.
        events: progress.
        stop: asked between steps; trainings continue where they were.

    Raises:
        SpecError: if SAEs of this kind cannot be trained on one site's rows.
    """
    first = next(iter(specs.values()))
    _check(first)
    blocks = inputs.split
    store = Store(study.folder / survival_name(version.label, "_again"))
    made_from = digest([version.made_from, study.spec.data])
    if not harvested(store, made_from):
        variant = open_variant(study, version.variant, events, inputs.device)
        spec = study.spec.activations
        harvest(variant, len(variant.rows), spec, store, made_from, events, device=inputs.device)
    source = both_versions(inputs.source, ShardSource(store), first.site)
    again = _Again(store, source, blocks, made_from, study, inputs.device)
    of_variant = {run: again.on_variant(spec) for run, spec in specs.items()}
    crossed = {
        arm: [again.crosscoder(spec, arm) for spec in specs.values()] for arm in ("plain", *arms)
    }
    every = [run for runs in crossed.values() for run in runs]
    again.train([*of_variant.values(), *every], events, stop)
    kept, readers = again.held_out(whole, of_variant, every, events)
    table = _counterparts(kept, list(specs), latents)
    lie = {arm: _exclusive(kept, readers, runs) for arm, runs in crossed.items()}
    exclusive = pl.concat(rows.with_columns(arm=pl.lit(arm)) for arm, (rows, _) in lie.items())
    parts = [("all", table), *_by_kind(table)]
    about = {
        "survives": SURVIVES,
        "held_out_blocks": kept.blocks,
        "counterparts": {
            name: {kind: over.share(rows, pl.col(name) >= SURVIVES) for kind, rows in parts}
            for name in COUNTERPARTS
            if table[name].null_count() < len(table)
        },
        "crosscoder": lie["plain"][1] | {"arms": {arm: lie[arm][1] for arm in arms}},
    }
    tables = {"counterparts.parquet": table, "crosscoder.parquet": exclusive}
    return {**tables, "second.json": about}


class _Again:
    """Trains on the rows of both versions, and reads them."""

    def __init__(
        self,
        store: Store,
        source: BlockSource,
        blocks: tuple[NDArray[np.int64], NDArray[np.int64]],
        data: str,
        study: Study,
        device: str,
    ) -> None:
        self._store, self._source, self._blocks = store, source, blocks
        self._data, self._mix = data, study.spec.activations.mix_blocks
        self._device = device

    def on_variant(self, spec: RunSpec) -> RunSpec:
        """The same training on the variant's rows."""
        return spec.model_copy(update={"data": self._data, "site": _VARIANT})

    def crosscoder(self, spec: RunSpec, arm: str) -> RunSpec:
        """A crosscoder of both versions, as wide, with the same seeds and tokens."""
        size, latents = self._source.sites[spec.site], spec.sae.latents
        k = getattr(spec.sae, "k", None)
        sae = CrosscoderSpec(
            latents=latents, parts=(size, size), k=k if isinstance(k, int) else 32,
            **arms_of(latents, spec.training.tokens).get(arm, {}),
        )  # fmt: skip
        change = {"data": self._data, "site": _joined(spec.site), "sae": sae, "ensemble": ()}
        return spec.model_copy(update=change)

    def train(self, runs: Sequence[RunSpec], events: Events, stop: Stop) -> None:
        """Train those that are missing."""
        training, held = self._blocks[0], runs[0].training
        sites = sorted({run.site for run in runs})
        scales = measured(self._source, training, sites, events) if held.scale else {}
        centred = [run.site for run in runs if run.sae.center]
        centres = means(self._source, training, centred, events) if centred else {}

        def stream_of(data_seed: int) -> BatchStream:
            stream = Stream(
                self._source, training, data_seed=data_seed, batch=held.batch, mix=self._mix
            )
            return BatchStream(stream, scales, centres)

        train_missing(runs, stream_of, self._store, events, stop, self._device)
        for run in runs:
            state = run_state(run, self._store)
            if isinstance(state, Failed):
                raise SpecError(f"{run.id} on the variant stopped at step {state.step}: "
                                f"{state.reason}")  # fmt: skip

    def held_out(
        self, whole: Mapping[str, Reader], of_variant: Mapping[str, RunSpec],
        crossed: Sequence[RunSpec], events: Events,
    ) -> tuple[KeptCodes, dict[str, Reader]]:  # fmt: skip
        """Codes of all of them on held-out rows of both versions."""
        there = device_of(self._device)

        def reader(run: RunSpec) -> Reader:
            sae = from_arrays(own.read_piece(self._store, run_name(run)))
            return Reader(sae, run.site, there)

        readers = dict(whole)
        readers |= {_again(run): reader(spec) for run, spec in of_variant.items()}
        readers |= {spec.id: reader(spec) for spec in crossed}
        kept = KeptCodes(list(readers))

        def add(chunk: Encoded) -> None:
            kept.take(chunk)

        feed(add, readers, self._source, self._blocks[1], events, "second opinion")
        return kept, readers


def _counterparts(kept: KeptCodes, runs: Sequence[str], latents: pl.DataFrame) -> pl.DataFrame:
    """R of each latent with its counterpart; 0 where it has none, null with one run."""
    frames: list[pl.DataFrame] = []
    for at, run in enumerate(runs):
        other = runs[(at + 1) % len(runs)]
        rows = latents.filter(run=run)
        pairs = {"same_seed": _again(run), "other_seed": _again(other), "ceiling": other}
        for name, partner in pairs.items():
            if name != "same_seed" and other == run:
                rows = rows.with_columns(pl.lit(None, dtype=pl.Float64).alias(name))
                continue
            chunks = ((c[run], c[partner]) for c in kept.of([run, partner]))
            found = match_activations(chunks)
            partners = pl.DataFrame({"latent": found.pairs[:, 0], name: found.similarity})
            rows = rows.join(partners, on="latent", how="left", maintain_order="left")
            rows = rows.with_columns(pl.col(name).fill_null(0.0))
        frames.append(rows)
    return pl.concat(frames)


def _exclusive(
    kept: KeptCodes, readers: Mapping[str, Reader], crossed: Sequence[RunSpec]
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Live latents of each crosscoder by where they are, and whether other seeds have them."""
    rows: dict[str, NDArray[np.float32]] = {}
    frames: dict[str, pl.DataFrame] = {}
    for run in crossed:
        sae = readers[run.id].sae
        assert isinstance(run.sae, CrosscoderSpec)
        W_dec = sae.W_dec.numpy()
        norms = relative_norms(W_dec, run.sae.parts, sae.about.get("scales"))
        codes = [chunk[run.id] for chunk in kept.of([run.id])]
        fired = np.sum([np.bincount(c.indices, minlength=len(W_dec)) for c in codes], axis=0)
        live = norms.with_columns(pl.Series("fired", fired), pl.lit(run.id).alias("run"))
        frames[run.id] = live.filter(pl.col("fired") > 0)
        rows[run.id] = W_dec[frames[run.id]["latent"].to_numpy()]
    found = {run.id: np.zeros(len(rows[run.id])) for run in crossed}
    alive = [run for run in rows if len(rows[run])]
    for a, b in combinations(alive, 2):
        pairs = match(rows[a], rows[b])
        near = pairs.similarity >= SURVIVES
        found[a][pairs.pairs[near, 0]] += 1
        found[b][pairs.pairs[near, 1]] += 1
    # of one crosscoder nobody knows which latents another would find
    others = len(crossed) - 1 or np.nan
    table = pl.concat(
        frame.with_columns(pl.Series("recurrence", found[run] / others).fill_nan(None))
        for run, frame in frames.items()
    )
    label = pl.when(kind_is("exclusive") & (pl.col("part") == 0)).then(pl.lit("only whole"))
    label = label.when(kind_is("exclusive")).then(pl.lit("only variant"))
    table = table.with_columns(label.otherwise(pl.lit("both")).alias("where"))
    told = table.group_by("where", maintain_order=True).agg(
        pl.len().alias("latents"), pl.col("recurrence").mean()
    )
    by_place = {r["where"]: {k: r[k] for k in ("latents", "recurrence")}
                for r in told.iter_rows(named=True)}  # fmt: skip
    return table, {"seeds": len(crossed), "where": by_place}


def kind_is(kind: str) -> pl.Expr:
    """Whether `relative_norms` calls a latent so."""
    return pl.col("kind") == kind


def _again(run: str) -> str:
    return f"{run} on the variant"


def _by_kind(table: pl.DataFrame) -> list[tuple[str, pl.DataFrame]]:
    kinds = table["kind"].drop_nulls().unique().sort().to_list()
    return [(kind, table.filter(kind=kind)) for kind in kinds]
