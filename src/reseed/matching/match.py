"""Which rows of two SAEs are compared.

| view | similarity of two latents |
|---|---|
| `"decoder"` | signed cosine of their decoder rows |
| `"encoder"` | of their encoder rows |
| `"mean"` | the mean of both cosines |
| `"minimum"` | the lesser of both cosines |
| `"whitened"` | of their encoder rows as they act on whitened input |
| `"contribution"` | of what they add to reconstructions, over tokens (formula in `codes`) |

Two SAEs compared from both sides, by decoder and by encoder rows.

The table has one row for each latent of each side:

side
    `"a"` or `"b"`: whose latent this row is about.
latent
    Its number.
decoder_match, encoder_match
    Its counterpart in the assignment of decoder (encoder) rows; null without one.
decoder_cos, encoder_cos
    Signed cosine to that counterpart.
decoder_cos_at_encoder, encoder_cos_at_decoder
    The other view's cosine at that counterpart.
decoder_nearest, encoder_nearest
    The most similar latent of the other side, whether others share it or not.
decoder_max_cos, encoder_max_cos
    Signed cosine to it.
decoder_mutual, encoder_mutual
    Whether this latent is also the most similar one to it.

Both sides come from the same two assignments, so they agree with each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.errors import SpecError, nearest
from reseed.matching.activations import match_contributions
from reseed.matching.assignment import solve, solve_and_nearest
from reseed.matching.entries import BothNearest, cosines_of
from reseed.matching.geometry import (
    Geometry,
    Limits,
    cosine,
    least_cosine,
    mean_cosine,
    products_on,
    whitened,
)
from reseed.records import Match


def match(
    A: Any,
    B: Any,
    *,
    view: View = "decoder",
    covariance: Any = None,
    codes: tuple[Any, Any] | None = None,
    reject: float | None = None,
    tolerance: float = 1e-9,
    seconds: float = float("inf"),
    device: str = "cpu",
) -> Match:
    """Match the latents of two dictionaries one to one by signed cosine, exactly, at any size.

    Args:
        A: `[F_a, D]` rows are latents; NumPy array or torch tensor. Row lengths do not matter; a
            zero row has similarity 0 to everything. Or an SAE, `SAEArrays` or `Views`.
        B: the same, of F_b latents.
        view: which rows of SAEs are compared: `"decoder"`; `"encoder"`; both, by the `"mean"` or by
            the `"minimum"` of their cosines; `"whitened"`, encoder rows as they act on whitened
            input; `"contribution"`, what they add to the reconstructions. Plain rows are taken as
            they are, or whitened, or as decoder rows.
        covariance: `[D, D]` of the SAEs' input, for `"whitened"` only.
        codes: of A and of B on the same tokens, as for `reseed.match_activations`, for
            `"contribution"` only. Latents that add nothing in common, which is all that this view
            can tell of pairs that never fire together, are never paired: `reject` is 0 or more.
        reject: lambda; only pairs with a larger cosine are made, and those that maximise the sum of
            (cosine - lambda). `reseed.reject_threshold` gives one from a null. None matches every
            latent of the smaller side.
        tolerance: largest gap, relative to the objective, that counts as optimal. At 1e-9 the
            assignment is the best one; 1e-6 may save a round on very large dictionaries.
        seconds: when to stop with the best found so far, which is then not called optimal.
        device: where products are made; `"cuda"` needs torch.

    Returns:
        min(F_a, F_b) pairs (at most, with `reject`), the summed cosine (`primal`), a proven upper
        bound on it (`dual`), their `gap`, and whether that proves the assignment `optimal`.

    Raises:
        SpecError: if a matrix has NaN or dimensions differ; if the view needs what is not given; if
            a great many pairs are above `reject`; or, without numba, if the sizes are above the
            dense limit.

    Example:
        >>> import numpy as np, reseed
        >>> A = np.eye(3)
        >>> reseed.match(A, A[[2, 0, 1]]).pairs.tolist()
        [[0, 1], [1, 2], [2, 0]]
    """
    limits = Limits(tolerance=tolerance, seconds=seconds)
    if (codes is None) == (view == "contribution"):
        raise SpecError(
            "view 'contribution' compares what latents add to reconstructions: give both it and "
            f"the codes of both SAEs, or neither (view is {view!r})"
        )
    if codes is not None:
        a, b = (_rows(sae, "decoder") for sae in (A, B))
        with products_on(device):
            return match_contributions(a, b, codes, reject or 0.0, limits)
    geometry = geometry_of(A, B, view=view, covariance=covariance, device=device)
    return solve(geometry, limits, reject=reject)


View = Literal["decoder", "encoder", "mean", "minimum", "whitened", "contribution"]


class Views(NamedTuple):
    """Encoder and decoder rows of one SAE, `[F, D]` each."""

    encoder: Any
    decoder: Any


def geometry_of(
    A: Any, B: Any, *, view: View = "decoder", covariance: Any = None, device: str = "cpu"
) -> Geometry:
    """The similarity of two SAEs by one of the views above of weights; arguments as of `match`."""
    if view not in get_args(View):
        raise SpecError(f"no view {view!r} of an SAE; {nearest(view, get_args(View))}")
    if view == "contribution":
        raise SpecError(
            "view 'contribution' needs activations besides weights, so it has no geometry of rows; "
            "take another view here"
        )
    if (covariance is None) == (view == "whitened"):
        raise SpecError(
            "view 'whitened' compares encoder rows for input of a given covariance: give both or "
            f"neither (view is {view!r}, covariance is {'not ' * (covariance is None)}given)"
        )
    if view in ("mean", "minimum"):
        a, b = _both(A, "A", view), _both(B, "B", view)
        make = mean_cosine if view == "mean" else least_cosine
        return make([(a.encoder, b.encoder), (a.decoder, b.decoder)], device=device)
    rows, names = [_rows(sae, view) for sae in (A, B)], [_name(A, "A", view), _name(B, "B", view)]
    if view == "whitened":
        rows = [whitened(matrix, covariance) for matrix in rows]
    return cosine(*rows, device=device, names=names)


def views_of(sae: Any) -> Views | None:
    """Encoder and decoder rows of what may be an SAE; None of anything else."""
    if isinstance(sae, Views):
        views = sae
    elif hasattr(sae, "W_enc") and hasattr(sae, "W_dec"):
        views = Views(sae.W_enc, sae.W_dec)
    else:
        return None
    encoder, decoder = (np.shape(rows) for rows in views)
    if encoder[:1] != decoder[:1]:
        raise SpecError(
            f"encoder {encoder} and decoder {decoder} have different numbers of latents; rows are "
            "latents in both (some libraries keep W_enc transposed)"
        )
    return views


def _both(sae: Any, name: str, view: str) -> Views:
    views = views_of(sae)
    if views is None:
        raise SpecError(
            f"view {view!r} compares encoder and decoder rows, and {name} is a "
            f"{type(sae).__name__}, not an SAE with W_enc and W_dec"
        )
    return views


def _rows(sae: Any, view: str) -> Any:
    views = views_of(sae)
    if views is None:
        return sae
    return views.decoder if view == "decoder" else views.encoder


def _name(sae: Any, name: str, view: str) -> str:
    if views_of(sae) is None:
        return name
    return f"{name}'s {'decoder' if view == 'decoder' else 'encoder'}"


class BothMatches(NamedTuple):
    """What two SAEs have in common."""

    table: pl.DataFrame
    decoder: Match
    encoder: Match


def compare(a: Views, b: Views, show: Callable[[float], None] | None = None) -> BothMatches:
    """Match two SAEs by decoder rows and, independently, by encoder rows (arXiv 2501.16615).

    `show` is told how many similarities were computed, as they are; from dictionaries of some size
    on, where it takes long enough to show.
    """
    geometry = {
        view: cosine(*pair, names=(f"A's {view}", f"B's {view}"))
        for view, pair in (("decoder", (a.decoder, b.decoder)), ("encoder", (a.encoder, b.encoder)))
    }
    sizes = geometry["decoder"].shape
    if sizes != geometry["encoder"].shape:
        raise SpecError("encoder and decoder have different numbers of latents")
    solved = {view: solve_and_nearest(g, show) for view, g in geometry.items()}
    matches = {view: _Assigned(geometry, view, match) for view, (match, _) in solved.items()}
    sides = [
        _side(name, side, sizes[side], {v: (matches[v], near) for v, (_, near) in solved.items()})
        for side, name in enumerate("ab")
    ]
    return BothMatches(pl.concat(sides), solved["decoder"][0], solved["encoder"][0])


def decoder_pairs(table: pl.DataFrame) -> NDArray[np.int64]:
    """`[E, 2]` latents of A and of B that are matched by decoder rows, from `compare`'s table."""
    side = table.filter(pl.col("side") == "a").drop_nulls("decoder_match")
    return side.select("latent", "decoder_match").to_numpy().astype(np.int64)


