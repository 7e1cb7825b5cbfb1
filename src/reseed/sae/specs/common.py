"""What all architectures have in common in a study's settings. Read without torch."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from reseed.records import Spec


class ArchitectureSpec(Spec):
    """The part of `[[sae]]` that is the same for all architectures."""

    latents: Annotated[int, Field(ge=2)]
    """F, the width."""
    lr: Annotated[float, Field(gt=0)] | None = None
    """Peak learning rate; left out, the paper's 2e-4 / sqrt(latents / 2^14)."""
    dead_after: Annotated[int, Field(ge=1)] = 10_000_000
    """Tokens without firing after which a latent counts as dead."""

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
    def label(self) -> str:
        """As shown to people."""
        words = (f"{name}{_short(value)}" for name, value in self.settings.items())
        return " ".join([self.name, f"{self.latents:,}", *words])

    @property
    def shape(self) -> str:
        """Architecture and sizes, fit for a file name."""
        words = (f"{name}{_short(value)}" for name, value in self.settings.items())
        return "-".join([self.name, f"f{self.latents}", *words])

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
