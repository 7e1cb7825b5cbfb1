"""The tables of SAEs that were compared outside a study: the folder of `reseed compare`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import polars as pl

from reseed.explore.tables.layout import Ask, Folder, pattern, text
from reseed.runs import COMPARED_TEXTS, Group, compared_name
from reseed.store import Store, read_json

FILE = "comparison.json"
"""What makes a folder one of these."""

_PAIR = "table.parquet"
_LATENTS = "latents.parquet"


class ComparisonFolder(Folder):
    """The folder of a comparison; an SAE stands for a run.

    Args:
        folder: of the results.

    Raises:
        StoreError: if its summary cannot be read.
    """

    what = "SAE"
    has_weights = False
    latents_are = "TABLE"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, Store(folder))
        about = read_json(folder / FILE)
        self.tau = float(about["tau"])
        self._saes = [str(sae["name"]) for sae in about["saes"]]

    def groups(self) -> list[Group]:
        """All SAEs, as one group."""
        label = f"{len(self._saes)} SAEs compared"
        return [Group(name="comparison", label=label, runs=self._saes, steps=(), batch=0)]

    def state(self, groups: Sequence[Group]) -> Any:
        """Of the pairs and the texts."""
        files = self.stamps([self.folder / _LATENTS, self.folder / FILE])
        return files, self.cards([*map(compared_name, self._pairs()), COMPARED_TEXTS])

    def missing(self, groups: Sequence[Group]) -> list[str]:
        """Pairs that are not compared yet."""
        pairs = list(combinations(self._saes, 2))
        bare = len(pairs) - len(self._pairs())
        if not bare:
            return []
        return [
            f"{bare} of {len(pairs)} pairs are not compared yet; the same `reseed compare` does it."
        ]

    def latents(self, groups: Sequence[Group]) -> list[str]:
        """A row for each latent of each SAE, over all others."""
        sides = [
            f"SELECT {text(name)} AS run, * FROM {self.source(compared_name(pair), _PAIR)} "
            f"WHERE side::VARCHAR = {text(side)}"
            for pair in self._pairs()
            for name, side in zip(pair, "ab", strict=True)
        ]
        if not sides:
            return []
        shared = (
            "decoder_match = encoder_match AND decoder_match >= 0 AND "
            f"least(decoder_cos, encoder_cos) >= {self.tau!r}"
        )
        # of n ordered p the k-th is held against k / n: Simes over the other SAEs gives p of a
        # latent, Benjamini-Hochberg over the latents of an SAE gives q
        simes = "count(*) * list_min(list_transform(list_sort(list(p_null)), lambda p, k: p / k))"
        rows = (
            f'SELECT {text(groups[0].label)} AS "group", run, latent, '
            f"count(*) FILTER ({shared}) AS n_matched, count(*) + 1 AS n_seeds, "
            "avg(decoder_max_cos) AS max_decoder_cos, avg(encoder_max_cos) AS max_encoder_cos, "
            f"{simes} AS p_null FROM ({' UNION ALL BY NAME '.join(sides)}) GROUP BY run, latent"
        )
        ranked = (
            f"SELECT *, cume_dist() OVER (PARTITION BY run ORDER BY p_null) AS part FROM ({rows})"
        )
        q = "min(p_null / part) OVER (PARTITION BY run ORDER BY p_null DESC) AS q_fdr"
        numbered = "row_number() OVER (ORDER BY run, latent) AS place"
        return [f"SELECT * EXCLUDE part, {q}, {numbered} FROM ({ranked}) {self._firing()}"]

    def _firing(self) -> str:
        """How often latents fire, where the SAEs were run on activations."""
        path = self.folder / _LATENTS
        if not path.exists():
            return ""
        if "firing_rate" not in pl.read_parquet_schema(path):
            return ""
        firing = (
            f"SELECT DISTINCT sae AS run, latent, firing_rate FROM read_parquet({pattern(path)})"
        )
        return f"LEFT JOIN ({firing}) USING (run, latent)"

    def words(self, groups: Sequence[Group], ask: Ask) -> list[str]:
        """None: nothing is explained outside a study."""
        return []

    def contexts(self, run: str) -> str | None:
        """What the latents of an SAE fire on, where the activations have text."""
        if not self.has(COMPARED_TEXTS, "contexts.parquet"):
            return None
        source = self.source(COMPARED_TEXTS, "contexts.parquet")
        return f"(SELECT * FROM {source} WHERE sae = {text(run)})"

    def match(self, a: str, b: str) -> tuple[str, str] | None:
        """Of two SAEs."""
        return self.pair(compared_name, _PAIR, a, b)

    def names(self, groups: Sequence[Group]) -> dict[str, str]:
        """As they were named."""
        return {name: name for name in self._saes}

    def _pairs(self) -> list[tuple[str, str]]:
        pairs = combinations(self._saes, 2)
        return [pair for pair in pairs if self.has(compared_name(pair), _PAIR)]
