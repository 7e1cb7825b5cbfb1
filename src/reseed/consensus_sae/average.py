"""One dictionary of the families that come back: which ones, and the mean of their members.

M runs, F latents of the consensus, D dimensions. A family is a feature that several runs found
(`families.py`); a latent without a counterpart is a family of its own. The mean needs no torch;
the encoder is refitted elsewhere (`reseed.consensus_sae.refit`).

Sources: reproducible families as a dictionary, arXiv 2606.12138 (pooling); the mean of a cluster
and a refitted encoder are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.errors import SpecError
from reseed.records import SAEArrays
from reseed.stability.group import family_occasions

_POSTERIOR = "recurrence_mean"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Which families are taken: by reproducibility, or by the number of runs they are found in."""

    least: float | None = None
    """smallest reproducibility, above 0 up to 1; .5 if neither is given"""
    found_in: int | None = None
    """smallest number of runs; of crossed seeds, of runs of which no two share a seed"""

    def __post_init__(self) -> None:
        if self.least is not None and self.found_in is not None:
            raise SpecError("give either --least or --found-in; they say the same in two ways")
        if self.least is None and self.found_in is None:
            object.__setattr__(self, "least", 0.5)
        if self.least is not None and not 0 < self.least <= 1:
            raise SpecError(f"least = {self.least:g} is no reproducibility above 0 and up to 1")
        if self.found_in is not None and self.found_in < 1:
            raise SpecError(f"found_in = {self.found_in}: a family is found in one run or more")

    def __str__(self) -> str:
        by_share = f"least{self.least:g}" if self.least is not None else ""
        return by_share or f"found{self.found_in}"


def reproducibility(families: pl.DataFrame, latents: pl.DataFrame) -> pl.DataFrame:
    """All families of live latents, orphans among them, with their members.

    Latents that never fired on held-out tokens are left out first: rows that stay where they
    started are alike in runs that share a start.

    Returns:
        family (null for an orphan), run, member (its latent in that run), size (live members),
        occasions (independent ones, see `family_occasions`), reproducibility: the mean over members
        of `recurrence_mean`, else size / M; the most reproducible first. `number` tells families
        apart.
    """
    runs = latents["run"].n_unique()
    share = pl.len() / runs
    if _POSTERIOR in latents.columns:
        share = pl.coalesce(pl.col(_POSTERIOR).mean(), share)
    kept = latents.select(
        "run", "latent", "alive", pl.col(f"^({_POSTERIOR}|init_seed|data_seed|n_seeds|n_matched)$")
    )
    live = kept.filter("alive").join(
        families.select("run", "latent", "family"), on=["run", "latent"], how="left"
    )
    live = live.join(family_occasions(live), on="family", how="left")
    alone = pl.format("{}/{}", "run", "latent")
    grouped = (
        live.sort("run", "latent")
        .group_by(pl.coalesce(pl.format("{}", "family"), alone).alias("key"), maintain_order=True)
        .agg(
            pl.col("family").first(),
            "run",
            pl.col("latent").alias("member"),
            pl.len().cast(pl.Int64).alias("size"),
            pl.col("occasions").first().fill_null(1),
            share.alias("reproducibility"),
        )
    )
    order = ["reproducibility", "size", "family", "key"]
    return (
        grouped.sort(order, descending=[True, True, False, False], nulls_last=True)
        .with_row_index("number")
        .explode("run", "member")
        .select("number", "family", "run", "member", "size", "occasions", "reproducibility")
    )


