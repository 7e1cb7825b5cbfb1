"""Every architecture that can be trained, by name. Read without torch."""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import Discriminator, Tag

from reseed.sae.specs.batchtopk import BatchTopKSpec
from reseed.sae.specs.common import ArchitectureSpec
from reseed.sae.specs.gated import GatedSpec
from reseed.sae.specs.groupmax import GroupMaxSpec
from reseed.sae.specs.jumprelu import JumpReLUSpec
from reseed.sae.specs.matryoshka import MatryoshkaSpec
from reseed.sae.specs.panneal import PAnnealSpec
from reseed.sae.specs.relu import ReLUSpec
from reseed.sae.specs.topk import TopKSpec

DEFAULT = "topk"


def _architecture(data: Any) -> Any:
    if isinstance(data, ArchitectureSpec):
        return data.name
    return data.get("architecture", DEFAULT) if isinstance(data, dict) else None


SAESpec = Annotated[
    Annotated[TopKSpec, Tag("topk")]
    | Annotated[BatchTopKSpec, Tag("batchtopk")]
    | Annotated[JumpReLUSpec, Tag("jumprelu")]
    | Annotated[GatedSpec, Tag("gated")]
    | Annotated[ReLUSpec, Tag("relu")]
    | Annotated[PAnnealSpec, Tag("panneal")]
    | Annotated[MatryoshkaSpec, Tag("matryoshka")]
    | Annotated[GroupMaxSpec, Tag("groupmax")],
    Discriminator(_architecture),
]
"""One `[[sae]]` table."""

ARCHITECTURES: dict[str, type[ArchitectureSpec]] = {
    get_args(member)[1].tag: get_args(member)[0] for member in get_args(get_args(SAESpec)[0])
}
"""Name to settings, of all in `SAESpec`."""
