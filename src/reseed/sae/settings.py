"""What the settings of all architectures have in common. Read without torch."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import AfterValidator, Field, model_validator

from reseed.records import Spec
from reseed.sae.options import EndToEndSpec, Init, MutualSpec, known_start

Share = Annotated[float, Field(gt=0, lt=1)]

Optimizer = Literal["adam", "muon", "signum"]

LRSchedule = Literal["linear", "cosine", "constant"]

_BASE_LR: dict[Optimizer, float] = {"adam": 2e-4, "muon": 2e-4, "signum": 5e-3}
"""At 2^14 latents: 2501.16615's Adam; sparsify's signum. Muon is scaled to Adam's steps."""


class ArchitectureSpec(Spec):
    """The part of `[[sae]]` that is the same for all architectures."""

    OPTIONAL: ClassVar[frozenset[str]] = frozenset(
        {"init", "init_noise", "init_sha256", "center", "tied_init", "weight_l2", "aligned"}
        | {"optimizer", "lr_schedule", "k_start", "k_share", "mutual", "end_to_end"}
    )
    """Settings that are no part of what a run is as long as they are at their default."""
    without: ClassVar[frozenset[str]] = frozenset()
    """Settings that this architecture cannot have."""
    subtracts: ClassVar[bool] = True
    """Whether it takes a centre of its own out of what it reads."""
    trains: ClassVar[frozenset[str]] = frozenset({"W_enc", "W_dec"})
    """Matrices that steps move, and that a control can therefore hold."""

    latents: Annotated[int, Field(ge=2)]
    """F, the width."""
    lr: Annotated[float, Field(gt=0)] | None = None
    """Peak learning rate; left out, the paper's 2e-4 / sqrt(latents / 2^14) (signum: 5e-3)."""
    dead_after: Annotated[int, Field(ge=1)] = 10_000_000
    """Tokens without firing after which a latent counts as dead."""
    end_to_end: EndToEndSpec | None = None
    """Trains through the subject."""
    init: Annotated[str, AfterValidator(known_start)] = "linear"
    """Encoder rows at the start: `linear`, of a linear layer; `orthogonal`, a semi-orthogonal
    matrix; `subspace`, a linear layer within the subspace of the first batch; `data`, rows of it;
    `kmeans`, by k-means++. Or an SAE to go on from, in any format that is read: a path with a slash
    in it, or `hf:OWNER/REPO/PATH@REVISION`. See docs/training_methods.md."""
    init_noise: Annotated[float, Field(ge=0)] = 0.0
    """With an SAE to go on from, length of what the init seed adds to each of its encoder and
    decoder rows, in parts of the row's; with 0 the init seed decides nothing."""
    init_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """Checksum of the SAE to go on from, as `reseed plan` says it; left out, that of what lies
    there when the study begins. It is part of what a run is, the path is not."""
    center: bool = False
    """Take the mean of the site over training rows out of what is read (arXiv 2605.31518), and put
    it into the biases of what is saved; for rules that subtract nothing."""
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
        self._check_start()
        self.refuse_idle("k_start", self.k_start, "k_share")
        if self.k_start is not None and k is None:
            raise ValueError(f"k_start = {self.k_start}, but {self.name} has no k; take it out")
        if self.k_start is not None and k is not None and not k < self.k_start <= self.latents:
            raise ValueError(
                f"k_start = {self.k_start} must lie between k = {k} and latents = {self.latents}, "
                "above k; change it, or take it out"
            )
        for option in ("aligned", "tied_init"):
            if getattr(self, option) and self.output_site is not None:
                raise ValueError(
                    f"{option} needs encoder and decoder rows of one space; a transcoder's are "
                    "not, take it out"
                )
        if self.mutual is not None:
            self.mutual.check(self.name, self.latents, k)
        return self

    def _check_start(self) -> None:
        if self.center and self.end_to_end is not None:
            raise ValueError("center and end_to_end do not go together; take one out")
        if self.center and self.subtracts:
            raise ValueError(
                f"center is for rules that subtract nothing from what they read; {self.name} takes "
                "out a centre of its own, so take center out"
            )
        if self.published is None and (self.init_noise or self.init_sha256):
            raise ValueError(
                f"init_noise and init_sha256 are of an SAE to go on from, and init = {self.init!r} "
                "is none; name one in init, or take them out"
            )
        if self.published is not None and (self.aligned or self.tied_init is not None):
            raise ValueError(
                "aligned and tied_init change the rows that an SAE to go on from has; take them, "
                f"or init = {self.init!r}, out"
            )

    @property
    def name(self) -> str:
        """Of the architecture."""
        return type(self).model_fields["architecture"].default

    @property
    def published(self) -> str | None:
        """Where the SAE lies that training goes on from; None if it starts anew."""
        return None if self.init in get_args(Init) else self.init

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
            self.init: self.published is None and self.init != "linear",
            f"from_{(self.init_sha256 or 'sae')[:6]}": self.published is not None,
            f"noise{self.init_noise:g}": self.init_noise > 0,
            "centred": self.center,
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

    def check_seeds(self, seeds: Collection[int]) -> None:
        """Refuse, by a ValueError, init seeds that decide nothing: the same training each time."""
        if self.published is not None and not self.init_noise and len(seeds) > 1:
            raise ValueError(
                f"init = {self.init!r} is an SAE that training goes on from, so that init seeds "
                f"{sorted(seeds)} decide nothing: these runs would be the same to the last bit. "
                "Vary seeds.data (the order of the rows) with one init seed, or let the init seeds "
                "draw a perturbation: init_noise = 0.05"
            )

    def check_rows(self, rows: int) -> None:
        """Refuse, by a SpecError, a training of so many rows that it cannot be found from."""

    def check_width(self, dimensions: int) -> None:
        """Refuse, by a SpecError, rows of so many dimensions that it cannot be trained on."""

    def identity(self) -> dict[str, Any]:
        """What decides the result, as JSON: all settings but options at their default.

        Which seeds of `mutual` are held out is said by the runs that are trained together.
        """
        fields = type(self).model_fields
        default = {name for name in self.OPTIONAL if getattr(self, name) == fields[name].default}
        out = self.model_dump(mode="json", exclude=default)
        if self.init_sha256 is not None:
            del out["init"]  # the same SAE in another place is the same start
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
