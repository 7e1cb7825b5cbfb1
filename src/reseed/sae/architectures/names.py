"""Every architecture that can be trained, by name. Read without torch."""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import Discriminator, Tag

from reseed.sae.architectures.archetypal import ArchetypalSpec
from reseed.sae.architectures.batchtopk import BatchTopKSpec
from reseed.sae.architectures.crosscoder import CrosscoderSpec
from reseed.sae.architectures.gated import GatedSpec
from reseed.sae.architectures.groupmax import GroupMaxSpec
from reseed.sae.architectures.ica import ICASpec
from reseed.sae.architectures.jumprelu import JumpReLUSpec
from reseed.sae.architectures.kmeans import KMeansSpec
from reseed.sae.architectures.llamascope import LlamaScopeSpec
from reseed.sae.architectures.matching_pursuit import MatchingPursuitSpec
from reseed.sae.architectures.matryoshka import MatryoshkaSpec
from reseed.sae.architectures.nmf import NMFSpec
from reseed.sae.architectures.panneal import PAnnealSpec
from reseed.sae.architectures.pca import PCASpec
from reseed.sae.architectures.relu import ReLUSpec
from reseed.sae.architectures.topk import TopKSpec
from reseed.sae.architectures.transcoder import SkipTranscoderSpec, TranscoderSpec
from reseed.sae.settings import ArchitectureSpec

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
    | Annotated[GroupMaxSpec, Tag("groupmax")]
    | Annotated[LlamaScopeSpec, Tag("llamascope")]
    | Annotated[MatchingPursuitSpec, Tag("matching_pursuit")]
    | Annotated[TranscoderSpec, Tag("transcoder")]
    | Annotated[SkipTranscoderSpec, Tag("skip_transcoder")]
    | Annotated[CrosscoderSpec, Tag("crosscoder")]
    | Annotated[ArchetypalSpec, Tag("archetypal")]
    | Annotated[PCASpec, Tag("pca")]
    | Annotated[ICASpec, Tag("ica")]
    | Annotated[NMFSpec, Tag("nmf")]
    | Annotated[KMeansSpec, Tag("kmeans")],
    Discriminator(_architecture),
]
"""One `[[sae]]` table."""

ARCHITECTURES: dict[str, type[ArchitectureSpec]] = {
    get_args(member)[1].tag: get_args(member)[0] for member in get_args(get_args(SAESpec)[0])
}
"""Name to settings, of all in `SAESpec`."""
