"""Options of `[[sae]]` that are tables of their own. Read without torch."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from reseed.errors import nearest
from reseed.records import Spec

Init = Literal["linear", "orthogonal", "subspace", "data", "kmeans"]


def known_start(init: str) -> str:
    """One of `Init`, or where an SAE lies: `hf:...`, or a path, which has a slash."""
    if init in get_args(Init) or init.startswith("hf:") or "/" in init:
        return init
    raise ValueError(
        f"there is no such start; {nearest(init, get_args(Init))}. An SAE to go on from is "
        "hf:OWNER/REPO/PATH, or a path with a slash in it: ./my_sae"
    )


class MutualSpec(Spec):
    """Runs of several init seeds pull their matched decoder rows together (arXiv 2411.01220)."""

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

    def check(self, name: str, latents: int, k: float | None) -> None:
        """Refuse, by a ValueError, an architecture of so many latents that cannot be pulled."""
        if latents > MUTUAL_LATENTS:
            raise ValueError(
                f"mutual compares all latents of two runs exactly, {latents:,} squared; it is "
                f"made for at most {MUTUAL_LATENTS:,}, lower latents"
            )
        self.refuse_idle("mutual.restart_above", self.restart_above, "restarts", "firing")
        if self.restart_above is not None and self.firing is None and k is None:
            raise ValueError(
                f"mutual.restart_above needs a target rate and {name} has no k to take it "
                "from; set mutual.firing, e.g. 0.01"
            )


MUTUAL_LATENTS = 8192
"""Most latents of runs that are trained together: their similarity is a matrix of this side."""


class EndToEndSpec(Spec):
    """What a training through the subject asks for, not the site's own (arXiv 2405.12241)."""

    kl: Annotated[float, Field(ge=0)] = 1.0
    """Weight of KL(original || with the reconstruction), nats a token."""
    downstream: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the mean over `sites` of what is not explained there (FVU)."""
    sites: tuple[str, ...] = ()
    """Sites after the one that is replaced; with them it is e2e + downstream."""

    @model_validator(mode="after")
    def _possible(self) -> EndToEndSpec:
        if self.kl == 0 and self.downstream == 0:
            raise ValueError("kl = 0 and downstream = 0 leave nothing to learn from")
        if bool(self.sites) != (self.downstream > 0):
            raise ValueError(
                f"downstream = {self.downstream:g} and sites = {list(self.sites)}: a weight needs "
                "sites, and sites need a weight"
            )
        return self
