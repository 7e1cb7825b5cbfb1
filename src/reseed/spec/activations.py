"""Names of sites: which are read, which are joined, which runs are trained at. Without torch.

`a+b` is a joined site: the rows of a and b side by side. Its parts are read, whether or not runs
are trained at them; so are the targets of transcoders.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import Field, field_validator

from reseed.records import Spec

JOIN = "+"


def plain(site: str) -> str:
    """The one name of a site: without `:out`, which is what a path alone means."""
    return JOIN.join(part.removesuffix(":out") for part in site.split(JOIN))


def parts_of(site: str) -> list[str]:
    """The sites that are joined; a site that is none of these is its own only part."""
    return plain(site).split(JOIN)


def check_joined(sites: Iterable[str]) -> None:
    """Refuse joined sites that cannot be."""
    for site in sites:
        parts = parts_of(site)
        if len(parts) == 1:
            continue
        if "*" in site:
            raise ValueError(f"site {site!r} joins patterns; name each site that is joined")
        if "" in parts or len(set(parts)) < len(parts):
            raise ValueError(f"site {site!r} joins {parts}; it takes two different sites or more")


def to_read(sites: Sequence[str], targets: Iterable[str]) -> list[str]:
    """Patterns of all sites that have to be read, each once."""
    parts = [part for site in sites for part in (parts_of(site) if JOIN in site else [site])]
    read = dict.fromkeys(parts)
    known = {plain(part) for part in parts}
    return list(read | dict.fromkeys(target for target in targets if target not in known))


def trained_at(sites: Sequence[str], read: Mapping[str, int]) -> dict[str, int]:
    """The sites at which runs are trained, with their dimensions: those asked for."""
    alone = [site for site in sites if JOIN not in site]
    out = {name: d for name, d in read.items() if any(_means(pattern, name) for pattern in alone)}
    for site in sites:
        if JOIN in site:
            out[plain(site)] = sum(read[part] for part in parts_of(site))
    return out


def _means(pattern: str, site: str) -> bool:
    wanted, there = plain(pattern).split("."), site.split(".")
    return wanted == there or (len(wanted) == len(there) and all(map(fnmatchcase, there, wanted)))


class ActivationSpec(Spec):
    """Which activations are learned from, and how they are kept."""

    sites: Annotated[list[str], Field(min_length=1)]
    """Module paths below the base model, `*` for one path component: `layers.*.mlp`. The output,
    or the input with `:in` behind. Arrays and the toy name their own sites. `a+b` joins sites side
    by side, for crosscoders."""
    tokens: Annotated[int, Field(ge=1, le=10**12)]
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