class _Assigned:
    """An assignment by one view, and how similar the other view finds its pairs."""

    def __init__(self, geometry: Mapping[str, Geometry], view: str, match: Match) -> None:
        other = geometry["encoder" if view == "decoder" else "decoder"]
        self.pairs, self.similarity = match.pairs, match.similarity
        self.other = cosines_of(other, match.pairs[:, 0], match.pairs[:, 1])


def _side(
    name: str, side: int, size: int, by_view: Mapping[str, tuple[_Assigned, BothNearest]]
) -> pl.DataFrame:
    columns: dict[str, Any] = {"side": [name] * size, "latent": np.arange(size)}
    for view, other in (("decoder", "encoder"), ("encoder", "decoder")):
        match, nearest = by_view[view][0], by_view[view][1][side]
        back = by_view[view][1][1 - side].latent
        own = match.pairs[:, side]
        partner = np.full(size, -1)
        partner[own] = match.pairs[:, 1 - side]
        none = partner < 0
        columns[f"{view}_match"] = _masked(partner, none)
        for column, values in (
            (f"{view}_cos", match.similarity),
            (f"{other}_cos_at_{view}", match.other),
        ):
            full = np.zeros(size)
            full[own] = values
            columns[column] = _masked(full, none)
        columns[f"{view}_nearest"] = nearest.latent
        columns[f"{view}_max_cos"] = nearest.similarity
        columns[f"{view}_mutual"] = back[nearest.latent] == np.arange(size)
    return pl.DataFrame(columns).with_columns(pl.col("side").cast(pl.Categorical))


def _masked(values: NDArray[Any], none: NDArray[np.bool_]) -> pl.Series:
    return pl.Series(values).zip_with(
        pl.Series(~none), pl.Series([None], dtype=pl.Series(values).dtype)
    )
