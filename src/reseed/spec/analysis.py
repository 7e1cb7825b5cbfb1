"""What a study says about matching, evidence, statistics, calibration and comparison."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from reseed.records import Spec


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
    """Draws of the covariance-matched null for each pair of runs."""
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
    """File, folder, glob, `package:NAME/path`, or `datasets:NAME[:SPLIT]`."""
    template: str = "{text}"
    """How a record becomes a document."""
    site: str
    """Module path where all SAEs read, e.g. `layers.6.mlp`."""
    tokens: Annotated[int, Field(ge=1)] = 20_000
    """Rows to run the SAEs on."""
    block: Annotated[int, Field(ge=2)] = 256
    """Tokens in a block."""
