"""The frozen records that rooms hand to each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

from pydantic import BaseModel, ConfigDict

from reseed.errors import SpecError, extra_missing, nearest
from reseed.notebook.doors import door
from reseed.notebook.markup import html_table
from reseed.seeds import digest

if TYPE_CHECKING:
    import numpy as np
    import pandas
    import polars as pl
    from numpy.typing import NDArray
    from plotly.graph_objects import Figure

Floats: TypeAlias = "NDArray[np.float32]"

NOT_SHOWN = "not_shown"
"""Type of a `PydanticCustomError` about a value that may be a secret: messages leave it out."""


class Spec(BaseModel):
    """A small, frozen part of a study's settings, closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)

    def refuse_idle(self, needed: str, given: object, *names: str) -> None:
        """Refuse, by a ValueError, settings that change nothing unless what is needed is given.

        Of a result they would change its name alone.
        """
        for name in names:
            if not given and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is a part of {needed}; set that too, or take {name} out")

    def digest(self, length: int = 64) -> str:
        """Digest of the whole content, defaults included."""
        return digest(self.model_dump(mode="json"), length)


ACTIVATIONS = ("topk", "groupmax", "relu", "jumprelu", "batchtopk", "one_hot", "matching_pursuit")
"""What `SAEArrays.activation` may be."""

_WITHOUT_K = ("relu", "jumprelu", "one_hot")


