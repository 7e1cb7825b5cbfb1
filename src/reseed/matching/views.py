"""Which rows of two SAEs are compared.

| view | similarity of two latents |
|---|---|
| `"decoder"` | signed cosine of their decoder rows |
| `"encoder"` | of their encoder rows |
| `"mean"` | the mean of both cosines |
| `"minimum"` | the lesser of both cosines |
| `"whitened"` | of their encoder rows as they act on whitened input |
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from reseed.errors import SpecError, nearest
from reseed.matching.geometry import Geometry, cosine, least_cosine, mean_cosine, whitened

View = Literal["decoder", "encoder", "mean", "minimum", "whitened"]


class Views(NamedTuple):
    """Encoder and decoder rows of one SAE, `[F, D]` each."""

    encoder: Any
    decoder: Any


def geometry_of(
    A: Any, B: Any, *, view: View = "decoder", covariance: Any = None, device: str = "cpu"
) -> Geometry:
    """The similarity of two SAEs by one of the views above.

    Args:
        A: `Views`, anything with `W_enc` and `W_dec`, or the rows themselves, `[F_a, D]`, where one
            matrix is enough.
        B: the same, of F_b latents.
        view: which rows.
        covariance: `[D, D]` of the SAEs' input, for `"whitened"` and nothing else.
        device: where products are made.

    Raises:
        SpecError: if the view is unknown or needs what is not given, a matrix is not one of finite
            numbers, dimensions differ, or encoder and decoder have different numbers of latents.
    """
    if view not in get_args(View):
        raise SpecError(f"no view {view!r} of an SAE; {nearest(view, get_args(View))}")
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
        rows = [whitened(one, covariance) for one in rows]
    return cosine(*rows, device=device, names=names)


def views_of(given: Any) -> Views | None:
    """Encoder and decoder rows of what may be an SAE; None of anything else.

    Raises:
        SpecError: if they are not of the same number of latents.
    """
    if isinstance(given, Views):
        views = given
    elif hasattr(given, "W_enc") and hasattr(given, "W_dec"):
        views = Views(given.W_enc, given.W_dec)
    else:
        return None
    encoder, decoder = (np.shape(rows) for rows in views)
    if encoder[:1] != decoder[:1]:
        raise SpecError(
            f"encoder {encoder} and decoder {decoder} have different numbers of latents; rows are "
            "latents in both (some libraries keep W_enc transposed)"
        )
    return views


def _both(given: Any, name: str, view: str) -> Views:
    views = views_of(given)
    if views is None:
        raise SpecError(
            f"view {view!r} compares encoder and decoder rows, and {name} is a "
            f"{type(given).__name__}, not an SAE with W_enc and W_dec"
        )
    return views


def _rows(given: Any, view: str) -> Any:
    views = views_of(given)
    if views is None:
        return given
    return views.decoder if view == "decoder" else views.encoder


def _name(given: Any, name: str, view: str) -> str:
    if views_of(given) is None:
        return name
    return f"{name}'s {'decoder' if view == 'decoder' else 'encoder'}"
