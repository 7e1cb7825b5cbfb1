"""What a study shows of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reseed.notebook.doors import door
from reseed.notebook.markup import ends, html_table, percent

if TYPE_CHECKING:
    import pandas
    import polars as pl
    from plotly.graph_objects import Figure


class StudyView:
    """The part of `reseed.Study` that people look at."""

    spec: Any
    folder: Any
    store: Any

    @property
    def latents(self) -> pl.DataFrame:
        """One row for each latent."""
        raise NotImplementedError

    def __repr__(self) -> str:
        saes, seeds = ", ".join(sae.label for sae in self.spec.sae), self.spec.seeds
        crossed = f"{len(seeds.init)} init x {len(seeds.data)} data seeds"
        return f"Study({self.folder}: {self.spec.subject.kind}; {saes}; {crossed})"

    def _repr_html_(self) -> str:
        """The shared share of each group beside its interval, its null and its counts."""
        if not self.store.path("summary.json").exists():
            return html_table(repr(self), [], "No results yet; reseed.run(study) makes them.")
        return html_table(repr(self), share_rows(self.store.read_json("summary.json")))

    def to_pandas(self) -> pandas.DataFrame:
        """`latents` as a pandas frame; needs the extra `notebook`."""
        return door("to_pandas")(self.latents, "Study.to_pandas")

    def plot(self, figure: str = "forest", group: str | None = None) -> Figure:
        """A figure of the report as a Plotly figure; needs no torch.

        Args:
            figure: `"forest"` of all groups; `"cosines"`, `"shares"` or `"n-of-m"` of one.
            group: label or name; left out, the first.

        Raises:
            SpecError: if there is no such figure or group.
            StoreError: if the study has not come this far.
        """
        return door("plot_study")(self, figure, group)


def share_rows(summary: dict[str, Any]) -> list[dict[str, object]]:
    """A row for each group of `summary.json`: what its runs share, beside chance."""
    rows: list[dict[str, object]] = []
    for group in summary["groups"]:
        shared = (group.get("headline") or {}).get("shared", {}).get("all") or {}
        null = shared.get("null_covariance") or {}
        rows.append(
            {
                "SAE": group["label"],
                "shared": percent(shared.get("value")),
                "95% interval": ends(shared.get("interval_95")),
                "chance": percent(null.get("mean")),
                "untrained pair": percent(shared.get("null_untrained")),
                "runs": group["counts"]["runs"],
                "pairs": group["counts"]["pairs"],
                "latents of a run": group["counts"]["latents"],
            }
        )
    return rows
