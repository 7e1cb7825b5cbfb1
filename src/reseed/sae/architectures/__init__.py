"""Every architecture that can be trained, by name. Read without torch."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import BeforeValidator, Discriminator, SerializeAsAny, Tag, TypeAdapter

from reseed.sae.architecture import Architecture
from reseed.sae.architectures.archetypal import ARCHETYPAL
from reseed.sae.architectures.baselines import ICA, KMEANS, NMF, PCA
from reseed.sae.architectures.batchtopk import BATCHTOPK, MATRYOSHKA
from reseed.sae.architectures.crosscoder import CROSSCODER
from reseed.sae.architectures.gated import GATED
from reseed.sae.architectures.groupmax import GROUPMAX
from reseed.sae.architectures.jumprelu import JUMPRELU
from reseed.sae.architectures.llamascope import LLAMASCOPE
from reseed.sae.architectures.matching_pursuit import MATCHING_PURSUIT
from reseed.sae.architectures.panneal import PANNEAL
from reseed.sae.architectures.relu import RELU
from reseed.sae.architectures.topk import TOPK
from reseed.sae.architectures.transcoder import SKIP_TRANSCODER, TRANSCODER
from reseed.sae.settings import ArchitectureSpec

ARCHITECTURES: dict[str, Architecture] = {
    architecture.name: architecture
    for architecture in (
        TOPK,
        BATCHTOPK,
        JUMPRELU,
        GATED,
        RELU,
        PANNEAL,
        MATRYOSHKA,
        GROUPMAX,
        LLAMASCOPE,
        MATCHING_PURSUIT,
        TRANSCODER,
        SKIP_TRANSCODER,
        CROSSCODER,
        ARCHETYPAL,
        PCA,
        ICA,
        NMF,
        KMEANS,
    )
}
"""A new architecture is a file of this folder and a line here."""


def architecture(name: str) -> Architecture:
    """The architecture of this name, one of `ARCHITECTURES`."""
    return ARCHITECTURES[name]


def _architecture(data: Any) -> Any:
    if isinstance(data, ArchitectureSpec):
        return data.name
    return data.get("architecture", TOPK.name) if isinstance(data, dict) else None


@lru_cache(maxsize=4)
def _reader(kinds: tuple[type[ArchitectureSpec], ...]) -> TypeAdapter[ArchitectureSpec]:
    """Reads the settings of any of these architectures."""
    union: Any = Union  # made of a list that may grow
    tagged = (Annotated[kind, Tag(kind.model_fields["architecture"].default)] for kind in kinds)
    table: Any = Annotated[union[tuple(tagged)], Discriminator(_architecture)]
    return TypeAdapter(table)


def _read(data: Any) -> Any:
    kinds = tuple(architecture.settings for architecture in ARCHITECTURES.values())
    return _reader(kinds).validate_python(data)


if TYPE_CHECKING:
    SAESpec = ArchitectureSpec
else:
    SAESpec = SerializeAsAny[Annotated[ArchitectureSpec, BeforeValidator(_read)]]
"""One `[[sae]]` table: the settings of the architecture that it names, TopK if it names none."""
