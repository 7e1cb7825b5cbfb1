"""What the same measurement gives when there is nothing to find: the nulls by name.

Each answers another doubt, so a share is read beside several. How those of weights are made stands
in `reseed.stability.nulls.weights`; those that need training are the control runs of a study
(`reseed.spec.training`). The same table for people is docs/nulls.md.

Lambda of matching with a reject option, from a null.

Lambda is a quantile of the *maximum statistic*: what a latent's most similar counterpart scores
when there is nothing to find. A pair above it is then more alike than all but a known share of
latents find by chance among all candidates, which a single random pair would understate: it takes
the best of F.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from reseed.errors import SpecError
from reseed.matching.entries import largest
from reseed.matching.geometry import finite_rows
from reseed.matching.match import View, Views, geometry_of, views_of, whitened
from reseed.stability.nulls.weights import CovarianceNull

COVARIANCE = "N2 covariance-matched"

UNTRAINED = "N4 untrained pair"


@dataclass(frozen=True, slots=True, kw_only=True)
class NullKind:
    """A null: how it is made and which explanation it rules out."""

    id: str
    name: str
    construction: str
    rules_out: str
    made: Literal["weights", "snapshots", "control runs", "strata", "activations"]
    """from what"""
    control: str | None = None
    """its word in `[controls]`, if runs have to be trained for it"""
    source: str | None = None
    """arXiv id of the paper that asks for it"""


NULLS: tuple[NullKind, ...] = (
    NullKind(
        id="N0",
        name="same run",
        construction="an SAE against itself; or against the same run made again",
        rules_out="that the measurement cannot reach 1",
        made="weights",
    ),
    NullKind(
        id="N1",
        name="isotropic",
        construction="independent unit vectors of uniform direction, as many as latents",
        rules_out="that a cosine of 0.3 is a lot: the best of many candidates is never near 0",
        made="weights",
    ),
    NullKind(
        id="N2",
        name="covariance-matched",
        construction="Gaussian rows with mean and covariance of the trained unit rows",
        rules_out="that shared dominant directions alone make rows similar",
        made="weights",
    ),
    NullKind(
        id="N3",
        name="rotated",
        construction="the trained dictionary under a random rotation of all directions",
        rules_out="that the inner geometry of a dictionary alone makes it match another",
        made="weights",
    ),
    NullKind(
        id="N3b",
        name="rotated inside bands",
        construction="the same, turning only directions of about equal second moment",
        rules_out="that inner geometry and shared dominant directions together do",
        made="weights",
    ),
    NullKind(
        id="N4",
        name="untrained pair",
        construction="the same runs before their first step; same init and another data order as "
        "the positive control",
        rules_out="that runs agree because they start near each other",
        made="snapshots",
        source="2606.02061",
    ),
    NullKind(
        id="N5a",
        name="Gaussian activations",
        construction="runs on Gaussian rows with mean and covariance of the activations",
        rules_out="that fitting the covariance alone makes runs agree",
        made="control runs",
        control="gaussian",
    ),
    NullKind(
        id="N5b",
        name="shuffled activations",
        construction="runs on rows whose dimensions are permuted independently of each other",
        rules_out="that the distribution of each single dimension makes runs agree",
        made="control runs",
        control="shuffled",
    ),
    NullKind(
        id="N6",
        name="random subject",
        construction="runs on the same architecture and text with random weights",
        rules_out="that the text and the architecture, not what was learned, make runs agree",
        made="control runs",
        control="random_subject",
        source="2501.17727",
    ),
    NullKind(
        id="N7a",
        name="frozen decoder",
        construction="runs whose decoder rows stay at their random start",
        rules_out="that decoder rows need not be learned to reconstruct and agree so well",
        made="control runs",
        control="frozen_decoder",
        source="2602.14111",
    ),
    NullKind(
        id="N7b",
        name="soft-frozen decoder",
        construction="runs whose decoder rows keep a cosine of at least 0.8 to their start",
        rules_out="that small turns of random decoder rows do to reconstruct and agree so well",
        made="control runs",
        control="soft_frozen_decoder",
        source="2602.14111",
    ),
    NullKind(
        id="N7c",
        name="frozen encoder",
        construction="runs whose encoder rows stay at their random start",
        rules_out="that encoder rows need not be learned to reconstruct and agree so well",
        made="control runs",
        control="frozen_encoder",
        source="2602.14111",
    ),
    NullKind(
        id="N8",
        name="frequency-matched permutation",
        construction="latents that fire about as often are exchanged",
        rules_out="that two latents correlate because both fire often",
        made="activations",
    ),
    NullKind(
        id="N9",
        name="strata",
        construction="every share on all, on live and on dense latents",
        rules_out="that dead latents at their start or dense ones decide the share",
        made="strata",
    ),
)
"""All nulls in the order of their ids."""


def null_of_control(control: str) -> NullKind:
    """The null that a kind of control run makes."""
    return {kind.control: kind for kind in NULLS if kind.control}[control]


def chance_corrected(observed: float, null: float) -> float:
    """(observed - null) / (1 - null): 0 at chance, 1 when everything agrees."""
    return (observed - null) / (1.0 - null) if null < 1.0 else 0.0


def reject_threshold(
    A: Any,
    B: Any,
    *,
    view: View = "decoder",
    covariance: Any = None,
    quantile: float = 0.99,
    draws: int = 3,
    seed: int | str = 0,
    device: str = "cpu",
) -> float:
    """A reject threshold for `reseed.match` from the covariance-matched null (N2).

    Both dictionaries are replaced by random ones with the second moments of their own unit rows,
    `draws` times. Each null latent of either side then has a largest similarity over all latents of
    the other null dictionary; the threshold is a quantile of those.

    Args:
        A: as in `reseed.match`: `[F_a, D]` rows, an SAE, `SAEArrays` or `Views`. A zero row is left
            out, as it is like nothing.
        B: the same, of F_b latents.
        view: which rows, as they will be matched.
        covariance: `[D, D]` of the SAEs' input, for `"whitened"` only.
        quantile: share of the null latents whose best counterpart is at or below the threshold.
        draws: null pairs of dictionaries.
        seed: of the null.
        device: where products are made.

    Returns:
        The threshold, a cosine. Near 1 it says that the rows lie along so few directions that
        cosines cannot tell shared latents from random ones.

    Raises:
        SpecError: if an argument is out of range, or as `reseed.match`.

    Example:
        lam = reseed.reject_threshold(A, B)
        reseed.match(A, B, reject=lam)
    """
    if not (0 <= quantile <= 1 and draws >= 1):
        raise SpecError(f"quantile={quantile} must be within 0..1 and draws={draws} at least 1")
    # refuses what match would refuse, before anything is drawn
    geometry_of(A, B, view=view, covariance=covariance)
    views = [_views(given, view, covariance) for given in (A, B)]
    if not all(_any_left(one) for one in views):
        return 0.0
    nulls = [CovarianceNull(one) for one in views]
    both = view if view in ("mean", "minimum") else "encoder"
    found = [
        maximum_statistic(
            nulls[0].draw(seed, draw, "a"), nulls[1].draw(seed, draw, "b"), view=both, device=device
        )
        for draw in range(draws)
    ]
    return float(np.quantile(np.concatenate(found), quantile))


def maximum_statistic(
    a: Views, b: Views, *, view: View, device: str = "cpu"
) -> NDArray[np.float64]:
    """`[F_a + F_b]` the largest similarity of each latent of each side to any of the other."""
    sides = largest(geometry_of(a, b, view=view, device=device), absolute=False)
    return np.concatenate([side.similarity for side in sides])


def _views(given: Any, view: View, covariance: Any) -> Views:
    """The rows that are compared, as float64; a single kind of rows as `encoder`."""
    views = views_of(given)
    if views is not None and view in ("mean", "minimum"):
        return Views(*(finite_rows(rows, "rows").astype(np.float64) for rows in views))
    if views is not None:
        given = views.decoder if view == "decoder" else views.encoder
    rows = finite_rows(given, "rows") if covariance is None else whitened(given, covariance)
    # a decoder that is the same for all latents adds nothing to their joint covariance
    return Views(rows.astype(np.float64), np.ones((len(rows), 1)))


def _any_left(views: Views) -> bool:
    """Whether a latent has rows that are not zero."""
    return bool(np.logical_and(*(np.abs(rows).sum(axis=1) > 0 for rows in views)).any())
