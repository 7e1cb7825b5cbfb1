"""What the statistics of a group of runs say, typed from the statistic to the page.

What could not be told is None. A key that a record was made without is left out of the file: a
group of one run has nothing from `independent` on.
"""

from __future__ import annotations

from collections.abc import Mapping

from reseed.records import Spec

Ends = tuple[float, float]
"""Lower and upper end of a 95 % interval."""


class Range(Spec):
    """Mean and range over runs, or over draws of a null."""

    mean: float | None
    lo: float | None
    hi: float | None


class Estimate(Spec):
    """A number with its interval over runs."""

    value: float | None
    interval_95: Ends | None
    """None with fewer than three runs, or three levels of a crossed seed."""


class Number(Estimate):
    """A headline number beside its nulls."""

    null_covariance: Range | None
    """Over draws of the covariance-matched null."""
    null_untrained: float | None
    """The same measurement before the first step."""
    chance_corrected: float | None
    """(value - null mean) / (1 - null mean)."""


Strata = Mapping[str, Number]
"""Stratum of latents to its number."""


class Headline(Spec):
    """Every measure on every stratum at `tau`."""

    tau: float
    shared: Strata
    both: Strata
    equal: Strata
    decoder_only: Strata
    max_cos_both: Strata
    pw_mcc: Strata
    mmcs_decoder: Strata
    match_at_fdr: Strata
    nearest_at_fdr: Strata
    in_itself: Mapping[str, Range] = {}
    """`all`, `live`: share of a run's latents that the same test finds among the run's own others.
    Above .01 a run has near-duplicates, or random latents are less alike than they should be."""
    null_kinds: Mapping[str, list[str]] = {}
    """`all`, `live`: how the random dictionaries were made, of `reseed.stability.decoys`."""
    ceiling_same_run: float
    """What the measurement gives for a run with itself."""

    def of(self, measure: str) -> Strata:
        """The numbers of a measure by its id."""
        return getattr(self, measure)


class Counts(Spec):
    """Runs, pairs and latents."""

    runs: int
    pairs: int
    latents: int
    """Of a run."""
    live: list[int]
    """Of each run."""
    dead: list[int]
    dense: list[int]

    @property
    def dead_share(self) -> float:
        """Of all latents of all runs."""
        return sum(self.dead) / (self.latents * self.runs)


class Reconstruction(Spec):
    """Held-out reconstruction; what some run lacks is left out."""

    held_out_tokens: int
    fvu: Range | None = None
    fvu_uncentred: Range | None = None
    fvu_robust: Range | None = None
    """Without the rows that are far from the centre."""
    far_rows: Range | None = None
    """Share of the rows that `fvu_robust` leaves out."""
    far_variance: Range | None = None
    """Part of the variance that they hold."""
    l0: Range | None = None
    gamma: Range | None = None
    """|mean| / |std| of the rows that are reconstructed."""
    encoder_decoder_cosine: Range | None = None


class Independent(Spec):
    """The pairs that all shares are made of."""

    pairs: int
    they: str
    """What their runs share."""
    trials: int
    """Independent other runs of a latent."""


class Similarity(Spec):
    """Summed over shared pairs."""

    bound: float
    reached: float
    """Inside families."""
    gap: float


class Stars(Spec):
    """Latents by how many runs share them, seen from each run."""

    mean: list[float]
    lo: list[int]
    hi: list[int]


class FoundInN(Spec):
    """Latents of a run found in exactly 1 to M runs."""

    by_family: list[float]
    by_star: Stars


class Families(Spec):
    """Latents of several runs that are one feature."""

    by_size: dict[str, int]
    """Runs in the family to number of families."""
    orphans: int
    triangle_chains: int
    triangle_closure: float | None
    edges: int
    """Shared pairs."""
    edges_in_triangle: int
    edges_in_consistent: int
    edges_in_family: int
    similarity: Similarity
    n_of_m: FoundInN


class PosteriorFit(Spec):
    """The distribution of reproducibility over the latents of a stratum, of no assumed shape."""

    mean: float
    sd: float
    latents: int


class OffsetPowerLaw(Spec):
    """Share found in one of M runs only: a M^b + c, with c in [0, 1].

    c is where the fitted curve flattens within these runs, not the share that is never found again.
    """

    a: float | None
    b: float | None
    c: float | None
    c_interval_95: None = None
    """Withheld: leaving out runs tells how c moves, not how far it is from what is never found."""
    error: float | None = None
    """Mean error of the share at M runs as foretold without two of them; None below 6 runs."""
    error_beta_binomial: float | None = None
    """The same by the beta-binomial curve, which falls to 0."""


class FeatureCounts(Spec):
    """How many features there are to find, estimated from how often each was found."""

    runs: int
    """That count as occasions."""
    observed: int
    """Families and live orphans."""
    once: int
    twice: int
    once_implied: float | None
    """How many would be found once by what is found more often; None below three runs."""
    at_least: float | None
    """Lower bound that stands if all others found once are no features; None below three runs."""
    chao2: float
    """If all found once are features; else too high."""
    ice: float
    jackknife: float
    """First order."""
    warnings: list[str]


class Agreement(Spec):
    """Pairs of runs that share the same seeds."""

    pairs: int
    shared: Estimate
    pw_mcc: Estimate
    untrained: Estimate
    same_number: Estimate
    """Of the shared latents, how many have the partner of their own number."""


class Components(Spec):
    """Where disagreement comes from."""

    classes: dict[str, Agreement]
    """By what two runs share."""
    parts: dict[str, Estimate]
    """`feature`, `init`, `data`, `both`."""


class FitsByChance(Spec):
    """Share of random fits that reach what counts."""

    fit: float | None
    nearest: float | None
    gain: float | None


class Subspaces(Spec):
    """Neighbourhoods of latents that are left over."""

    tested: int
    stable: int
    by_chance: float


class Structure(Spec):
    """Beyond one-to-one, summed over pairs and sides."""

    verdicts: dict[str, int]
    left_over: int
    labels: dict[str, int]
    by_chance: FitsByChance
    subspaces: Subspaces


class AssignmentSummary(Spec):
    """How far the assignments at the end of training can be from the best."""

    assignments: int
    optimal: int
    largest_gap: float


class OutlyingRun(Spec):
    """A run that shares clearly less, or more, than the others do among each other."""

    run: str
    share: float
    """Shared share with the others, mean over pairs."""
    others: float
    """Of the others among each other: what the share is without this run."""


class Contributions(Estimate):
    """Cosine of what matched latents add to reconstructions, mean over those that fire."""

    null_frequency: Range
    """With another latent that fires about as often; range over pairs of runs."""
    explained: float
    """Median share of a latent's contribution that its counterpart explains in its place."""


class SubstitutionPart(Spec):
    """How far partners stand in: 1 - effect of replacing / effect of ablating."""

    pairs: int
    documents: int
    kl: Estimate
    """By KL from the subject as it is."""
    cross_entropy: Estimate
    """By the rise of the cross-entropy of the next token."""


class Substitution(Spec):
    """Latents replaced by partners in the subject; intervals over documents, pairs and runs."""

    windows: int
    """Of held-out text, over all pairs."""
    kinds: dict[str, SubstitutionPart]
    by_cosine: dict[str, SubstitutionPart]
    """Counterparts by decoder rows, and the best ones of orphans."""
    by_rate: dict[str, SubstitutionPart]
    """Shared counterparts, by thirds of firing rate."""
