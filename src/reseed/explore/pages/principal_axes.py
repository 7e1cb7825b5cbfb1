"""A map: decoder rows of all runs of a group, on two principal components or by UMAP."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from reseed.errors import SpecError, nearest
from reseed.explore.neighbour_map import FILE as UMAP
from reseed.explore.neighbour_map import sampled
from reseed.explore.shelf import Query, Shelf
from reseed.explore.tables.layout import quoted
from reseed.explore.tables.listing import columns_of
from reseed.explore.weights import plane_of
from reseed.runs import Group, map_name

AXES = ("principal", "umap")
"""How rows are laid out."""

_NO_RUN = "No run is finished yet; `reseed run` makes them."
_NO_WEIGHTS = "The folder of a comparison holds no SAEs, so there are no decoder rows to draw."
_COLOUR = "recurrence_mean"


def map_view(query: Query, shelf: Shelf) -> dict[str, Any]:
    """Decoder rows of a `group`, laid out by `axes`, coloured by a column, `colour`.

    Raises:
        SpecError: if there is no such group or column.
    """
    database = shelf.database
    labels = [g.label for g in database.groups if database.folder.has_weights]
    known = columns_of(database)
    colours = [
        name for name, column in known.items()
        if not column.is_list and name not in ("group", "explanation", "place", "latent")
    ]  # fmt: skip
    facts: dict[str, Any] = {
        "labels": labels, "colours": colours, "group": "", "colour": "", "figure": None,
        "why": _NO_RUN if database.folder.has_weights else _NO_WEIGHTS,
    }  # fmt: skip
    if not labels:
        return facts
    label = query.get("group") or labels[0]
    if label not in labels:
        raise SpecError(f"there is no group {label!r}; {nearest(label, labels)}")
    colour = query.get("colour") or (_COLOUR if _COLOUR in colours else "firing_rate")
    if colour not in colours:
        raise SpecError(f"there is no column {colour!r} to colour by; {nearest(colour, colours)}")
    group = database.groups[labels.index(label)]
    kept = database.folder.has(map_name(group.name), UMAP)
    axes = query.get("axes") or AXES[0]
    if axes not in AXES:
        raise SpecError(f"there is no map by {axes!r}; {nearest(axes, AXES)}")
    if axes == "umap" and not kept:
        raise SpecError("this study has no map by UMAP; `reseed umap STUDY` makes one")
    figure = _figure(shelf, group, colour, axes)
    figure["title"] = known[colour].title
    return facts | {
        "group": label, "colour": colour, "figure": figure, "axes": axes, "has_umap": kept,
    }  # fmt: skip


def _figure(shelf: Shelf, group: Group, colour: str, axes: str) -> dict[str, Any]:
    database = shelf.database
    width = min(database.width(run) for run in group.runs)
    if axes == "umap":
        kept = database.folder.store.table(map_name(group.name), UMAP)
        keys = [(run, latent) for run, latent in kept.select("run", "latent").rows()]
        plane = {"x": kept["x"].to_numpy(), "y": kept["y"].to_numpy(), "shares": []}
    else:
        keys = [(run, n) for run in group.runs for n in sampled(width, len(group.runs)).tolist()]
        plane = _plane(shelf.key, database.version, group.name, width, shelf)
    numbers = ", ".join(map(str, sorted({latent for _, latent in keys})))
    words = "" if colour in database.columns else "LEFT JOIN words USING (run, latent) "
    rows = database.rows(
        f"SELECT run, latent, {quoted(colour)} AS value FROM latents {words}"
        f'WHERE "group" = ? AND latent IN ({numbers})',
        [group.label],
    )
    values = {(row["run"], row["latent"]): row["value"] for row in rows}
    names, at = database.names(), {run: n for n, run in enumerate(group.runs)}
    return {
        "kind": "map",
        "runs": list(group.runs),
        "names": [names[run] for run in group.runs],
        "run": [at[run] for run, _ in keys],
        "latent": [latent for _, latent in keys],
        "value": [_plain(values.get(key)) for key in keys],
        "log": colour == "firing_rate",
        "x": np.round(plane["x"], 4).tolist(),
        "y": np.round(plane["y"], 4).tolist(),
        "shares": plane["shares"],
        "all": width * len(group.runs),
    }


def _plain(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value


@lru_cache(maxsize=8)
def _plane(key: str, version: int, name: str, width: int, shelf: Shelf) -> dict[str, Any]:
    """Kept until the study changes; `key` and `version` say which state of it."""
    group = next(group for group in shelf.database.groups if group.name == name)
    chosen = sampled(width, len(group.runs))
    return plane_of(shelf.database.folder.store, [(run, chosen) for run in group.runs])
