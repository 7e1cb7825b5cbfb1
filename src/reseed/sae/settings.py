"""What the settings of all architectures have in common. Read without torch."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from reseed.records import Spec


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


Share = Annotated[float, Field(gt=0, lt=1)]

Init = Literal["linear", "orthogonal", "subspace", "data", "kmeans"]

Optimizer = Literal["adam", "muon", "signum"]

LRSchedule = Literal["linear", "cosine", "constant"]

_BASE_LR: dict[Optimizer, float] = {"adam": 2e-4, "muon": 2e-4, "signum": 5e-3}
"""At 2^14 latents: 2501.16615's Adam; sparsify's signum. Muon is scaled to Adam's steps."""

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


class ArchitectureSpec(Spec):
    """The part of `[[sae]]` that is the same for all architectures."""

    OPTIONAL: ClassVar[frozenset[str]] = frozenset(
        {
            "init",
            "tied_init",
            "weight_l2",
            "aligned",
            "optimizer",
            "lr_schedule",
            "k_start",
            "k_share",
            "mutual",
            "end_to_end",
        }
    )
    """Settings that are no part of what a run is as long as they are at their default."""
    without: ClassVar[frozenset[str]] = frozenset()
    """Options above that this architecture cannot have."""

    latents: Annotated[int, Field(ge=2)]
    """F, the width."""
    lr: Annotated[float, Field(gt=0)] | None = None
    """Peak learning rate; left out, the paper's 2e-4 / sqrt(latents / 2^14) (signum: 5e-3)."""
    dead_after: Annotated[int, Field(ge=1)] = 10_000_000
    """Tokens without firing after which a latent counts as dead."""
    end_to_end: EndToEndSpec | None = None
    """Trains through the subject."""
    init: Init = "linear"
    """Encoder rows at the start: of a linear layer, a semi-orthogonal matrix, a linear layer within
    the subspace of the first batch, rows of it, or by k-means++. See docs/training_methods.md."""
    tied_init: bool | None = None
    """Whether decoder rows start along the encoder's; left out, as the architecture has it."""
    weight_l2: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the squared norm of both matrices in the loss (arXiv 2603.04198)."""
    aligned: bool = False
    """Keep <encoder row, decoder row> = 1 for each latent by reparametrisation (2605.18629)."""
    optimizer: Optimizer = "adam"
    """`muon`: for matrices, with Adam for the rest; `signum`: the sign of the momentum."""
    lr_schedule: LRSchedule = "linear"
    """After warm-up: linear or half a cosine down to 0, or constant."""
    k_start: Annotated[int, Field(ge=1)] | None = None
    """Latents that fire at the first step, falling linearly to k; left out, k from the start."""
    k_share: Share = 0.1
    """Share of the steps over which k falls."""
    mutual: MutualSpec | None = None
    """Train the runs that differ only in their init seed together (arXiv 2411.01220)."""

    @model_validator(mode="after")
    def _options_possible(self) -> ArchitectureSpec:
        k = getattr(self, "k", None)
        if k is not None and k > self.latents:
            raise ValueError(
                f"k = {k} is above latents = {self.latents}; no more latents can fire than there "
                "are, lower k or raise latents"
            )
        fields = type(self).model_fields
        for option in sorted(self.without):
            if getattr(self, option) != fields[option].default:
                raise ValueError(f"{option} does not go together with {self.name}; take one out")
        if self.k_start is not None and k is None:
            raise ValueError(f"k_start = {self.k_start}, but {self.name} has no k; take it out")
        if self.k_start is not None and k is not None and not k <= self.k_start <= self.latents:
            raise ValueError(
                f"k_start = {self.k_start} must lie between k = {k} and latents = {self.latents}"
            )
        for option in ("aligned", "tied_init"):
            if getattr(self, option) and self.output_site is not None:
                raise ValueError(
                    f"{option} needs encoder and decoder rows of one space; a transcoder's are "
                    "not, take it out"
                )
        if self.mutual is not None:
            self._check_mutual(self.mutual, k)
        return self

    def _check_mutual(self, mutual: MutualSpec, k: int | None) -> None:
        if self.latents > MUTUAL_LATENTS:
            raise ValueError(
                f"mutual compares all latents of two runs exactly, {self.latents:,} squared; it is "
                f"made for at most {MUTUAL_LATENTS:,}, lower latents"
            )
        if mutual.restart_above is not None and mutual.firing is None and k is None:
            raise ValueError(
                f"mutual.restart_above needs a target rate and {self.name} has no k to take it "
                "from; set mutual.firing, e.g. 0.01"
            )

    @property
    def name(self) -> str:
        """Of the architecture."""
        return type(self).model_fields["architecture"].default

    @property
    def peak_lr(self) -> float:
        """The learning rate after warm-up."""
        if self.lr is not None:
            return self.lr
        return _BASE_LR[self.optimizer] / (self.latents / 2**14) ** 0.5

    def rate(self, steps: int) -> float:
        """`peak_lr`, or a higher one where a training is too short for it."""
        return self.peak_lr

    @property
    def settings(self) -> dict[str, Any]:
        """What tells it from others of its architecture and width: name to value, in order."""
        k = getattr(self, "k", None)
        return {} if k is None else {"k": k}

    @property
    def label(self) -> str:
        """As shown to people."""
        words = " ".join([self.name, f"{self.latents:,}", *self._words])
        return words if self.output_site is None else f"{words} to {self.output_site}"

    @property
    def shape(self) -> str:
        """Architecture, sizes and target, fit for a file name."""
        words = "-".join([self.name, f"f{self.latents}", *self._words])
        if self.output_site is None:
            return words
        return f"{words}-to-{re.sub(r'[^A-Za-z0-9._-]', '-', self.output_site)[-40:]}"

    @property
    def _words(self) -> list[str]:
        """A word for each setting, and for each option that is set."""
        options = {
            self.init: self.init != "linear",
            "tied": self.tied_init is True,
            "untied": self.tied_init is False,
            f"l2_{self.weight_l2:g}": self.weight_l2 > 0,
            "aligned": self.aligned,
            self.optimizer: self.optimizer != "adam",
            self.lr_schedule: self.lr_schedule != "linear",
            f"from{self.k_start}": self.k_start is not None,
            f"mutual{self.mutual.alpha:g}" if self.mutual else "": self.mutual is not None,
            "e2e+ds" if self.end_to_end and self.end_to_end.sites else "e2e": bool(self.end_to_end),
        }
        settings = [f"{name}{_short(value)}" for name, value in self.settings.items()]
        return settings + [word for word, is_set in options.items() if is_set]

    @property
    def promised_l0(self) -> float | None:
        """Latents that should fire in a row of data not seen; None if nothing says so."""
        return None

    @property
    def unit_rows(self) -> bool:
        """Whether decoder rows are held at length 1 in training."""
        return True

    @property
    def output_site(self) -> str | None:
        """The site that it reconstructs, if that is another than it reads."""
        return None

    def takes(self, site: str) -> bool:
        """Whether it can be trained at this site; it is left out at others."""
        return True

    @property
    def place(self) -> str:
        """For people: at which sites it can be trained."""
        return "it can be trained at any site"

    def identity(self) -> dict[str, Any]:
        """What decides the result, as JSON: all settings but options at their default.

        Which seeds of `mutual` are held out is said by the runs that are trained together.
        """
        fields = type(self).model_fields
        default = {name for name in self.OPTIONAL if getattr(self, name) == fields[name].default}
        out = self.model_dump(mode="json", exclude=default)
        if self.mutual is not None:
            del out["mutual"]["held_out"]
        return out


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


LONG = 30_000
"""Steps from which the paper's rate is enough for what a penalty has to teach; below, the default
grows as the root of what is missing, up to ten times. docs/training.md has how it was found."""


class PenalisedSpec(ArchitectureSpec):
    """A penalty, and what brings it to the number of latents that should fire."""

    penalty: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the penalty beside the FVU; where it starts if there is a `target_l0`."""
    target_l0: Annotated[float, Field(gt=0)] | None = None
    """Latents that should fire in a row at the end of training; the penalty is moved until they
    do."""
    penalty_warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the steps in which the penalty grows linearly from 0."""

    @model_validator(mode="after")
    def _reachable(self) -> PenalisedSpec:
        if self.target_l0 is not None and self.target_l0 > self.latents:
            raise ValueError(
                f"target_l0 = {self.target_l0:g} is above latents = {self.latents}; no more "
                "latents can fire than there are, lower target_l0 or raise latents"
            )
        if self.target_l0 is not None and self.penalty == 0:
            raise ValueError(
                f"target_l0 = {self.target_l0:g} is reached by moving the penalty, and a penalty "
                "of 0 cannot be moved; leave penalty out, or take target_l0 out"
            )
        return self

    @property
    def promised_l0(self) -> float | None:
        return self.target_l0

    def rate(self, steps: int) -> float:
        short = 1.0 if self.lr or self.optimizer != "adam" else (LONG / steps) ** 0.5
        return self.peak_lr * min(10.0, max(1.0, short))

    @property
    def settings(self) -> dict[str, Any]:
        penalty = {"p": self.penalty} if self.target_l0 is None else {"l0_": self.target_l0}
        return penalty | self.variant

    @property
    def variant(self) -> dict[str, Any]:
        """Settings besides the penalty that tell it from others."""
        return {}
