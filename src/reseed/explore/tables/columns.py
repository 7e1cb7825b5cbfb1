"""The columns of the table of latents: what they are called and how their values are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reseed.report.html import NONE, beside, count, decimals, percent, rate

COLUMN_WORDS = {
    "run": "run",
    "latent": "latent",
    "n_matched": "found in",
    "recurrence_mean": "reproducibility",
    "max_decoder_cos": "best cosine",
    "q_fdr": "q (FDR)",
    "firing_rate": "fires on",
    "verdict": "verdict",
    "explanation": "explanation",
    "enc_dec_cos": "encoder–decoder cosine",
    "own_max_cos": "nearest in its own run",
    "mean_act": "mean activation",
    "max_act": "largest activation",
    "coherence": "neighbours fire too",
    "coherence_null": "neighbours, by chance",
}
"""Titles; other columns are titled by their name."""

SHOWN = (
    "latent", "explanation", "n_matched", "recurrence_mean", "max_decoder_cos", "q_fdr",
    "firing_rate", "verdict",
)  # fmt: skip
"""Where the address does not say which."""

CHOICES = ("group", "run", "verdict")
"""Columns of few values, filtered by choosing one."""

HISTOGRAMS = (
    "n_matched", "recurrence_mean", "max_decoder_cos", "q_fdr", "firing_rate", "enc_dec_cos",
)  # fmt: skip

LOGARITHMIC = ("firing_rate",)
"""Drawn over powers of ten; zeros are left out."""

_SHARES = ("recurrence", "recurrence_mean", "recurrence_lo", "recurrence_hi", "subspace_overlap",
           "coherence", "coherence_null")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column that can be shown, sorted and filtered."""

    name: str
    type: str
    """of the database: DOUBLE, BIGINT, BOOLEAN, VARCHAR, or of a list"""

    @property
    def title(self) -> str:
        """As it stands above the table."""
        return COLUMN_WORDS.get(self.name, self.name.replace("_", " "))

    @property
    def is_number(self) -> bool:
        """Whether it is filtered by a range."""
        return self.type in ("DOUBLE", "FLOAT", "BIGINT", "INTEGER", "UINTEGER", "UBIGINT")

    @property
    def is_list(self) -> bool:
        """Whether a row holds several values; it cannot be sorted or filtered."""
        return self.type.endswith("[]")

    @property
    def range_hint(self) -> str:
        """An example of a filter."""
        if self.is_number:
            return "e.g. 0.1..0.5"
        if self.type == "BOOLEAN":
            return "true or false"
        return "all of it" if self.name in CHOICES else "part of it"


def written(name: str, row: dict[str, Any]) -> str:
    """A cell as people read it."""
    value = row.get(name)
    if value is None:
        return NONE
    if name == "n_matched":
        seeds = row.get("n_seeds")
        return f"{value}" if seeds is None else f"{value} of {seeds - 1}"
    if name == "recurrence_mean" and row.get("recurrence_lo") is not None:
        return beside(value, (row["recurrence_lo"], row["recurrence_hi"]))
    if name in _SHARES:
        return percent(value)
    if name == "firing_rate":
        return "dead" if value == 0 else rate(value)
    if name == "verdict":
        return str(value).replace("_", " ")
    return plainly_written(name, value)


def plainly_written(name: str, value: Any) -> str:
    """A value by its type and the name of its column."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(NONE if item is None else plainly_written(name, item) for item in value)
    if isinstance(value, int):
        return str(value) if name.endswith("seed") else count(value)
    if isinstance(value, float):
        near = name.endswith("_cos") or name.startswith("score_")
        return decimals(value) if near else f"{value:.3g}"
    return str(value)
