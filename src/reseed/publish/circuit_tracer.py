"""Feature files of transcoders for circuit-tracer's graphs (layout of 0.5.0).

A folder `features` with `index.json.gz`: of each layer, the name of a file and F + 1 offsets into
it. Between two offsets lies a feature: four bytes with the length of what follows, little-endian,
then its JSON by zlib. The weights are another matter: `reseed convert --to circuit_tracer`.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from reseed.errors import SpecError
from reseed.publish.dashboards import Dashboard, dashboards, layer_of, left_out, rounded
from reseed.runs import Group
from reseed.study import Study

_LENGTH = 4


def circuit_tracer(study: Study, groups: list[Group]) -> Iterator[tuple[str, bytes] | str]:
    """Files of the transcoders of these groups, a folder for each pair of seeds, and sentences.

    Args:
        study: with results.
        groups: whose runs; of each layer one.

    Raises:
        SpecError: if a group has no transcoders, two of them are of one layer, or the subject read
            no text.
        StoreError: if the study has not come this far.
    """
    yield from left_out(study, [run for group in groups for run in group.runs])
    specs = {run.id: run.spec for run in study.runs}
    sets: dict[str, dict[int, tuple[Group, str]]] = {}
    for group in groups:
        for run in group.runs:
            spec = specs[run]
            if spec.target == spec.site:
                raise SpecError(
                    f"{group.label} reads and writes {spec.site}: circuit-tracer traces through "
                    "transcoders, which read one site and write another. Choose a group of "
                    "transcoders (--group), or train one (docs/architectures.md)."
                )
            layers = sets.setdefault(f"init{spec.init_seed}-data{spec.data_seed}", {})
            layer = layer_of(spec.site)
            if layer in layers:
                raise SpecError(
                    f"{layers[layer][0].label} and {group.label} are both of layer {layer}, and a "
                    "set of transcoders has one for each; choose one of them (--group)"
                )
            layers[layer] = group, run
    for seeds, layers in sets.items():
        index: dict[str, Any] = {}
        for layer, (group, run) in sorted(layers.items()):
            data, offsets = packed(map(feature, dashboards(study, group, run)))
            name = f"layer_{layer}.bin"
            index[str(layer)] = {"filename": name, "offsets": offsets}
            yield f"{seeds}/features/{name}", data
        text = json.dumps(index).encode()
        yield f"{seeds}/features/index.json.gz", gzip.compress(text, mtime=0)


def packed(features: Iterator[dict[str, Any]]) -> tuple[bytes, list[int]]:
    """Features one after the other, and where each begins; at last where the last ends."""
    parts, offsets = list[bytes](), [0]
    for shown in features:
        content = zlib.compress(json.dumps(shown, allow_nan=False).encode())
        parts.append(len(content).to_bytes(_LENGTH, "little") + content)
        offsets.append(offsets[-1] + len(parts[-1]))
    return b"".join(parts), offsets


def unpacked(data: bytes, first: int, last: int) -> dict[str, Any]:
    """The feature between two offsets, read as circuit-tracer's page reads it."""
    piece = data[first : last + 1]  # a range of HTTP has its last byte in it
    length = int.from_bytes(piece[:_LENGTH], "little")
    return json.loads(zlib.decompress(piece[_LENGTH : _LENGTH + length]))


def feature(dashboard: Dashboard) -> dict[str, Any]:
    """What the page shows of a latent, and `reseed`: how it comes back."""
    largest = max((max(c["activations"]) for c in dashboard.strongest), default=0.0)
    logits = dashboard.logits
    tenths = sorted({window["quantile"] for window in dashboard.sample}, reverse=True)
    groups = [("Top activations", dashboard.strongest)] + [
        (f"Tenth {tenth + 1} of 10", [w for w in dashboard.sample if w["quantile"] == tenth])
        for tenth in tenths
    ]
    return {
        "top_logits": [token for token, _ in logits.top] if logits else [],
        "bottom_logits": [token for token, _ in logits.bottom] if logits else [],
        "act_min": 0.0,
        "act_max": largest,
        "examples_quantiles": [
            {"quantile_name": name, "examples": [_example(window) for window in windows]}
            for name, windows in groups
        ],
        "activation_frequency": dashboard.row["firing_rate"],
        "reseed": dashboard.recurrence,
    }


def _example(window: Mapping[str, Any]) -> dict[str, Any]:
    values = window["activations"]
    return {
        "tokens": window["tokens"],
        "tokens_acts_list": rounded(values),
        "train_token_ind": values.index(max(values)),
        "is_repeated_datapoint": False,
    }
