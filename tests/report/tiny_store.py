"""A study folder of a few kilobytes with the real schemas and made-up numbers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import polars as pl

from reseed.store import Store, json_bytes, parquet_bytes

HOSTILE = "</script><img src=x onerror=alert(1)>"
LATENTS = 8
MEASURES = ("shared", "both", "equal", "decoder_only", "max_cos_both")
CONTEXTS = {
    "latent": pl.Int64,
    "activation": pl.Float32,
    "block": pl.Int64,
    "position": pl.Int64,
    "document": pl.Int64,
    "tokens": pl.List(pl.String),
    "activations": pl.List(pl.Float32),
}


def write_study(
    root: Path,
    *,
    groups: int = 1,
    runs: int = 3,
    texts: bool = True,
    null: bool = True,
    live: int = LATENTS,
    crossed: bool = False,
    factors: bool = False,
    failed: dict[str, str] | None = None,
    notes: Sequence[str] = (),
    name: str = "tiny",
    shared: float = 0.5,
) -> Store:
    """Write a finished study.

    Args:
        root: its folder.
        groups: how many.
        runs: of each group.
        texts: whether there are contexts.
        null: whether chance was measured.
        live: latents of each run that fire.
        crossed: whether there are variance components.
        factors: whether groups were compared; they are of two widths and two ks.
        failed: id to reason.
        notes: of each group.
        name: of the study.
        shared: share of the latents that comes back, by every measure that has a tau.
    """
    store = Store(root)
    one = [
        _group(store, number, runs, texts, null, live, crossed, shared) for number in range(groups)
    ]
    summary = {
        "reseed": "0.1.0",
        "study": name,
        "subject": {"kind": "toy", "features": 16},
        "activations": {"sites": {"toy": 4}, "training_tokens": 900, "held_out_tokens": 100},
        "training": {
            "tokens": 3000,
            "epochs": 3.33,
            "init_seeds": list(range(runs)),
            "data_seeds": [0],
        },
        "runs": {
            "done": [run for group in one for run in group["runs"]],
            "missing": [],
            "failed": failed or {},
        },
        "groups": [
            {**group, "notes": list(notes), "controls": {}, "through_subject": None}
            for group in one
        ],
        "factors": None,
    }
    if factors:
        summary["factors"] = _factors(store, [group["group"] for group in one], summary["groups"])
    store.write("summary.json", summary)
    store.write("study.toml", b'[subject]\nkind = "toy"\n')
    for run, reason in (failed or {}).items():
        store.write(f"runs/{run}.failed.json", {"state": "failed", "step": 7, "reason": reason})
    return store


def _group(
    store: Store,
    number: int,
    runs: int,
    texts: bool,
    null: bool,
    live: int,
    crossed: bool,
    shared: float,
) -> dict[str, Any]:
    name = f"group{number}"
    ids = [f"{name}-i{seed}-d0" for seed in range(runs)]
    for seed, run in enumerate(ids):
        _run(store, run, seed, texts)
    pairs = runs * (runs - 1) // 2
    out: dict[str, Any] = {
        "group": name,
        "label": f"toy <b>{number}</b> · topk {LATENTS} latents, k 2",
        "runs": ids,
        "tokens": 3000,
        "counts": {
            "runs": runs,
            "pairs": pairs,
            "latents": LATENTS,
            "live": [live] * runs,
            "dead": [LATENTS - live] * runs,
            "dense": [1] * runs,
        },
        "reconstruction": {
            "held_out_tokens": 100,
            "fvu": {"mean": 0.25, "lo": 0.2, "hi": 0.3},
            "l0": {"mean": 2.0, "lo": 2.0, "hi": 2.0},
        },
        "distance_from_init": {"mean": 0.4, "lo": 0.3, "hi": 0.5},
    }
    tables = {"latents": _latents(ids, live), "frequency": _frequency(runs)}
    for pair in combinations(ids, 2):
        _match(store, *pair)
    if runs > 1:
        out |= _paired_summary(runs, null, pairs, crossed, shared)
        tables |= _paired_tables(runs, null)
    with store.piece(f"stability/{name}") as folder:
        for file, table in tables.items():
            (folder / f"{file}.parquet").write_bytes(parquet_bytes(table))
    return out


def _paired_summary(
    runs: int, null: bool, pairs: int, crossed: bool, shared: float
) -> dict[str, Any]:
    def number(value: float, untrained: float = 0.0) -> dict[str, Any]:
        return {
            "value": value,
            "interval_95": [max(value - 0.1, 0.0), value + 0.1] if runs > 2 else None,
            "null_covariance": {"mean": 0.01, "lo": 0.0, "hi": 0.03} if null else None,
            "null_untrained": untrained,
            "chance_corrected": value - 0.01 if null else None,
        }

    strata = ("all", "live", "dense")
    shown = {m: {s: number(shared, float(m == "equal")) for s in strata} for m in MEASURES}
    means = {m: {"all": number(0.7, 0.4)} for m in ("pw_mcc", "mmcs_decoder")}
    found = {"all": number(0.6), "live": number(0.65)} if null else {}
    none = {"mean": 0.0, "lo": 0.0, "hi": 0.0}
    alike = {"in_itself": {"all": none}, "null_kinds": {"all": ["rows"]}}
    fdr = {"match_at_fdr": found, "nearest_at_fdr": found}
    law = {"a": 0.5, "b": -0.9, "c": 0.3, "c_interval_95": None}
    unfit = {"a": None, "b": None, "c": None, "c_interval_95": None}
    return {
        "independent": {"pairs": pairs, "they": "share the data seed", "trials": runs - 1},
        "only_in_one": dict.fromkeys(("all", "live"), law if runs > 4 else unfit),
        "unseen": {
            "runs": runs,
            "observed": 20,
            "once": 6,
            "twice": 4,
            "once_implied": 5.0,
            "at_least": 19.0,
            "chao2": 23.0,
            "ice": 22.0,
            "jackknife": 25.0,
            "warnings": ["single matches are unreliable."],
        },
        "components": _components() if crossed else None,
        "headline": {"tau": 0.7, **shown, **means, **fdr, "ceiling_same_run": 1.0, **alike},
        "families": {
            "by_size": {"2": 1, str(runs): 2},
            "orphans": 9,
            "triangle_chains": 4 if runs > 2 else 0,
            "triangle_closure": 0.75 if runs > 2 else None,
            **dict.fromkeys(
                ("edges", "edges_in_triangle", "edges_in_consistent", "edges_in_family"), 6
            ),
            "similarity": {"bound": 5.0, "reached": 4.9, "gap": 0.1},
            "n_of_m": {"by_family": [3.0], "by_star": {"mean": [3.0], "lo": [2], "hi": [4]}},
        },
        "certificates": {"assignments": 2 * pairs, "optimal": 2 * pairs, "largest_gap": 1e-14},
    }


def _paired_tables(runs: int, null: bool) -> dict[str, pl.DataFrame]:
    taus = [round(0.1 * i, 1) for i in range(11)]
    ends = 0.1 if runs > 2 else None
    curve = {"share": 0.5, "lo": ends, "hi": None if ends is None else 0.9}
    chance = dict.fromkeys(("null", "null_lo", "null_hi"), 0.02 if null else None)
    shares = [
        {"measure": m, "stratum": s, "tau": tau, **curve, **chance, "untrained": 1.0 - tau}
        for m in MEASURES
        for s in ("all", "live", "dense")
        for tau in taus
    ]
    kinds = ["observed", "N4 untrained pair"] + (["N2 covariance-matched"] if null else [])
    cosines = [
        {"kind": kind, "view": view, "bin": round(-0.5 + 0.02 * at, 2), "latents": at / 40}
        for kind in kinds
        for view in ("encoder", "decoder")
        for at in range(75)
    ]
    trend = [
        {"tokens": tokens, "measure": m, "value": tokens / 6000, "lo": ends, "hi": ends}
        for tokens in (0, 1500, 3000)
        for m in ("shared", "pw_mcc")
    ]
    n_of_m = [
        {
            "stratum": s,
            "n": n,
            "m": runs,
            "latents": 2.5,
            "share": 1 / runs,
            "binomial": 0.2,
            "beta_binomial": 0.3,
            "alpha": 0.4,
            "beta": 0.5,
        }
        for s in ("all", "live")
        for n in range(1, runs + 1)
    ]
    rows = {"shares": shares, "cosines": cosines, "trend": trend, "n_of_m": n_of_m}
    rows |= _over_seeds(runs, null)
    return {name: pl.DataFrame(found, infer_schema_length=None) for name, found in rows.items()}


def _components() -> dict[str, Any]:
    def one(value: float) -> dict[str, Any]:
        return {"value": value, "interval_95": [value - 0.1, value + 0.1]}

    names = ("shared", "pw_mcc", "untrained", "same_number")
    kinds = ("share neither seed", "share the data seed", "share the init seed")
    parts = {"feature": 0.4, "init": 0.5, "data": -0.02, "both": 0.12}
    return {
        "classes": {kind: {"pairs": 9, **{name: one(0.5) for name in names}} for kind in kinds},
        "parts": {name: one(value) for name, value in parts.items()},
    }


def _over_seeds(runs: int, null: bool) -> dict[str, list[dict[str, Any]]]:
    ends = {"lo": 0.4, "hi": 0.6} if runs > 2 else {"lo": None, "hi": None}
    strata = [
        {
            "stratum": s,
            "rate_lo": 0.01 * n,
            "rate_hi": 0.02 * n,
            "latents": 4.0,
            "recurrence_mean": 0.5,
            "shared": 0.5,
            "shared_lo": ends["lo"],
            "shared_hi": ends["hi"],
            "found": 0.6 if null else None,
            "found_lo": None,
            "found_hi": None,
            "untrained": 0.1,
        }
        for n, s in enumerate(("all", "live", "dead", "dense", "rate1", "rate2"))
    ]
    counts = [
        {
            "rate_bin": b,
            "rate_lo": max(b, 0) * 0.1,
            "rate_hi": (b + 1) * 0.1,
            "n_seeds": runs,
            "n_matched": n,
            "latents": 5 + n,
            "recurrence_mean": (n + 0.5) / runs,
            "recurrence_lo": n / (runs + 1),
            "recurrence_hi": (n + 1) / runs,
        }
        for b in (-1, 0, 1)
        for n in range(runs)
    ]
    once = [
        {"stratum": s, "m": m, "share": 1 / m, **ends, "fitted": 1 / m if runs > 4 else None}
        for s in ("all", "live")
        for m in range(2, runs + 1)
    ]
    grown = [{"m": m, "features": 10.0 * m} for m in range(1, runs + 1)]
    return {
        "strata": strata,
        "reproducibility": counts,
        "only_in_one": once,
        "accumulation": grown,
    }


def _latents(ids: Sequence[str], live: int) -> pl.DataFrame:
    others = len(ids) - 1
    return pl.DataFrame(
        [_latent(run, latent, others, live) for run in ids for latent in range(LATENTS)],
        infer_schema_length=None,
        schema_overrides={
            "family": pl.Int64,
            "family_size": pl.Int64,
            "max_decoder_cos": pl.Float64,
        },
    )


def _latent(run: str, latent: int, others: int, live: int) -> dict[str, Any]:
    found = min(others, max(0, latent - 4))
    return {
        "run": run,
        "latent": latent,
        "run_sha256": "0" * 64,
        "fired": 10 * (latent + 1) if latent < live else 0,
        "firing_rate": (latent + 1) / 100 if latent < live else 0.0,
        "mean_act": 0.5,
        "max_act": 1.0,
        "alive": latent < live,
        "dense": latent == LATENTS - 1,
        "enc_dec_cos": 0.9,
        "init_cos": 0.4,
        "own_max_cos": 0.3,
        "n_runs": others + 1,
        "n_seeds": others + 1,
        "n_matched": found,
        "recurrence": found / others if others else None,
        "recurrence_mean": (found + 0.3) / (others + 1) if others else None,
        "recurrence_lo": 0.1 if others else None,
        "recurrence_hi": 0.9 if others else None,
        "max_decoder_cos": 0.1 * latent + 0.2 if others else None,
        "max_encoder_cos": 0.1 * latent + 0.1 if others else None,
        "family": latent if found else None,
        "family_size": found + 1 if found else None,
        "metric_version": 2,
    }


def _frequency(runs: int) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "rate_lo": [0.01, 0.04],
            "rate_hi": [0.03, 0.08],
            "latents": [12, 12],
            "recurrence": [0.1, 0.6] if runs > 1 else [None, None],
            "max_decoder_cos": [0.3, 0.8] if runs > 1 else [None, None],
        }
    )


def _run(store: Store, run: str, seed: int, texts: bool) -> None:
    steps = 1000
    metrics = pl.DataFrame(
        {
            "step": range(steps),
            "tokens": [3 * (step + 1) for step in range(steps)],
            "fvu": [1.0 / (1 + step / 50) for step in range(steps)],
            "l0": [2.0] * steps,
            "dead": [0.0] * steps,
        }
    )
    spec = {"site": "toy", "sae": {"dead_after": 500}, "init_seed": seed, "data_seed": 0}
    rows = [_context(latent, rank) for latent in range(LATENTS) for rank in range(5)]
    contexts = pl.DataFrame(rows if texts else [], schema=CONTEXTS)
    with store.piece(f"runs/{run}") as folder:
        (folder / "spec.json").write_bytes(json_bytes(spec))
        (folder / "metrics.parquet").write_bytes(parquet_bytes(metrics))
    with store.piece(f"evidence/{run}") as folder:
        (folder / "contexts.parquet").write_bytes(parquet_bytes(contexts))
        (folder / "reconstruction.json").write_bytes(
            json_bytes({"rows": 100, "fvu": 0.25, "l0": 2.0})
        )


def _context(latent: int, rank: int) -> dict[str, Any]:
    top = 2.0 - 0.1 * rank
    tokens = ["<|start|>", " the", HOSTILE, "\n", "\x00\u202e", " &amp;", " 日本" * 40]
    return {
        "latent": latent,
        "activation": top,
        "block": rank,
        "position": 2,
        "document": rank,
        "tokens": tokens,
        "activations": [None, 0.0, top, 0.5, 0.0, 0.0, 1.0],
    }


def _match(store: Store, a: str, b: str) -> None:
    """Latent n of one run is nearest to latent n of the other, the likelier the higher n."""
    rows = [
        {"side": side, "latent": n, "decoder_nearest": n, "decoder_max_cos": 0.1 * n + 0.2}
        for side in "ab"
        for n in range(LATENTS)
    ]
    with store.piece(f"matches/{a}--{b}") as folder:
        (folder / "00001000.parquet").write_bytes(parquet_bytes(pl.DataFrame(rows)))
        (folder / "certificates.json").write_bytes(json_bytes({"0": {}, "1000": {}}))


def _factors(store: Store, names: Sequence[str], groups: Sequence[dict[str, Any]]) -> Any:
    """Groups compared, each with a width and a k of its own."""
    shape = {name: (4 * (1 + at % 2), 2 * (1 + at // 2)) for at, name in enumerate(names)}
    rows = [
        {
            "group": name, "site": "toy", "architecture": "topk", "latents": f, "k": k,
            "tokens": tokens, "measure": measure, "pairs": 3, "value": 0.1 * at + tokens / 9000,
            "lo": 0.05 * at, "hi": 0.9,
        }
        for measure in ("shared", "pw_mcc")
        for at, (name, (f, k)) in enumerate(shape.items())
        for tokens in (1500, 3000)
    ]  # fmt: skip
    with store.piece("stability/factors") as folder:
        (folder / "cells.parquet").write_bytes(parquet_bytes(pl.DataFrame(rows)))
    number = {"value": -0.031, "interval_95": [-0.052, -0.01]}
    level = [{"level": level, **number} for level in (4, 8)]
    effect = {"levels": level, "doubling": number, "changes_with": None}
    untold = {"levels": level[:1], "doubling": None, "changes_with": []}
    spread = {
        "cells": len(rows) // 2, "sd": 0.06, "seeds": 0.1,
        "parts": {"latents": {"share": 0.7, "by_seeds": 0.03},
                  "not additive": {"share": 0.3, "by_seeds": None}},
    }  # fmt: skip
    one = {
        "effects": {"site": untold, "latents": effect, "k": effect, "tokens": effect},
        "interaction": None,
        "spread": spread,
    }
    whole = {**number, "null": 0.001, "chance_corrected": -0.03}
    return {
        "tau": 0.7,
        "also_differ": [],
        "init_seeds": 3,
        "data_seeds": 1,
        "groups": [{"group": one["group"], "label": one["label"]} for one in groups],
        "measures": {"shared": one, "pw_mcc": one},
        "across": [
            {"small": names[0], "large": names[1], "differ": "latents", "pairs": 6,
             **dict.fromkeys(("found", "found_back", "nearest", "pw_mcc"), whole)}
        ],
        "words": ["doubling the width changes the shared share.", f"of {HOSTILE}."],
    }  # fmt: skip
