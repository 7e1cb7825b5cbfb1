"""A finished study of any size without training: real files and schemas, made-up numbers.

For timings and browser tests of the explorer. Half of the latents of a run belong to families that
all runs have (latent n of each), the others to none.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from reseed.formats.own import contents
from reseed.records import SAEArrays
from reseed.runs import (
    HELD_OUT_TEXT,
    cofiring_name,
    evidence_name,
    explanations_name,
    logits_name,
    pair_name,
    run_name,
    scores_name,
    stability_name,
)
from reseed.study import SUBJECT, Study

WORDS = ("bank", "city", "music", "of", "the", "in", "a", "year", "born", "was", "album", "team")


def write_study(
    toml: Path,
    *,
    latents: int = 64,
    runs: int = 3,
    dimensions: int = 8,
    contexts: int = 3,
    window: int = 9,
    all_pairs: bool = True,
    word: str = "river",
    stability: bool = True,
) -> Study:
    """Write `toml` and the folder of its results beside it.

    Args:
        toml: to write.
        latents: of each run, F.
        runs: init seeds.
        dimensions: D.
        contexts: of each latent.
        window: tokens of each context, an odd number.
        all_pairs: whether there are tables of all pairs; else of the first run with the others.
        word: stands in the first context of each latent, in explanations and in the study's label.
        stability: False leaves the study as it is while it is being computed.
    """
    toml.parent.mkdir(parents=True, exist_ok=True)
    toml.write_text(
        '[subject]\nkind = "toy"\nfeatures = 32\ndimensions = '
        f"{dimensions}\nactive = 2.0\nblock = 64\n"
        '[activations]\nsites = ["toy"]\ntokens = 1280\n'
        f"[[sae]]\nlatents = {latents}\nk = 2\nlr = 3e-3\n"
        f"[seeds]\ninit = {list(range(runs))}\n[training]\ntokens = 2560\nbatch = 64\n"
    )
    study = Study.load(toml)
    rng = np.random.default_rng(0)
    specs = study.spec.runs(["toy"])
    store, ids, group = study.store, [spec.id for spec in specs], specs[0].group
    store.make(SUBJECT, None, lambda: {"subject.json": {"sites": ["toy"], "patterns": ["toy"]}})
    shared = rng.standard_normal((latents, dimensions))
    for spec in specs:
        noise = np.where(np.arange(latents) % 2 == 0, 0.2, 9.0)[:, None]
        rows = shared + noise * rng.standard_normal(shared.shape)
        sae = _sae(rows / np.linalg.norm(rows, axis=1, keepdims=True))
        facts = {"spec.json": spec.model_dump(mode="json")}
        store.make(run_name(spec), None, lambda sae=sae, facts=facts: contents(sae) | facts)
    table = _latents(rng, study, ids, latents)
    texts = _contexts(rng, latents, contexts, window, word)
    store.make(HELD_OUT_TEXT, None, lambda: _text(texts, window))
    lens = _logits(rng, latents, word)
    firing = ("latent", "fired", pl.col("firing_rate").alias("rate"), "mean_act", "max_act")
    for run in ids:
        rows = table.filter(run=run).select(*firing)
        live = rows.filter(pl.col("fired") > 0).select(
            pl.col("latent").cast(pl.UInt32), pl.lit(-3, pl.Int8).alias("first"),
            pl.concat_list(pl.col("fired") // 2, pl.col("fired") // 3, pl.col("fired") // 6)
            .cast(pl.List(pl.UInt32)).alias("counts"),
        )  # fmt: skip
        files = {"firing.parquet": rows, "contexts.parquet": texts, "histogram.parquet": live}
        store.make(evidence_name(run), None, lambda files=files: files)
        store.make(logits_name(run), None, lambda: lens)
    if not stability:
        return study
    chosen = combinations(ids, 2) if all_pairs else ((ids[0], other) for other in ids[1:])
    for pair in chosen:
        _pair(store, pair, _match(rng, latents), specs[0].training.snapshot_steps[-1])
    chance = pl.DataFrame(
        [
            {
                "kind": "N2 covariance-matched",
                "view": view,
                "bin": 0.3 + 0.02 * at,
                "latents": 10.0 - at,
            }
            for view in ("decoder", "encoder")
            for at in range(10)
        ]
    )
    store.make(
        stability_name(group), None, lambda: {"latents.parquet": table, "cosines.parquet": chance}
    )
    _explain(store, group, table, word)
    return study


def _sae(rows: np.ndarray[Any, Any]) -> SAEArrays:
    W, F = rows.astype(np.float32), len(rows)
    zeros = np.zeros(F, np.float32)
    about = {"site": "toy"}
    return SAEArrays(
        W_enc=W, b_enc=zeros, W_dec=W, b_dec=np.zeros(W.shape[1], np.float32),
        activation={"kind": "topk", "k": 2}, about=about,
    )  # fmt: skip


def _latents(rng: np.random.Generator, study: Study, ids: list[str], F: int) -> pl.DataFrame:
    M, n = len(ids), len(ids) * F
    latent = np.tile(np.arange(F), M)
    even = latent % 2 == 0
    others = max(M - 1, 1)
    found = np.where(even, rng.integers(others // 2 + 1, others + 1, n), 0)
    cos = np.clip(np.where(even, 0.9, 0.4) + 0.05 * rng.standard_normal(n), -1, 1)
    alive = latent % 16 != 15
    rate = np.where(alive, 10.0 ** rng.uniform(-4.5, -0.5, n), 0.0)
    mean = (found + 0.5) / (others + 1)
    lists = np.repeat(cos, M - 1).reshape(n, M - 1)
    run = np.repeat(np.array(ids), F)
    column = pl.Series("list", lists.astype(np.float64)).arr.to_list()
    other_runs = {run: [other for other in ids if other != run] for run in ids}
    frame = pl.DataFrame(
        {
            "run": run, "latent": latent, "fired": (rate * 1e6).astype(np.int64),
            "firing_rate": rate, "mean_act": rng.gamma(2.0, 0.4, n),
            "max_act": rng.gamma(4.0, 1.0, n),
            "alive": alive, "dense": rate > 0.2, "rate_bin": rng.integers(0, 5, n),
            "enc_dec_cos": rng.uniform(0.5, 1, n), "init_cos": rng.uniform(0, 0.6, n),
            "own_max_cos": rng.uniform(0.2, 0.6, n), "n_runs": M, "n_seeds": M, "n_matched": found,
            "recurrence": found / others, "recurrence_mean": mean,
            "recurrence_lo": np.clip(mean - 0.2, 0, 1), "recurrence_hi": np.clip(mean + 0.2, 0, 1),
            "match_cos": column, "best_dec_cos": column, "best_enc_cos": column, "act_corr": column,
            "contribution": column, "max_decoder_cos": cos, "max_encoder_cos": cos - 0.02,
            "p_null": np.where(even, 1e-6, 0.5),
            "q_fdr": np.where(even, 1e-5, 0.7) * rng.uniform(0.5, 1, n),
            "n_matched_fdr": found, "null_id": "N2 live",
            "family": np.where(even, latent // 2, -1), "family_size": np.where(even, M, -1),
            "verdict": np.where(~alive, "dead", np.where(even, "feature_stable", "unstable")),
            "explained_by_3": rng.uniform(0.2, 0.7, n), "subspace_overlap": rng.uniform(0, 1, n),
            "subspace_p": rng.uniform(0, 1, n), "init_seed": 0, "data_seed": 0,
            "sae_sha256": "0" * 64, "run_sha256": "0" * 64, "metric_version": 2, "run_id": run,
        }
    )  # fmt: skip
    named = pl.col("run").replace_strict(
        list(other_runs), list(other_runs.values()), return_dtype=pl.List(pl.String)
    )
    nothing = [
        pl.when(pl.col(name) >= 0).then(pl.col(name)).alias(name)
        for name in ("family", "family_size")
    ]
    return frame.with_columns(named.alias("other_runs"), *nothing)


def _contexts(rng: np.random.Generator, F: int, each: int, window: int, word: str) -> pl.DataFrame:
    n = F * each
    latent = np.repeat(np.arange(F), each)
    vocabulary = np.array([" " + name for name in WORDS])
    tokens = vocabulary[rng.integers(0, len(vocabulary), (n, window))].astype(object)
    tokens[::each, window // 2] = " " + word
    tokens[::each, 0] = [f" n{at}" for at in range(F)]
    act = np.zeros((n, window), np.float32)
    act[:, window // 2] = np.tile(np.linspace(3, 1, each), F)
    act[:, window // 2 + 1] = 0.7
    place = np.arange(n)
    return pl.DataFrame(
        {
            "latent": latent, "activation": act.max(1), "block": place // _IN_A_BLOCK,
            "position": place % _IN_A_BLOCK * window + window // 2,
            "document": place, "tokens": pl.Series(tokens.tolist(), dtype=pl.List(pl.String)),
            "activations": pl.Series(act).arr.to_list(),
        }
    )  # fmt: skip


_IN_A_BLOCK = 8


def _text(contexts: pl.DataFrame, window: int) -> dict[str, Any]:
    """The held-out text: all contexts in their order, some in each block."""
    table = contexts.group_by("block", maintain_order=True).agg(pl.col("tokens").explode())
    return {"text.parquet": table, "about.json": {"before": window // 2, "after": window // 2}}


def _logits(rng: np.random.Generator, F: int, word: str) -> dict[str, Any]:
    vocabulary = np.array([" " + name for name in WORDS])
    named = vocabulary[rng.integers(0, len(WORDS), (F, 10))].astype(object)
    named[:, 0] = " " + word
    tokens = pl.Series(named.tolist(), dtype=pl.List(pl.String))
    values = pl.Series(np.tile(np.linspace(4, 1, 10, dtype=np.float32), (F, 1))).arr.to_list()
    counts = pl.Series(np.tile(np.arange(40, dtype=np.uint32), (F, 1))).arr.to_list()
    table = pl.DataFrame(
        {
            "latent": np.arange(F, dtype=np.uint32), "top": tokens, "top_logits": values,
            "bottom": tokens.list.reverse(), "bottom_logits": values.list.eval(-pl.element()),
            "counts": counts,
        }
    )  # fmt: skip
    return {"logits.parquet": table, "about.json": {"norm": "norm", "why": None}}


def _match(rng: np.random.Generator, F: int) -> pl.DataFrame:
    number = np.tile(np.arange(F), 2)
    cos = np.clip(np.where(number % 2 == 0, 0.9, 0.4) + 0.05 * rng.standard_normal(2 * F), -1, 1)
    second = np.clip(cos - 0.05 * rng.uniform(0, 1, 2 * F), -1, 1)
    views = {}
    for view, other in (("decoder", "encoder"), ("encoder", "decoder")):
        views |= {
            f"{view}_match": number, f"{view}_cos": cos, f"{other}_cos_at_{view}": second,
            f"{view}_nearest": number, f"{view}_max_cos": cos, f"{view}_mutual": True,
        }  # fmt: skip
    side = pl.Series(np.repeat(["a", "b"], F), dtype=pl.Categorical)
    return pl.DataFrame({"side": side, "latent": number, **views})


def _pair(store: Any, pair: tuple[str, str], match: pl.DataFrame, last: int) -> None:
    files = {f"{last:08d}.parquet": match, "certificates.json": {str(last): {}}}
    store.make(pair_name(pair), None, lambda: files)
    side = match.filter(pl.col("side") == "a")
    fire = side.select(
        pl.col("latent").alias("latent_a"), pl.col("decoder_match").alias("latent_b"),
        pl.col("decoder_cos").alias("act_corr"), pl.col("decoder_cos").alias("act_jaccard"),
        pl.lit(0.01).alias("null_corr"), pl.lit(0.02).alias("null_jaccard"),
    )  # fmt: skip
    store.make(cofiring_name(pair), None, lambda: {"matched.parquet": fire})


def _explain(store: Any, group: str, table: pl.DataFrame, word: str) -> None:
    rows = table.filter(pl.col("latent") < 200).select("run", "latent")
    explained = rows.with_columns(
        pl.format("fires on {} number {}", pl.lit(word), "latent").alias("explanation"),
        pl.lit("reproducible").alias("kind"),
    )
    scores = rows.with_columns(
        pl.lit("detection").alias("scorer"), pl.lit(0.8).alias("value"),
        pl.lit(None, pl.String).alias("control"),
    )  # fmt: skip
    store.make(explanations_name(group), None, lambda: {"explanations.parquet": explained})
    store.make(scores_name(group), None, lambda: {"scores.parquet": scores})
