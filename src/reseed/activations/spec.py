"""What a study says about its activations. Read without torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from reseed.activations.names import check_joined
from reseed.records import Spec


class ActivationSpec(Spec):
    """Which activations are learned from, and how they are kept."""

    sites: Annotated[list[str], Field(min_length=1)]
    """Module paths below the base model, `*` for one path component: `layers.*.mlp`. The output,
    or the input with `:in` behind. Arrays and the toy name their own sites. `a+b` joins sites side
    by side, for crosscoders."""
    tokens: Annotated[int, Field(ge=1)]
    """Different tokens (rows, samples) to harvest, the held-out ones among them."""
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the blocks that no run trains on: for evaluation and for the contexts shown."""
    keep: Literal["auto", "live", "shards"] = "auto"
    """`live`: through the subject at every pass; `shards`: once, then from disk; `auto`: decided by
    the size and the number of passes."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """In which shards are kept; the rounding error is measured and written down."""
    shard_blocks: Annotated[int, Field(ge=1)] = 64
    """Blocks in a shard; a harvest that was stopped continues at the next shard."""
    mix_blocks: Annotated[int, Field(ge=1)] = 128
    """Blocks drawn at random and mixed row by row at a time; memory grows with it."""

    @field_validator("sites")
    @classmethod
    def _joined(cls, sites: list[str]) -> list[str]:
        check_joined(sites)
        return sites
