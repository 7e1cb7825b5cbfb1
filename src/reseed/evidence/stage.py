"""What finished runs do on held-out rows, as pieces of the study: firing, co-firing, predictions.

All runs that miss a piece share a pass; memory does not grow with the tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

from reseed.events import Events
from reseed.evidence.display.contexts import Contexts
from reseed.evidence.display.crops import Seen
from reseed.evidence.display.held_out_text import text_files
from reseed.evidence.display.strengths import FILE as STRENGTHS
from reseed.evidence.frequency import MatchedFiring
from reseed.evidence.rows import (
    Encoded,
    Firing,
    KeptCodes,
    Reader,
    entries_of,
    feed,
    readers_of,
)
from reseed.evidence.sampler import WindowSampler, nearest_decoders
from reseed.evidence.tables import tables_of
from reseed.evidence.windows import Windows, cut
from reseed.matching.codes import Codes
from reseed.matching.match import decoder_pairs
from reseed.matching.stage import read_match
from reseed.records import is_transcoder
from reseed.runs import (
    HELD_OUT_TEXT,
    Done,
    Pair,
    cofiring_name,
    evidence_name,
    pair_name,
    pairs_of,
    run_name,
    through_name,
)
from reseed.sae import torch
from reseed.sae.arithmetic import arithmetic
from reseed.seeds import digest
from reseed.spec.analysis import EvidenceSpec
from reseed.spec.training import Control, RunSpec
from reseed.store import Store
from reseed.study import Study
from reseed.subjects.inputs import Inputs
from reseed.subjects.language.blocks import TextPositions
from reseed.subjects.networks.pictures import Pictures

Key = TypeVar("Key")


def stage(
    study: Study, events: Events, inputs: Inputs, only: Collection[str] | None = None
) -> None:
    """Make `evidence/RUN`, `text`, `cofiring/A--B`, `through/RUN`, `substitution/GROUP`.

    Those that are missing, of `only` if it is given; the last two if the study asks for them.
    """
    finished = [run.spec for run in study.runs if isinstance(run.state, Done)]
    kept = _gather_evidence(study, finished, inputs, events, only)
    _gather_text(study, inputs, only)
    _gather_cofiring(study, inputs, events, only, kept)
    _gather_predictions(study, finished, inputs, events, only)
    if study.spec.evidence.substitution_pairs:
        from reseed.evidence.substitution.stage import substitute

        substitute(study, inputs, events, only)


def _missing(
    store: Store,
    made_from: Mapping[Key, Any],
    name_of: Callable[[Key], str],
    only: Collection[str] | None,
) -> list[Key]:
    """Whose piece is not there, or was made from something else."""
    return [
        key
        for key, made in made_from.items()
        if (only is None or name_of(key) in only) and not store.has(name_of(key), digest(made))
    ]


def _gather_evidence(
    study: Study,
    finished: Iterable[RunSpec],
    inputs: Inputs,
    events: Events,
    only: Collection[str] | None,
) -> KeptCodes:
    """What latents fire on; returns the codes of the runs that co-firing asks for."""
    store, spec, kept = study.store, study.spec.evidence, KeptCodes()
    settings = digest(
        spec.model_dump(mode="json", exclude={"through_tokens", "substitution_pairs"})
    )
    made_from = {run: [store.checksum(run_name(run)), settings, "strengths"] for run in finished}
    missing = _missing(store, made_from, lambda run: evidence_name(run.id), only)
    kinds: dict[Control | None, None] = dict.fromkeys(run.reads for run in missing)
    for reads in kinds:
        runs, data = [run for run in missing if run.reads == reads], inputs.data(reads)
        sites, places, pictures = {run.id: run.site for run in runs}, data.places(), data.pictures()
        readers = readers_of(sites, store, inputs.device)
        gathered = {run.id: _Evidence(run, readers[run.id], places, pictures, spec) for run in runs}
        codes = KeptCodes([run.id for run in runs if reads is None and run.control is None])

        def add(
            chunk: Encoded,
            places: TextPositions | None = places,
            gathered: Mapping[str, _Evidence] = gathered,
            codes: KeptCodes = codes,
        ) -> None:
            windows = None
            if places is not None and spec.examples:
                windows = cut(places, chunk.chunk.blocks, spec.window, spec.seed)
            for evidence in gathered.values():
                evidence.add(chunk, windows)
            codes.take(chunk)

        feed(add, readers, data.source, data.held_out, events, "evidence")
        kept = codes if reads is None else kept
        for run in runs:
            files, card = gathered[run.id].files, partial(arithmetic, inputs.device)
            store.make(evidence_name(run.id), made_from[run], files, arithmetic=card)
    return kept


def _gather_text(study: Study, inputs: Inputs, only: Collection[str] | None) -> None:
    """The held-out text, if there is any."""
    spec = study.spec.evidence
    reads = study.spec.text is not None or spec.toy_text
    if not reads or (only is not None and HELD_OUT_TEXT not in only):
        return
    made_from = [study.spec.data, study.spec.activations.held_out, spec.before, spec.after]
    if study.store.has(HELD_OUT_TEXT, digest(made_from)):
        return
    places = inputs.places()
    if places is not None:
        study.store.make(
            HELD_OUT_TEXT, made_from, lambda: text_files(places, inputs.split[1], spec)
        )


def _gather_cofiring(
    study: Study,
    inputs: Inputs,
    events: Events,
    only: Collection[str] | None,
    kept: KeptCodes,
) -> None:
    """How the latents that decoder rows match at the end of training fire together."""
    store = study.store
    last = {
        pair: group.steps[-1]
        for group in study.groups()
        for pair in pairs_of(group.runs)
        if only is None or cofiring_name(pair) in only
    }
    made_from = {
        pair: [
            store.checksum(pair_name(pair)),
            *(store.checksum(f"runs/{run}") for run in pair),
            "contributions",
        ]
        for pair in last
    }
    missing = _missing(store, made_from, cofiring_name, only)
    if not missing:
        return
    fired = {
        run: store.table(evidence_name(run), "firing.parquet")["fired"].to_numpy()
        for run in dict.fromkeys(run for pair in missing for run in pair)
    }
    sites = {run.id: run.spec.site for run in study.runs if run.id in fired}
    readers = readers_of(sites, store, inputs.device)
    counters: dict[Pair, MatchedFiring] = {}
    for a, b in missing:
        pairs = decoder_pairs(read_match(store, (a, b), last[a, b]))
        rows = readers[a].sae.W_dec.numpy(), readers[b].sae.W_dec.numpy()
        counters[a, b] = MatchedFiring(pairs, fired[a], fired[b], a, b, rows=rows)

    def count(codes: Callable[[str], Codes]) -> None:
        for (a, b), counter in counters.items():
            counter.add(codes(a), codes(b))

    counted = 0
    for chunk in kept.of(readers):
        count(chunk.__getitem__)
        counted = kept.blocks
    left = inputs.split[1][counted:]
    feed(lambda c: count(c.sparse), readers, inputs.source, left, events, "co-firing")
    for pair, counter in counters.items():
        files = partial(dict[str, Any], {"matched.parquet": counter.table()})
        card = partial(arithmetic, inputs.device)
        store.make(cofiring_name(pair), made_from[pair], files, arithmetic=card)


def _gather_predictions(
    study: Study,
    finished: Iterable[RunSpec],
    inputs: Inputs,
    events: Events,
    only: Collection[str] | None,
) -> None:
    """What reconstructions do to the subject's predictions, if the study asks for it."""
    store, tokens = study.store, study.spec.evidence.through_tokens
    runs = {run.id: run for run in finished if run.reads is None}
    made_from = {name: [store.checksum(run_name(run)), tokens] for name, run in runs.items()}
    names = _missing(store, made_from, through_name, only)
    missing = {name: (runs[name].site, runs[name].target) for name in names}
    if not missing or not tokens:
        return
    from reseed.evidence.function import measure

    sites = {name: site for name, (site, _) in missing.items()}
    readers = readers_of(sites, store, inputs.device)
    blocks = inputs.text.first(inputs.split[1], tokens)
    measured = measure(readers, missing, inputs.spliced, inputs.text, blocks, events)
    for name, numbers in measured.items():
        files = partial(dict[str, Any], {"through.json": numbers})
        card = partial(arithmetic, inputs.device)
        store.make(through_name(name), made_from[name], files, arithmetic=card)


