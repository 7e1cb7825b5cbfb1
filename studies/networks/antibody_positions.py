"""What latents of studies/antibodies.toml stand for: a position, a residue, a chain, a family.

    python studies/networks/antibody_positions.py studies/antibodies

On new sequences of the same genes. For a latent and a label, U = I(fires; label) / H(fires) is the
share of the uncertainty about its firing that the label takes away: 0 for none, 1 for all. Null:
labels shuffled inside each sequence (of chain and family: between sequences). Latents that fire on
fewer than 50 residues are left out. AUROC: whether a latent that all other runs found has a larger
U than one that none found, inside fifths of firing rate; intervals are Student's over the runs.
Writes positions.json into the folder.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import antibodies as net
import numpy as np
import polars as pl
from scipy import stats

import reseed
from reseed.stability.intervals import auroc
from reseed.study import Study
from reseed.subjects.controls import randomise

SEQUENCES, LEAST = 300, 50
REGIONS = {"FR1": 26, "CDR1": 38, "FR2": 55, "CDR2": 65, "FR3": 104, "CDR3": 117, "FR4": 128}
WITHIN = ("position", "residue", "region")


def labels_of(some: list[net.Antibody]) -> dict[str, Any]:
    """A whole number for each residue, by what it tells; and the sequence that it is in."""
    ends = np.array(list(REGIONS.values()))
    position = np.concatenate([one.positions for one in some])
    columns = {
        "position": position,
        "residue": [net.LETTERS.index(x) for one in some for x in one.letters],
        "region": np.searchsorted(ends, position),
        "chain": [one.chain for one in some for _ in one.letters],
        "family": [one.family for one in some for _ in one.letters],
    }
    numbers = {
        name: np.unique(np.asarray(v), return_inverse=True)[1] for name, v in columns.items()
    }
    return numbers | {"sequence": np.repeat(np.arange(len(some)), [len(x.letters) for x in some])}


def shuffled(labels: dict[str, Any], name: str, rng: np.random.Generator) -> Any:
    """The null of a label."""
    sequence = labels["sequence"]
    if name in WITHIN:
        order = np.lexsort((rng.random(len(sequence)), sequence))
        return labels[name][order]
    first = np.searchsorted(sequence, np.arange(sequence[-1] + 1))
    return labels[name][first][rng.permutation(len(first))][sequence]


def uncertainty(fires: Any, label: Any) -> Any:
    """`[F]` U of `[N, F]` firing under a label `[N]`."""
    order, counts = np.argsort(label, kind="stable"), np.bincount(label).astype(float)
    first = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(int)
    hit = np.add.reduceat(fires[order].astype(np.float32), first, axis=0)
    rate = hit / counts[:, None]

    def entropy(p: Any) -> Any:
        q = np.clip(p, 1e-12, 1 - 1e-12)
        return -(q * np.log(q) + (1 - q) * np.log(1 - q))

    whole = entropy(fires.mean(0))
    given = (counts[:, None] / counts.sum() * entropy(rate)).sum(0)
    return np.divide(whole - given, whole, out=np.zeros_like(whole), where=whole > 0)


def of_run(sae: Any, rows: Any, labels: dict[str, Any]) -> pl.DataFrame:
    """A row for each latent that fires often enough."""
    parts = (rows[i : i + 4096] for i in range(0, len(rows), 4096))
    fires = np.concatenate([(sae.encode(part) > 0).numpy() for part in parts])
    kept = np.flatnonzero(fires.sum(0) >= LEAST)
    rng, fires = np.random.default_rng(0), fires[:, kept]
    columns: dict[str, Any] = {"latent": kept, "rate": fires.mean(0)}
    for name in ("position", "residue", "region", "chain", "family"):
        columns[name] = uncertainty(fires, labels[name])
        columns[f"{name}_null"] = uncertainty(fires, shuffled(labels, name, rng))
    return pl.DataFrame(columns)


def stratified(table: pl.DataFrame, name: str) -> float:
    """AUROC of U for reproducible against orphan, inside fifths of firing rate."""
    known = table.filter(
        (pl.col("n_matched") == pl.col("n_seeds") - 1) | (pl.col("n_matched") == 0)
    )
    fifth = known["rate"].qcut(5, labels=list("abcde"), allow_duplicates=True).to_numpy()
    parts, weights = [], []
    for each in np.unique(fifth):
        part = known.filter(pl.Series(fifth == each))
        again = (part["n_matched"] > 0).to_numpy()
        if 0 < again.sum() < len(again):
            parts.append(float(auroc(part[name].to_numpy(), again)))
            weights.append(again.sum() * (~again).sum())
    return float(np.average(parts, weights=weights)) if parts else float("nan")


def interval(values: list[float]) -> str:
    """Mean and Student's 95 % interval."""
    known = np.array([v for v in values if np.isfinite(v)])
    if len(known) < 3:
        return "not known"
    half = stats.t.ppf(0.975, len(known) - 1) * stats.sem(known)
    low, high = np.clip([known.mean() - half, known.mean() + half], 0, 1)
    return (
        f"{known.mean():.2f} [{max(known.mean() - half, 0):.2f}, {min(known.mean() + half, 1):.2f}]"
    )


def tables(study: Study) -> Iterator[tuple[str, str | None, pl.DataFrame]]:
    """Group, control and the latents of each run of the subject and of the random one."""
    some = net.antibodies(SEQUENCES, net.SEED + 1)
    batches = [net.batch_of(some[at : at + 64]) for at in range(0, len(some), 64)]
    labels, site = labels_of(some), study.sites()[0]
    module = net.Encoder(net.whole_net().get_submodule("encoder"))
    rows = {None: reseed.harvest(module, [site], batches)[site]}
    randomise(module, 0)
    rows["random_subject"] = reseed.harvest(module, [site], batches)[site]
    found = study.latents.select("run", "latent", "n_matched", "n_seeds")
    for run in study.runs:
        if run.spec.control in rows:
            table = of_run(run.sae(), rows[run.spec.control], labels).with_columns(
                pl.col("latent").cast(pl.Int64), run=pl.lit(run.spec.id)
            )
            table = table.join(found, on=["run", "latent"], how="left")
            yield run.spec.sae.label, run.spec.control, table


def main() -> None:
    """Print the table and write it."""
    folder = Path(sys.argv[1])
    every = [*tables(Study.load(folder))]
    out: list[dict[str, Any]] = []
    for label, control in dict.fromkeys((label, control) for label, control, _ in every):
        runs = [t for a, b, t in every if (a, b) == (label, control)]
        for name in ("position", "residue", "region", "chain", "family"):
            row = {
                "SAE": label,
                "subject": control or "trained",
                "label": name,
                "latents": [len(t) for t in runs],
                "U, median": interval([float(np.median(t[name])) for t in runs]),
                "null": interval([float(np.median(t[f"{name}_null"])) for t in runs]),
                "U above .5": interval([float((t[name] > 0.5).mean()) for t in runs]),
            }
            if control is None:
                row["AUROC"] = interval([stratified(t, name) for t in runs])
            out.append(row)
            print(" | ".join(str(value) for value in row.values()))
    (folder / "positions.json").write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
