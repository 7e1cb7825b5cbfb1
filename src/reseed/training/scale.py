"""Activations in one unit: every site scaled so that its rows have a mean length of 1.

Learning rates, thresholds, bandwidths and biases speak of that unit, so that what comes out does
not depend on the one that a site is measured in. The length is measured once on rows that are
trained on, all runs of a study share it, and it is taken back out of whatever is saved: an SAE
reads raw activations. dictionary_learning scales to a mean square of 1, Llama Scope (2410.20526) to
a mean length of the root of D.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from reseed.errors import SubjectError
from reseed.events import Events
from reseed.sae.model import SAE
from reseed.sae.settings import EndToEndSpec
from reseed.seeds import digest
from reseed.spec.training import Control
from reseed.study import Study
from reseed.subjects.inputs import Inputs
from reseed.subjects.source import BlockSource, Chunk, read_over

Scales = Mapping[str, float]
"""Site to what its raw rows are multiplied by; 1 for a site that is not named"""

ROWS = 8192
"""On which the mean length is measured; it is known to a hundredth then."""


class Subject(Protocol):
    """The subject on from a batch, as `through.Downstream`."""

    def loss(self, site: str, reconstruction: Tensor, weights: EndToEndSpec) -> Tensor:
        """What a reconstruction of raw rows of a site does to the subject."""
        ...


class RawStream(Protocol):
    """Batches of raw rows, a pure function of the number of the step."""

    def batch(self, index: int) -> Mapping[str, Tensor]:
        """Site to float32 `[B, D]`."""
        ...

    def through(self, index: int) -> Subject | None:
        """The subject on from these rows; None if they cannot be put back into it."""
        ...


class BatchStream:
    """What runs learn from: a stream whose rows are multiplied by the scales of their sites."""

    def __init__(self, stream: RawStream, scales: Scales | None = None) -> None:
        self._stream, self.scales = stream, dict(scales or {})

    def batch(self, index: int) -> dict[str, Tensor]:
        """Batch number `index`: site to float32 `[B, D]`, scaled."""
        rows = self._stream.batch(index)
        return {s: x * self.scales[s] if s in self.scales else x for s, x in rows.items()}

    def through(self, index: int) -> Subject | None:
        """The subject on from these rows, given reconstructions of scaled ones."""
        subject = self._stream.through(index)
        return None if subject is None else _ScaledSubject(subject, self.scales)


class _ScaledSubject:
    def __init__(self, subject: Subject, scales: Scales) -> None:
        self._subject, self._scales = subject, scales

    def loss(self, site: str, reconstruction: Tensor, weights: EndToEndSpec) -> Tensor:
        return self._subject.loss(site, reconstruction / self._scales.get(site, 1.0), weights)


def measured(
    source: BlockSource,
    blocks: Sequence[int] | NDArray[np.int64],
    sites: Sequence[str],
    events: Events,
) -> dict[str, float]:
    """What gives the rows of each site a mean length of 1.

    Measured on about `ROWS` rows of blocks spread evenly over those given, in float64.

    Raises:
        SubjectError: if all those rows of a site are alike.
    """
    every = np.asarray(blocks, dtype=np.int64)
    each = max(1.0, float(source.rows[every].mean()))
    count = min(len(every), int(np.ceil(ROWS / each)))
    chosen = every[np.linspace(0, len(every) - 1, count).round().astype(np.int64)]
    total, rows = dict.fromkeys(sites, 0.0), int(source.rows[chosen].sum())
    first, vary = dict[str, Tensor](), set[str]()

    def add(chunk: Chunk) -> None:
        for site in sites:
            x = chunk.rows[site]
            total[site] += float(x.double().norm(dim=1).sum())
            if site not in vary and len(x) and (x != first.setdefault(site, x[0].clone())).any():
                vary.add(site)

    read_over(source, chosen, add, events, "scale")
    if alike := [site for site in sites if site not in vary]:
        raise SubjectError(
            f"site {alike[0]!r}: the {rows:,} rows that were looked at are all alike, so there is "
            "nothing to learn; is it the right site?"
        )
    return {site: rows / length for site, length in total.items()}


def scales_of(
    study: Study, inputs: Inputs, events: Events, reads: Control | None = None
) -> dict[str, float]:
    """The scales of all sites of a study, or of a control's; kept in the study's folder.

    None where the study says `scale = false`.
    """
    if not study.spec.training.scale:
        return {}
    name, data = f"scale/{reads or 'subject'}", inputs.data(reads)
    sites = sorted(data.source.sites)

    def make() -> dict[str, Any]:
        scales = measured(data.source, data.training, sites, events)
        about = {site: {"scale": c, "mean_length": 1 / c} for site, c in scales.items()}
        return {"scale.json": {"sites": about, "rows_about": ROWS}}

    study.store.make(name, [digest(study.spec.data), sites, ROWS], make)
    kept = study.store.document(name, "scale.json")["sites"]
    return {site: float(kept[site]["scale"]) for site in sites}


def raw(sae: SAE, read: float, written: float) -> SAE:
    """The SAE for raw rows of one that was trained on `read` x and gives `written` y.

    Codes are in the units of y, and decoder rows as they are. Codes that have no unit, of `one_hot`
    and of a crosscoder, which scales its sites itself, stay: there decoder rows take the scale.
    What another scale has told in `about` is multiplied too.
    """
    if read == 1.0 and written == 1.0:
        return sae
    about, none = _about(sae.about, read, written), sae.activation["kind"] == "one_hot"
    codes = 1.0 if none or "scales" in about else written
    gain = read / codes
    return replace(
        sae,
        # of one_hot p = x · w - w² / 2, in which the encoder's rows are rows of x
        W_enc=sae.W_enc / read if none else sae.W_enc * gain,
        b_enc=sae.b_enc / read**2 if none else sae.b_enc / codes,
        W_dec=sae.W_dec * (codes / written),
        b_dec=sae.b_dec / written,
        threshold=None if sae.threshold is None else sae.threshold / codes,
        W_skip=None if sae.W_skip is None else sae.W_skip * (read / written),
        about=about,
    )


def unraw(sae: SAE, scale: float) -> SAE:
    """The way back, for an SAE that is to be trained on."""
    return replace(raw(sae, 1.0 / scale, 1.0 / scale), about=sae.about)


def _about(about: Mapping[str, Any], read: float, written: float) -> dict[str, Any]:
    out: dict[str, Any] = {**about, "scale": read}
    if written != read:
        out["target_scale"] = written
    if "input_scale" in out:
        out["input_scale"] *= read
    if "scales" in out:
        out["scales"] = [c * read for c in out["scales"]]
    return out