class _Evidence:
    """What is gathered of one run."""

    def __init__(
        self,
        run: RunSpec,
        reader: Reader,
        places: TextPositions | None,
        pictures: Pictures | None,
        spec: EvidenceSpec,
    ) -> None:
        self._name, self._target, self._sae = run.id, run.target, reader.sae
        self._places = places if spec.contexts or spec.examples else None
        self._firing = Firing(self._sae.latents)
        self._contexts = Contexts(self._sae.latents, places, spec)
        self._seen = None if pictures is None else Seen(self._sae.latents, pictures, run.site, spec)
        self._examples: WindowSampler | None = None
        if places is not None and spec.examples:
            W_dec, count = self._sae.W_dec, spec.neighbours
            where = reader.device.name if reader.device else "cpu"
            near = nearest_decoders(W_dec, count, where) if count else None
            self._examples = WindowSampler(self._sae.latents, spec, near)

    def add(self, chunk: Encoded, windows: Windows | None) -> None:
        codes, blocks = chunk.codes(self._name), chunk.chunk.blocks
        target = chunk.chunk.rows[self._target]
        self._firing.add(target, codes, chunk.rebuilt(self._name))
        if self._seen is not None:
            self._seen.add(codes, blocks)
        if self._places is None:
            return
        fired = entries_of(codes, blocks, self._places.positions)
        self._contexts.add(fired, blocks)
        if self._examples is not None and windows is not None:
            self._examples.add(windows, fired)

    def files(self) -> dict[str, Any]:
        firing = self._firing.table()
        files = {"firing.parquet": firing} if self._seen is None else self._seen.files(firing)
        return files | {
            STRENGTHS: self._firing.strengths.table(),
            "contexts.parquet": self._contexts.table(),
            "reconstruction.json": self._reconstruction(),
            **tables_of(self._examples, self._places).files(),
        }

    def _reconstruction(self) -> dict[str, float | int | None]:
        """What the firing says, and how far the encoder of live latents points as the decoder."""
        live = torch.from_numpy((self._firing.table()["fired"] > 0).to_numpy())
        cosine = None
        if not is_transcoder(self._sae) and bool(live.any()):
            rows = self._sae.W_enc[live], self._sae.W_dec[live]
            cosine = float(torch.nn.functional.cosine_similarity(*rows).mean())
        return {**self._firing.reconstruction(), "encoder_decoder_cosine": cosine}
