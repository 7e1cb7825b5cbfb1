"""Every architecture that can be trained, by name. Read without torch."""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import Discriminator, Tag

from reseed.sae.specs.archetypal import ArchetypalSpec
from reseed.sae.specs.baselines import ICASpec, KMeansSpec, NMFSpec, PCASpec
from reseed.sae.specs.batchtopk import BatchTopKSpec
from reseed.sae.specs.common import ArchitectureSpec
from reseed.sae.specs.crosscoder import CrosscoderSpec
from reseed.sae.specs.gated import GatedSpec
from reseed.sae.specs.groupmax import GroupMaxSpec
from reseed.sae.specs.jumprelu import JumpReLUSpec
from reseed.sae.specs.llamascope import LlamaScopeSpec
from reseed.sae.specs.matching_pursuit import MatchingPursuitSpec
from reseed.sae.specs.matryoshka import MatryoshkaSpec
from reseed.sae.specs.panneal import PAnnealSpec
from reseed.sae.specs.relu import ReLUSpec
from reseed.sae.specs.topk import TopKSpec
from reseed.sae.specs.transcoder import SkipTranscoderSpec, TranscoderSpec

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
