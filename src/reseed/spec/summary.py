"""What `summary.json` holds, typed from the statistic to the page; keys in docs/summary.md.

What could not be told is None. A key that a record was made without is left out of the file: a
group of one run has nothing from `independent` on.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import ValidationError

from reseed.errors import StoreError
from reseed.records import Spec
from reseed.spec.statistics import (
    AssignmentSummary,
    Components,
    Contributions,
    Counts,
    Estimate,
    Families,
    FeatureCounts,
    Headline,
    Independent,
    OffsetPowerLaw,
    OutlyingRun,
    PosteriorFit,
    Range,
    Reconstruction,
    Strata,
    Structure,
    Substitution,
)

SCHEMA_VERSION = 2
"""Rises when a key changes its name or its meaning; not when one is added."""


class GroupSummary(Spec):
    """The numbers of runs that differ in nothing but their seeds."""

    label: str
    runs: list[str]
    tokens: int
    counts: Counts
    reconstruction: Reconstruction
    distance_from_init: Range
    independent: Independent | None = None
    outlying: list[OutlyingRun] | None = None
    """Runs that stand out; the headline counts them."""
    headline: Headline | None = None
    families: Families | None = None
    reproducibility: dict[str, PosteriorFit] | None = None
    only_in_one: dict[str, OffsetPowerLaw] | None = None
    unseen: FeatureCounts | None = None
    components: Components | None = None
    structure: Structure | None = None
    contributions: Contributions | None = None
    certificates: AssignmentSummary | None = None


T = TypeVar("T", bound=Spec)


def read_record(kind: type[T], document: Any, where: str) -> T:
    """A record from a JSON file.

    Args:
        kind: of the record.
        document: what the file holds.
        where: the file, for messages.

    Raises:
        StoreError: if it was written by a version with other keys.
    """
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise StoreError(
            f"{where} is not as this version writes it ({place}: {first['msg']}). `reseed run` "
            "writes it anew."
        ) from None


def document_of(record: Spec) -> dict[str, Any]:
    """The JSON value of a record, without what it was made without."""
    return record.model_dump(mode="json", exclude_unset=True)


class ControlSummary(Spec):
    """Control runs of a group; None where fewer than two are done."""

    null: str
    """Id, see docs/nulls.md."""
    rules_out: str
    group: str | None
    counts: Counts | None
    reconstruction: Reconstruction | None
    distance_from_init: Range | None
    shared: Strata | None


class StudyGroup(GroupSummary):
    """A group beside its controls."""

    group: str
    """Name of its folder below `stability/`."""
    controls: dict[str, ControlSummary]
    through_subject: dict[str, float] | None
    substitution: Substitution | None = None
    notes: list[str]


class CorrectedEstimate(Estimate):
    """A share across groups beside one draw of the null."""

    null: float | None
    chance_corrected: float | None


class LevelEstimate(Estimate):
    """The mean of a measure at a level of a factor."""

    level: int | float | str


class Effect(Spec):
    """What a factor does to a measure."""

    levels: list[LevelEstimate]
    doubling: Estimate | None
    """None for classes."""
    changes_with: list[str] | None
    """None if the effect can be told; else the factors that change with it, empty for one level."""


class PartOfSpread(Spec):
    """Share of the sum of squares that goes with a factor."""

    share: float | None
    by_seeds: float | None
    """What other seeds alone would put there."""


class Spread(Spec):
    """How the means of cells differ."""

    cells: int
    sd: float
    parts: dict[str, PartOfSpread]
    seeds: float | None


class Decomposition(Spec):
    """A measure over the groups of a study."""

    effects: dict[str, Effect]
    interaction: Estimate | None
    """Of width with k."""
    spread: Spread


class AcrossGroups(Spec):
    """Two groups matched with each other; None without runs of different init seeds."""

    small: str
    large: str
    differ: str
    pairs: int
    found: CorrectedEstimate | None
    found_back: CorrectedEstimate | None
    nearest: CorrectedEstimate | None
    pw_mcc: CorrectedEstimate | None


class Factors(Spec):
    """What width, k, site and tokens do."""

    tau: float
    groups: list[dict[str, Any]]
    """`group`, `label`, the level of each factor and of each key of `also_differ`."""
    also_differ: list[str]
    init_seeds: int
    data_seeds: int
    measures: dict[str, Decomposition]
    across: list[AcrossGroups]
    words: list[str]


class Activations(Spec):
    """What the runs read."""

    sites: dict[str, int]
    """Name to dimensions."""
    training_tokens: int
    held_out_tokens: int
    change_from_float32: dict[str, Any] | None = None
    """Where the subject computes in another format, see docs/activations.md."""
    long_rows: dict[str, Any] | None = None
    """Where long rows are left out: `max_norm`, `median` norm by site, `rows` and `left_out` of
    them; the tokens above count all."""


class Training(Spec):
    """What each run saw."""

    tokens: int
    epochs: float
    init_seeds: list[int]
    data_seeds: list[int]


class RunStates(Spec):
    """Which runs there are."""

    done: list[str]
    missing: list[str]
    failed: dict[str, str]
    """Id to reason."""


class Summary(Spec):
    """The whole of `summary.json`."""

    schema_version: int = SCHEMA_VERSION
    reseed: str
    """Version of the package."""
    study: str
    subject: dict[str, Any]
    activations: Activations
    training: Training
    runs: RunStates
    groups: list[StudyGroup]
    factors: Factors | None

    @property
    def rows_are(self) -> str:
        """What people call its rows: a text's are tokens, those of any other subject are rows."""
        return "tokens" if self.subject["kind"] == "language_model" else "rows"
