"""What a study says about matching, evidence, statistics, calibration and comparison.

Names of sites: which are read, which are joined, which runs are trained at. Without torch.

`a+b` is a joined site: the rows of a and b side by side. Its parts are read, whether or not runs
are trained at them; so are the targets of transcoders.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

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


def fits(name: str, pattern: str) -> bool:
    """Whether a name is what a pattern means: `*` and `?` are special, `[ ]` mean themselves."""
    return name == pattern or fnmatchcase(name, pattern.replace("[", "[[]"))


def fits_path(path: str, pattern: str) -> bool:
    """The same of paths, component by component."""
    parts, wanted = path.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fits, parts, wanted))


def _means(pattern: str, site: str) -> bool:
    return fits_path(site, plain(pattern))


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
    max_norm: Annotated[float, Field(gt=1)] | None = None
    """Rows that are more than so many times as long as the median row of a site are left out, at
    all sites; 10 leaves out attention sinks wherever they stand. Left out, all are used. One more
    pass over the activations."""
    keep: Literal["auto", "live", "shards"] = "auto"
    """`live`: through the subject at every pass; `shards`: once, then from disk; `auto`: decided by
    the size and the number of passes."""
    cache: str | None = None
    """Folder outside the study, seen from where the command runs, that shards are shared through:
    studies of the same activations harvest once. `reseed cache` shows and trims it. Language models
    only."""
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

    @model_validator(mode="after")
    def _kept(self) -> ActivationSpec:
        if self.cache is not None and self.keep == "live":
            raise ValueError('keep = "live" keeps no shards that a cache could hold; leave one out')
        return self


class MatchingSpec(Spec):
    """How a latent counts as shared."""

    tau: Annotated[float, Field(gt=0, le=1, multiple_of=0.01)] = 0.7
    """The paper's threshold on both cosines; the whole curve over tau is given beside it, in
    steps of 0.01."""


class EvidenceSpec(Spec):
    """What is kept of each latent's firing on held-out tokens."""

    contexts: Annotated[int, Field(ge=0)] = 6
    """Strongest contexts kept of each latent, each from another block."""
    before: Annotated[int, Field(ge=0)] = 20
    """Tokens shown before the strongest one."""
    after: Annotated[int, Field(ge=0)] = 8
    """Tokens shown after it."""
    through_tokens: Annotated[int, Field(ge=0)] = 0
    """Held-out tokens on which the subject predicts with each reconstruction in place; 0 for none,
    since a pass through the whole subject is needed for every run."""
    substitution_pairs: Annotated[int, Field(ge=0)] = 0
    """Latents of each group that are replaced by their partners in the subject, in all pairs of
    runs together; 0 for none, since the subject reads a few hundred tokens for each. 500 say
    something."""
    examples: Annotated[int, Field(ge=0)] = 20
    """Windows kept of each latent for each use (explain, score, judge) and of each kind (firing,
    random, neighbour); 0 for none."""
    window: Annotated[int, Field(ge=2, le=4096)] = 32
    """Tokens in a window at the most."""
    strongest: Annotated[int, Field(ge=0)] = 5
    """Strongest windows kept for explaining besides the sample; at most `examples`."""
    neighbours: Annotated[int, Field(ge=0)] = 4
    """Nearest latents, by cosine of decoder rows, whose firing makes hard negatives."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Decides which documents are for which use, and which windows are drawn."""
    toy_text: bool = False
    """Show samples of the toy as text that names the features that fire; it has none otherwise."""


class StabilitySpec(Spec):
    """How chance is measured."""

    null_draws: Annotated[int, Field(ge=1)] = 3
    """Draws of the covariance-matched null for each run, beside the next one of its group."""
    dense_rate: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Firing rate above which a latent counts as dense."""


Share = Annotated[float, Field(gt=0, le=1)]


class CalibrationSpec(Spec):
    """When a latent counts as a true feature, and how many runs it is judged by."""

    feature: Share = 0.9
    """Cosine of a decoder row to a true feature from which on the latent is that feature."""
    capture: Share = 0.9
    """Length of a decoder row inside a planted subspace from which on the latent belongs to it."""
    stable: Share = 0.8
    """Mean squared cosine of principal angles from which on two spans are one subspace."""
    subset: Annotated[int, Field(ge=2)] = 3
    """M of the headline: so many runs judge, the others are held out as the truth. All sizes are in
    the tables."""
    bins: Annotated[int, Field(ge=1)] = 4
    """Of firing rate, with equally many latents (or true features) in each."""
    draws: Annotated[int, Field(ge=1)] = 100
    """Of random latents, for the null of each planted subspace."""


class FromSubject(Spec):
    """Activations made for a comparison, by a language model that reads text."""

    model: str
    """A hub name, a local folder, a GGUF file, or `package:NAME/path/file.gguf`."""
    text: str
    """File, folder, glob, `package:NAME/path`, or `datasets:NAME[[:CONFIGURATION]:SPLIT]`."""
    template: str = "{text}"
    """How a record becomes a document."""
    site: str
    """Module path where all SAEs read, e.g. `layers.6.mlp`."""
    tokens: Annotated[int, Field(ge=1)] = 20_000
    """Rows to run the SAEs on."""
    block: Annotated[int, Field(ge=2)] | None = None
    """Tokens in a block; left out, 256, or as many as the model takes where that is fewer."""
