"""Activations in one unit: every site scaled so that its rows have a mean length of 1.

Learning rates, thresholds, bandwidths and biases speak of that unit, so that what comes out does
not depend on the one that a site is measured in. The length is measured once on rows that are
trained on, all runs of a study share it, and it is taken back out of whatever is saved: an SAE
reads raw activations. So is the mean of a site, where a run asks for rows without it (`center`).
dictionary_learning scales to a mean square of 1, Llama Scope (2410.20526) to a mean length of the
root of D.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reseed.errors import SubjectError
from reseed.events import Events
from reseed.sae.model import SAE
from reseed.sae.options import EndToEndSpec
from reseed.seeds import digest
from reseed.spec.training import Control, without_mean
from reseed.study import Study
from reseed.subjects.inputs import Inputs
from reseed.subjects.source import BlockSource, Chunk, read_over

Scales = Mapping[str, float]
"""Site to what its raw rows are multiplied by; 1 for a site that is not named"""

Centres = Mapping[str, Tensor]
"""Site to the mean of its raw rows, float32 `[D]`"""

ROWS = 8192
"""On which mean length and mean are measured; the length is known to a hundredth then."""


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
    """What runs learn from: a stream whose rows are multiplied by the scales of their sites.

    Of sites in `centres` it also has the rows without their mean, see `RunSpec.rows`.
    """

    def __init__(
        self, stream: RawStream, scales: Scales | None = None, centres: Centres | None = None
    ) -> None:
        self._stream, self.scales = stream, dict(scales or {})
        self.centres = {
            site: mean * self.scales.get(site, 1.0) for site, mean in (centres or {}).items()
        }
        """means of scaled rows"""

    def batch(self, index: int) -> dict[str, Tensor]:
        """Batch number `index`: site to float32 `[B, D]`, scaled."""
        rows = self._stream.batch(index)
        out = {s: x * self.scales[s] if s in self.scales else x for s, x in rows.items()}
        return out | {without_mean(s): out[s] - mean for s, mean in self.centres.items()}

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
    chosen = _spread(source, blocks)
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


def means(
    source: BlockSource,
    blocks: Sequence[int] | NDArray[np.int64],
    sites: Sequence[str],
    events: Events,
) -> dict[str, Tensor]:
    """Site to the mean of its raw rows, on the rows that `measured` looks at; summed in float64."""
    chosen, total = _spread(source, blocks), dict[str, Tensor]()

    def add(chunk: Chunk) -> None:
        for site in sites:
            total[site] = total.get(site, 0.0) + chunk.rows[site].double().sum(0)

    read_over(source, chosen, add, events, "center")
    rows = int(source.rows[chosen].sum())
    return {site: (summed / rows).float() for site, summed in total.items()}


def _spread(source: BlockSource, blocks: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Blocks of about `ROWS` rows, evenly over those given."""
    every = np.asarray(blocks, dtype=np.int64)
    each = max(1.0, float(source.rows[every].mean()))
    count = min(len(every), int(np.ceil(ROWS / each)))
    return every[np.linspace(0, len(every) - 1, count).round().astype(np.int64)]


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


def centres_of(
    study: Study, inputs: Inputs, events: Events, reads: Control | None = None
) -> dict[str, Tensor]:
    """The means of the sites of which runs want rows without them; kept in the study's folder."""
    wanted = [
        s for s in study.sites() if any(sae.center and sae.takes(s) for sae in study.spec.sae)
    ]
    if not wanted:
        return {}
    name, data = f"center/{reads or 'subject'}", inputs.data(reads)

    def make() -> dict[str, Any]:
        found = means(data.source, data.training, wanted, events)
        return {"mean.safetensors": {site: mean.numpy() for site, mean in found.items()}}

    study.store.make(name, [digest(study.spec.data), wanted, ROWS], make)
    kept = study.store.tensors(name, "mean.safetensors")
    return {site: torch.from_numpy(kept[site]) for site in wanted}


def off_mean(sae: SAE, mean: Tensor, *, written: bool = True) -> SAE:
    """The SAE for rows x of one that reads x - mean, and where it is `written`, gives y - mean.

    With what it reads put into its biases: `b_enc - W_enc mean`, and of a skip connection
    `b_dec - W_skip mean`. It subtracts no b_dec, and is in the units that the mean is in.
    """
    assert not sae.centred, "center is for rules that subtract nothing"
    b_dec = sae.b_dec + mean if written else sae.b_dec
    if sae.W_skip is not None:
        b_dec = b_dec - sae.W_skip @ mean
    return replace(sae, b_enc=sae.b_enc - sae.W_enc @ mean, b_dec=b_dec)


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
