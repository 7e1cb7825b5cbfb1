"""Features as Neuronpedia takes them: the batches that SAEDashboard writes (0.8.0).

`batch-N.json` has the keys of its `NeuronpediaDashboardBatch` and no others, which that class
refuses. How the latents of a batch come back is in `reseed-N.json` beside it, by their indices;
`explanations.jsonl` has what they were explained as.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from reseed.formats import own
from reseed.publish.dashboards import Bars, Dashboard, dashboards, layer_of, left_out, rounded
from reseed.records import Floats
from reseed.runs import Group, run_name
from reseed.spec.training import RunSpec
from reseed.study import Study
from reseed.subjects.source import split_blocks

VERSION = 1
"""Of `reseed-N.json`; rises when one of its keys changes its meaning."""

_BATCH = 1024
_ALIGNED = 3

Content = tuple[str, Any]
"""Name of a file, and what it holds: JSON, or lines of JSON."""


def neuronpedia(
    study: Study, groups: list[Group], model: str | None = None
) -> Iterator[Content | str]:
    """Files of all runs of these groups, and sentences about what is left out.

    Args:
        study: with results.
        groups: whose runs.
        model: how Neuronpedia calls the subject; left out, the end of its name in small letters.

    Raises:
        SpecError: if the subject read no text, or a site names no layer.
        StoreError: if the study has not come this far.
    """
    yield from left_out(study, [run for group in groups for run in group.runs])
    subject = study.spec.subject.model_dump(mode="json")
    name = model or str(subject.get("model") or subject["kind"]).rpartition("/")[2].lower()
    specs = {run.id: run.spec for run in study.runs}
    dataset = study.spec.text.source if study.spec.text else ""
    for group in groups:
        for run in group.runs:
            spec = specs[run]
            about = {
                "model_id": name,
                "layer": layer_of(spec.site),
                "sae_set": re.sub(r"[^a-z0-9]+", "-", group.label.lower()).strip("-"),
                "sae_id_suffix": f"i{spec.init_seed}-d{spec.data_seed}",
            }
            common = {**_held_out(study), "dataset": dataset}
            shown = dashboards(study, group, run)
            decoder = own.read_piece(study.store, run_name(run)).W_dec
            yield from _run(run, about, common, shown, decoder, _null(study, group, spec))


def _run(
    run: str,
    about: Mapping[str, Any],
    common: Mapping[str, Any],
    shown: Iterable[Dashboard],
    decoder: Floats,
    null: Mapping[str, Any],
) -> Iterator[Content]:
    dead, lines, number = list[int](), list[dict[str, Any]](), 0
    features: list[dict[str, Any]] = []
    recurrence: dict[str, Any] = {}
    for dashboard in shown:
        if not dashboard.strongest:
            dead.append(dashboard.latent)
            continue
        features.append(feature(dashboard, decoder[dashboard.latent], common))
        recurrence[str(dashboard.latent)] = dashboard.recurrence
        if words := dashboard.row.get("explanation"):
            lines.append(
                {
                    "modelId": about["model_id"],
                    "layer": f"{about['layer']}-{about['sae_set']}__{about['sae_id_suffix']}",
                    "index": str(dashboard.latent),
                    "description": words,
                }
            )
        if len(features) == _BATCH:
            yield from _batch(run, number, {**about, "features": features}, null, recurrence)
            features, recurrence, number = [], {}, number + 1
    if features:
        yield from _batch(run, number, {**about, "features": features}, null, recurrence)
    yield f"{run}/skipped_indexes.json", {**about, "skipped_indexes": dead}
    if lines:
        yield f"{run}/explanations.jsonl", lines


def _batch(
    run: str,
    number: int,
    batch: Mapping[str, Any],
    null: Mapping[str, Any],
    recurrence: Mapping[str, Any],
) -> Iterator[Content]:
    yield f"{run}/batch-{number}.json", dict(batch)
    yield f"{run}/reseed-{number}.json", {**null, "features": dict(recurrence)}


def feature(dashboard: Dashboard, row: Floats, common: Mapping[str, Any]) -> dict[str, Any]:
    """One latent with the keys of `NeuronpediaDashboardFeature`.

    Args:
        dashboard: of the latent.
        row: `[D]` its decoder row.
        common: what all features of a run have.
    """
    aligned = np.argsort(-row)[:_ALIGNED]
    logits = dashboard.logits
    none: Bars = ([], [])
    logit_values, logit_heights = logits.bars if logits else none
    return {
        "feature_index": dashboard.latent,
        "neuron_alignment_indices": aligned.tolist(),
        "neuron_alignment_values": rounded(row[aligned]),
        "neuron_alignment_l1": rounded(np.abs(row[aligned]) / max(np.abs(row).sum(), 1e-30)),
        **{f"correlated_{what}_{how}": [] for what in ("neurons", "features")
           for how in ("indices", "l1", "pearson")},
        "neg_str": [token for token, _ in logits.bottom] if logits else [],
        "neg_values": [value for _, value in logits.bottom] if logits else [],
        "pos_str": [token for token, _ in logits.top] if logits else [],
        "pos_values": [value for _, value in logits.top] if logits else [],
        "frac_nonzero": dashboard.row["firing_rate"],
        "freq_hist_data_bar_values": dashboard.bars[0],
        "freq_hist_data_bar_heights": dashboard.bars[1],
        "logits_hist_data_bar_values": logit_values,
        "logits_hist_data_bar_heights": logit_heights,
        **common,
        "decoder_weights_dist": [],
        "activations": list(_activations(dashboard)),
        "vector": [],
    }  # fmt: skip


def _activations(dashboard: Dashboard) -> Iterator[dict[str, Any]]:
    """The strongest contexts, then windows of each tenth of the sample by strength."""
    largest = max((max(context["activations"]) for context in dashboard.strongest), default=0.0)
    for context in dashboard.strongest:
        yield _activation(context, -1.0, largest, -1.0)  # so are the top ones marked there
    tenths: dict[int, list[Mapping[str, Any]]] = {}
    for window in dashboard.sample:
        tenths.setdefault(window["quantile"], []).append(window)
    for _, windows in sorted(tenths.items(), reverse=True):
        strengths = [max(window["activations"]) for window in windows]
        part = len(windows) / len(dashboard.sample)
        for window in windows:
            yield _activation(window, min(strengths), max(strengths), part)


def _activation(window: Mapping[str, Any], low: float, high: float, part: float) -> dict[str, Any]:
    values = window["activations"]
    return {
        "bin_min": low,
        "bin_max": high,
        "bin_contains": part,
        "tokens": window["tokens"],
        "values": rounded(values),
        "qualifying_token_index": int(np.argmax(values)),
    }


def _held_out(study: Study) -> dict[str, int]:
    """Blocks of text that no run was trained on, and tokens of each."""
    about = study.store.document("tokens", "about.json")
    _, blocks = split_blocks(about["blocks"], study.spec.activations.held_out)
    return {"n_prompts_total": len(blocks), "n_tokens_in_prompt": about["block"]}


def _null(study: Study, group: Group, spec: RunSpec) -> dict[str, Any]:
    """What holds for all latents of a run: the share that recurs, beside chance."""
    measured = own.measured_of(study.store.path(run_name(spec)))
    return {"version": VERSION, "run": spec.id, "group": group.label, **measured}
