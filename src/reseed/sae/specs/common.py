"""What all architectures have in common in a study's settings. Read without torch."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from reseed.records import Spec


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

    latents: Annotated[int, Field(ge=2)]
    """F, the width."""
    lr: Annotated[float, Field(gt=0)] | None = None
    """Peak learning rate; left out, the paper's 2e-4 / sqrt(latents / 2^14)."""
    dead_after: Annotated[int, Field(ge=1)] = 10_000_000
    """Tokens without firing after which a latent counts as dead."""
    end_to_end: EndToEndSpec | None = None
    """Trains through the subject."""

    @property
    def name(self) -> str:
        """Of the architecture, also that of the file that trains it."""
        return type(self).model_fields["architecture"].default

    @property
    def peak_lr(self) -> float:
        """The learning rate after warm-up."""
        return self.lr if self.lr is not None else 2e-4 / (self.latents / 2**14) ** 0.5

    @property
    def settings(self) -> dict[str, Any]:
        """What tells it from others of its architecture and width: name to value, in order."""
        return {}

    @property
    def methods(self) -> list[str]:
        """What is unusual in how it is trained, a word each."""
        if self.end_to_end is None:
            return []
        return ["e2e+ds" if self.end_to_end.sites else "e2e"]

    @property
    def label(self) -> str:
        """As shown to people."""
        return " ".join([self.name, f"{self.latents:,}", *self._words])

    @property
    def shape(self) -> str:
        """Architecture and sizes, fit for a file name."""
        return "-".join([self.name, f"f{self.latents}", *self._words])

    @property
    def _words(self) -> list[str]:
        told = [f"{name}{_short(value)}" for name, value in self.settings.items()]
        return told + self.methods

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


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def check_k(k: int, latents: int) -> None:
    """Refuse more active latents than there are.

    Raises:
        ValueError: with both numbers.
    """
    if k > latents:
        raise ValueError(
            f"k = {k} is above latents = {latents}; no more latents can fire than there are, lower "
            "k or raise latents"
        )
