"""Settings of Mutual Feature Regularization: runs that are trained together (arXiv 2411.01220)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from reseed.records import Spec


class MutualSpec(Spec):
    """Runs that differ only in their init seed pull their matched decoder rows together."""

    alpha: Annotated[float, Field(ge=0)] = 0.1
    """Weight of 1 - mean matched cosine, beside a reconstruction loss in units of FVU."""
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    """Steps over which the weight rises along half a cosine."""
    refresh: Annotated[int, Field(ge=1)] = 10
    """Steps for which an assignment is kept; the source solves it anew at every step (1)."""
    restart_above: Annotated[float, Field(gt=0)] | None = None
    """Firing-rate penalty, mean |(r - target) / target|^3 over the latents of a batch, above which
    an SAE and its optimiser start again; 2.5 in the source. Left out: never."""
    firing: Annotated[float, Field(gt=0, le=1)] | None = None
    """The target rate; left out, k / latents."""
    restarts: Annotated[int, Field(ge=1)] = 5
    """How often an SAE starts again at the most."""
    held_out: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Init seeds of the study that take no part: what agreement is to be judged by."""
