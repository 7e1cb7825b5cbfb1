"""What a study says about its trainings, and what one run is. Read without torch."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from reseed.errors import SpecError
from reseed.records import Spec
from reseed.sae.architectures import SAESpec
from reseed.seeds import digest

Fraction = Annotated[float, Field(gt=0, lt=1)]

Control = Literal[
    "gaussian",
    "shuffled",
    "random_subject",
    "frozen_decoder",
    "soft_frozen_decoder",
    "frozen_encoder",
]
"""A way to train in which there is less to find, or nothing; docs/nulls.md says what each tells."""

HELD: dict[Control | None, str] = {
    "frozen_decoder": "W_dec",
    "soft_frozen_decoder": "W_dec",
    "frozen_encoder": "W_enc",
}
"""The rows that a control keeps where they started, or near; biases are trained."""


def check_held(sae: SAESpec, control: Control | None) -> None:
    """Refuse a control that would hold in place what steps do not move.

    Raises:
        SpecError: naming it.
    """
    held = HELD.get(control)
    if held and held not in sae.trains:
        raise SpecError(
            f"controls.kinds has {control!r}, but {sae.name} has no trained {held} that could be "
            "held; take the control or the architecture out"
        )


_OTHER_ACTIVATIONS: tuple[Control, ...] = ("gaussian", "shuffled", "random_subject")


class TrainingSpec(Spec):
    """How every run of a study is trained."""

    tokens: Annotated[int, Field(ge=1, le=10**13)]
    """Tokens that each run sees, repeats over epochs counted."""
    batch: Annotated[int, Field(ge=2)] = 1024
    """B, tokens in a step."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Steps of linear warm-up before the linear decay to 0; left out, the paper's 1,000 or a tenth
    of all steps, whichever is less."""
    clip: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of the gradient of one run."""
    scale: bool = True
    """Train on rows of each site scaled to a mean length of 1, so that rates, penalties and
    thresholds mean the same in every unit; SAEs that are saved read raw rows all the same."""
    snapshots: tuple[Fraction, ...] = (0.5,)
    """Shares of the tokens at which the SAE is kept and matched besides the start and the end: a
    trend. Each costs the matching of every pair and the disk of a run once more."""
    checkpoint_tokens: Annotated[int, Field(ge=1)] = 250_000
    """Tokens between two checkpoints; a training that was stopped continues at the last one."""
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Processor threads; left out, as many as torch takes. Results are bit-identical only for the
    same number."""

    @model_validator(mode="after")
    def _possible(self) -> TrainingSpec:
        if self.tokens < self.batch:
            raise ValueError(
                f"tokens = {self.tokens} is below batch = {self.batch}; not one step could be made"
            )
        return self

    @property
    def steps(self) -> int:
        """Optimiser steps of a run; the last incomplete batch is left out."""
        return self.tokens // self.batch

    @property
    def warmup(self) -> int:
        """Steps of warm-up."""
        return min(1000, self.steps // 10) if self.warmup_steps is None else self.warmup_steps

    @property
    def snapshot_steps(self) -> tuple[int, ...]:
        """Steps after which the SAE is kept: 0, those asked for, the last."""
        inner = {round(share * self.steps) for share in self.snapshots}
        return tuple(sorted({0, self.steps} | inner))


class ControlsSpec(Spec):
    """Runs that are trained to compare with (nulls N5 to N7), with the seeds of the real ones."""

    kinds: tuple[Control, ...] = ()
    """Each trains as many runs again as the study has."""
    random_weights: Annotated[int, Field(ge=0)] = 0
    """Seed of the weights of the subject in `random_subject`."""

    @model_validator(mode="after")
    def _different(self) -> ControlsSpec:
        if len(set(self.kinds)) < len(self.kinds):
            raise ValueError(f"kinds = {list(self.kinds)} names a control twice")
        return self


def without_mean(site: str) -> str:
    """What the rows of a site less their mean are called among the rows of a batch."""
    return f"{site} less its mean"


_LONGEST = 107
"""Characters of a run's name: two of them, and what is added while a piece is written, are one name
of a file."""


class RunSpec(Spec):
    """One training. Its identity is the digest of what it is made of."""

    data: str
    """Digest of subject, text and activations."""
    site: str
    sae: SAESpec
    training: TrainingSpec
    init_seed: Annotated[int, Field(ge=0)]
    data_seed: Annotated[int, Field(ge=0)]
    control: Control | None = None
    """What makes it a control run; None for the runs of the question."""
    ensemble: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Init seeds of all runs that are trained together with it, itself among them; () if alone."""

    @model_validator(mode="after")
    def _possible(self) -> RunSpec:
        if self.sae.init in ("data", "kmeans") and self.training.batch < self.sae.latents:
            raise ValueError(
                f'init = "{self.sae.init}" takes latents = {self.sae.latents} different rows of '
                f"the first batch, which has {self.training.batch}; raise training.batch, lower "
                'latents, or take init = "orthogonal"'
            )
        if self.sae.aligned and self.control == "frozen_encoder":
            raise ValueError("aligned moves encoder rows with the decoder's; a frozen encoder "
                             "cannot be, take one of the two out")  # fmt: skip
        if self.ensemble and (self.init_seed not in self.ensemble or len(self.ensemble) < 2):
            raise ValueError(
                f"ensemble = {list(self.ensemble)} must have init_seed = {self.init_seed} and one "
                "more at least"
            )
        return self

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the result; how often it is saved on the way does not.

        A control, an ensemble or an option that there is none of is left out, and so is no part of
        the ids, from which random draws of the analysis are made too.
        """
        saving = {"checkpoint_tokens", "threads"}
        out = self.model_dump(mode="json", exclude={"training": saving, "sae": True})
        left_out = {name for name in ("control", "ensemble") if not out[name]}
        if not self.training.scale:  # as it was before there was a scale
            del out["training"]["scale"]
        kept = {name: value for name, value in out.items() if name not in left_out}
        return kept | {"sae": self.sae.identity()}

    @property
    def target(self) -> str:
        """The site that is reconstructed; `site` but for a transcoder."""
        return self.sae.output_site or self.site

    @property
    def rows(self) -> tuple[str, str]:
        """Which rows of a batch are read, and which are reconstructed."""
        site, target = self.site, self.target
        if not self.sae.center:
            return site, target
        return without_mean(site), without_mean(site) if target == site else target

    @property
    def reads(self) -> Control | None:
        """The control whose activations it learns from; None for those of the subject."""
        return self.control if self.control in _OTHER_ACTIVATIONS else None

    @property
    def id(self) -> str:
        """Readable name with the first digits of the identity's digest; also the folder's name."""
        ending = f"-i{self.init_seed}-d{self.data_seed}-{digest(self.identity, 8)}"
        return self._shape[: _LONGEST - len(ending)] + ending

    @property
    def group(self) -> str:
        """Name of the runs that differ from this one in nothing but their seeds."""
        same = {k: v for k, v in self.identity.items() if k not in ("init_seed", "data_seed")}
        return f"{self._shape}-{digest(same, 6)}"

    @property
    def _shape(self) -> str:
        """Site, architecture and sizes, fit for a file name: arrays are named by the user."""
        site = re.sub(r"[^A-Za-z0-9._-]", "-", self.site)[-60:]
        shape = f"{site}.{self.sae.shape}"
        return shape if self.control is None else f"{shape}-{self.control}"