def check_rule(activation: Mapping[str, Any], latents: int, threshold: Any, where: str) -> None:
    """Refuse an activation rule that cannot be applied.

    Args:
        activation: the rule as JSON.
        latents: F.
        threshold: `[F]` or None.
        where: names the SAE in messages.

    Raises:
        SpecError: if the rule is unknown, or lacks what it needs.
    """
    kind, k = activation.get("kind"), activation.get("k")
    if kind not in ACTIVATIONS:
        raise SpecError(
            f"{where}: activation {kind!r} is not known; {nearest(str(kind), ACTIVATIONS)}"
        )
    if (kind == "jumprelu") != (threshold is not None):
        raise SpecError(
            f"{where}: a jumprelu SAE needs a threshold for each latent, and no other kind has "
            f"one; this is {kind!r} {'without' if threshold is None else 'with'} thresholds"
        )
    if kind in _WITHOUT_K:
        return
    if kind == "batchtopk" and type(k) is float and 0 < k <= latents:
        return  # a mean over rows
    if type(k) is not int or not 1 <= k <= latents:
        raise SpecError(
            f"{where}: {kind} with k = {k!r} cannot be applied to {latents} latents; k is a whole "
            "number from 1 to their number"
        )
    if kind == "groupmax" and latents % k:
        raise SpecError(
            f"{where}: groupmax needs latents in k equal groups; {latents} is no multiple of {k}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SAEArrays:
    """A sparse autoencoder as plain arrays: what is in a file, and what matching needs.

    One kind for all architectures, in raw activation units: what a format scales or shifts was
    folded in. F latents, D input and E output dimensions (E = D but for a transcoder); rows are
    latents.

        reconstruct(x) = codes(x) @ W_dec + b_dec  (+ x @ W_skip.T)

    with codes from the pre-activations `p = (x - b_dec) @ W_enc.T + b_enc` (`x @ ...` if not
    `centred`) by the rule named in `activation`:

    - `{"kind": "topk", "k": k}`: the k largest of relu(p);
    - `{"kind": "groupmax", "k": k}`: the largest of relu(p) in each of k equal runs of latents;
    - `{"kind": "relu"}`: relu(p);
    - `{"kind": "jumprelu"}`: relu(p) where p > `threshold`, else 0;
    - `{"kind": "batchtopk", "k": k}`: the k N largest of relu(p) over all N rows given, for files
      without an inference threshold; codes of a row then depend on the other rows;
    - `{"kind": "one_hot"}`: 1 where p is largest, else 0;
    - `{"kind": "matching_pursuit", "k": k}`: the residual r starts as `x - b_dec`; k times the
      latent with the largest r · W_dec row, if that is positive, gets it added to its code, and r
      loses it times the row. Rows of W_dec have length 1; W_enc is W_dec, b_enc is 0.

    With `normalised` the mean of each row is taken out first and the row divided by its deviation
    (with D - 1) plus 1e-5; the reconstruction is multiplied by the deviation alone and gets the
    mean back, as all libraries do that have this. It cannot be folded into weights.
    """

    W_enc: Floats
    """[F, D]"""
    b_enc: Floats
    """[F]"""
    W_dec: Floats
    """[F, E]"""
    b_dec: Floats
    """[E]"""
    activation: Mapping[str, Any]
    """e.g. `{"kind": "topk", "k": 32}`"""
    threshold: Floats | None = None
    """[F], for jumprelu only"""
    W_skip: Floats | None = None
    """[E, D], of a skip transcoder"""
    centred: bool = True
    """whether `b_dec` is subtracted from the input"""
    normalised: bool = False
    """whether rows are normalised one by one before encoding"""
    about: Mapping[str, Any]
    """where it comes from: subject, site, tokens seen, seeds, what was folded; free-form JSON"""


def is_transcoder(sae: Any) -> bool:
    """Whether an SAE, arrays or tensors, writes another site than it reads, of its width or not."""
    read = sae.about.get("site")
    elsewhere = any(sae.about.get(key, read) != read for key in ("target", "site_out"))
    return elsewhere or sae.W_skip is not None or sae.W_enc.shape != sae.W_dec.shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """How an assignment was found and proven."""

    solver: str
    """what solved it, by name"""
    rounds: int = 1
    """solves on a growing set of pairs; 1 where all pairs were there at once"""
    edges: int
    """pairs that the solver saw"""
    ties: int | None = None
    """latents of the smaller side that another assignment, no worse, pairs differently: 0 where
    the assignment is proven the only one; at least so many where a latent ties with more than a
    pass takes in; None if not proven or not counted"""
    products: float = 1.0
    """entries of the similarity that were computed, over all there are"""
    peak_memory: int | None = None
    """most bytes that the process has held so far, whatever for"""
    ended: str = "proven"
    """`"proven"`, `"out of rounds"` or `"out of time"`"""
    reject: float | None = None
    """similarity at or below which no pair was made; None if every latent of the smaller side got
    one"""
    largest_component: int | None = None
    """with a reject threshold, latents of the largest connected group of pairs above it"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A one-to-one assignment between the latents of two dictionaries, with its evidence.

    n = min(F_a, F_b) pairs; fewer with a reject threshold.
    """

    pairs: NDArray[np.int64]
    """[n, 2] row of A, row of B; sorted by row of A"""
    similarity: NDArray[np.float64]
    """[n] how similar each pair is: a signed cosine, unless matched by activations"""
    primal: float
    """sum of `similarity`; with a reject threshold, of what each pair is above it"""
    dual: float
    """a proven upper bound on what any assignment reaches"""
    gap: float
    """dual - primal, >= 0 up to rounding"""
    tolerance: float
    """gap at or below which the assignment is called optimal"""
    optimal: bool
    """whether the gap proves the assignment optimal"""
    seconds: float
    """wall time of the solve"""
    certificate: Certificate | None = None
    """how it was found; None in records made before there were certificates"""

    def __repr__(self) -> str:
        if not len(self.pairs):
            return "Match(no pairs)"
        import numpy as np

        proof = "proven optimal" if self.optimal else f"gap {self.gap:.3g}"
        values = f"mean {self.similarity.mean():.3f}, median {np.median(self.similarity):.3f}"
        return f"Match({len(self.pairs):,} pairs, similarity {values}, {proof})"

    def _repr_html_(self) -> str:
        """Counts, similarities and the proof; chance is not part of a match."""
        if not len(self.pairs):
            return html_table(repr(self), [])
        import numpy as np

        low, middle, high = np.quantile(self.similarity, (0.05, 0.5, 0.95))
        row = {
            "pairs": len(self.pairs),
            "mean": f"{self.similarity.mean():.3f}",
            "median": f"{middle:.3f}",
            "5% to 95%": f"{low:.3f} to {high:.3f}",
            "bound - sum": f"{self.gap:.2g}",
            "proven optimal": self.optimal,
        }
        chance = "Chance is not measured here: reseed.compare(a, b) sets the pairs beside it."
        return html_table("Match", [row], chance)

    @property
    def latents(self) -> pl.DataFrame:
        """A row for each pair: latent_a, latent_b, similarity."""
        import polars as pl

        a, b = self.pairs.T
        return pl.DataFrame({"latent_a": a, "latent_b": b, "similarity": self.similarity})

    def to_pandas(self) -> pandas.DataFrame:
        """`latents` as a pandas frame; needs the extra `notebook`."""
        return to_pandas(self.latents, "Match.to_pandas")

    def plot(self) -> Figure:
        """Histogram of the similarities; a Plotly figure."""
        return door("plot_match")(self)


def to_pandas(table: pl.DataFrame, what: str) -> pandas.DataFrame:
    """A table as a pandas frame; `what` asked for it.

    Raises:
        ImportError: naming the extra, if pandas or pyarrow is missing.
    """
    try:
        import_module("pandas")
        import_module("pyarrow")
    except ModuleNotFoundError as error:
        raise ImportError(extra_missing(error, what) or str(error)) from error
    return table.to_pandas()


def with_interpretation(
    latents: pl.DataFrame, explanations: pl.DataFrame, scores: pl.DataFrame | None
) -> pl.DataFrame:
    """The same rows with `explanation`, and `score_NAME` of each scorer; null where not asked."""
    import polars as pl

    keys = ["run", "latent"]

    def joined(left: pl.DataFrame, right: pl.DataFrame) -> pl.DataFrame:
        right = right.with_columns(pl.col("latent").cast(left.schema["latent"]))
        return left.join(right.unique(keys, keep="first"), on=keys, how="left")

    latents = joined(latents, explanations.select(*keys, "explanation"))
    if scores is None:
        return latents
    scores = scores.filter(pl.col("control").is_null())
    for name in scores["scorer"].unique().sort().to_list():
        column = pl.col("value").alias(f"score_{name}")
        latents = joined(latents, scores.filter(scorer=name).select(*keys, column))
    return latents


_FIRST = ("group", "run", "latent", "verdict", "n_matched", "n_seeds", "firing_rate")


def in_order(latents: pl.DataFrame) -> pl.DataFrame:
    """The same table, with what people look at in front and digests and versions behind."""
    import polars as pl

    behind = [name for name in latents.columns if name.endswith(("sha256", "_version", "_id"))]
    front = [name for name in _FIRST if name in latents.columns]
    return latents.select(*front, pl.exclude(*front, *behind), *behind)