def choose(every: pl.DataFrame, rule: Rule, *, runs: int, k: int) -> pl.DataFrame:
    """The families that the rule takes, numbered as the latents of the consensus.

    Returns:
        latent (of the consensus), family, run, member, size, occasions, reproducibility.
    """
    if runs < 2:
        raise SpecError("one run only: no family is known to come back. Add seeds to the study.")
    if rule.found_in is not None and rule.found_in > runs:
        raise SpecError(f"found_in = {rule.found_in}, but there are {runs} runs")
    enough = (
        pl.col("occasions") >= rule.found_in
        if rule.found_in is not None
        else pl.col("reproducibility") >= rule.least
    )
    kept = every.filter(enough)
    count = kept["number"].n_unique()
    if count < max(2, k):
        found = every.unique("number")["occasions"]
        sizes = found.value_counts().sort("occasions", descending=True)
        there = ", ".join(f"{n:,} in exactly {size}" for size, n in sizes.iter_rows())
        raise SpecError(
            f"{rule}: {count} families are left, and k = {k} of them are to fire at a time. "
            "Families of live latents by the independent runs they are found in: "
            f"{there or 'none'}. Lower --least or --found-in, or k."
        )
    return kept.select(
        (pl.col("number").rank("dense").cast(pl.Int64) - 1).alias("latent"),
        pl.exclude("number"),
    )


def average(
    saes: Mapping[str, SAEArrays], members: pl.DataFrame, k: int, about: Mapping[str, Any]
) -> SAEArrays:
    """The mean of the members of each family, as a TopK SAE that was not refitted yet.

    A decoder row is the mean of its members' unit rows, scaled to length 1. Encoder row and bias
    are such that the pre-activation of a latent is, for every input, the mean of its members', each
    counted in units of a decoder row of length 1. The decoder bias is the mean over runs.
    """
    for run, sae in saes.items():
        if sae.W_skip is not None or sae.normalised or sae.W_enc.shape != sae.W_dec.shape:
            raise SpecError(f"{run} skips its codes, normalises rows or is a transcoder; means of "
                            "such SAEs are not defined here")  # fmt: skip
    count = int(members["latent"].max()) + 1  # pyright: ignore[reportArgumentType, reportOperatorIssue]
    dimensions = next(iter(saes.values())).W_dec.shape[1]
    decoder, encoder = np.zeros((count, dimensions)), np.zeros((count, dimensions))
    bias, size = np.zeros(count), np.zeros(count)
    for run, sae in saes.items():
        of_run = members.filter(run=run)
        to, rows = of_run["latent"].to_numpy(), of_run["member"].to_numpy()
        length = _lengths(sae, rows, run)
        enc = sae.W_enc[rows].astype(np.float64) * length[:, None]
        centre = enc @ sae.b_dec if sae.centred else 0.0
        decoder[to] += sae.W_dec[rows] / length[:, None]
        encoder[to] += enc
        bias[to] += sae.b_enc[rows] * length - centre
        size[to] += 1
    b_dec = np.mean([sae.b_dec.astype(np.float64) for sae in saes.values()], axis=0)
    encoder /= size[:, None]
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)
    return SAEArrays(
        W_enc=encoder.astype(np.float32),
        b_enc=(bias / size + encoder @ b_dec).astype(np.float32),
        W_dec=decoder.astype(np.float32),
        b_dec=b_dec.astype(np.float32),
        activation={"kind": "topk", "k": k},
        about=about,
    )


def _lengths(sae: SAEArrays, rows: NDArray[np.int64], run: str) -> NDArray[np.float64]:
    length = np.linalg.norm(sae.W_dec[rows].astype(np.float64), axis=1)
    if not (length > 0).all():
        raise SpecError(f"{run}: decoder rows {rows[length == 0][:5].tolist()} are zero")
    return length


def about_members(members: pl.DataFrame, runs: Sequence[str]) -> dict[str, Any]:
    """Families and members in few words, for the file of the SAE.

    Returns:
        `family`, of each latent of the consensus, null for an orphan; `reproducibility`, of each;
        `members`: run to the latent there of each latent of the consensus, null where the run has
        none.
    """
    first = members.unique("latent", keep="first", maintain_order=True).sort("latent")
    wide = first.select("latent")
    by_run: dict[str, list[int | None]] = {
        run: wide.join(
            members.filter(run=run).select("latent", "member"), on="latent", how="left",
            maintain_order="left",
        )["member"].to_list()
        for run in runs
    }  # fmt: skip
    return {
        "family": first["family"].to_list(),
        "reproducibility": [round(x, 6) for x in first["reproducibility"]],
        "members": by_run,
    }
