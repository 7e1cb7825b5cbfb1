"""Ensembles of SAEs: bagging and boosting (arXiv 2505.16077).

Bagging averages the reconstructions of J SAEs. That is one SAE with all their latents and decoder
rows / J, exactly, wherever a latent fires by itself alone: ReLU, JumpReLU, and TopK and GroupMax as
far as they pick within runs of equal size. TopK with k > 1 picks among all latents, so that the
union would pick others than its parts; it stays an `Ensemble` of parts.

Boosting fits each SAE to what those before it leave. The encoder of part j reads x minus the
reconstructions before it, which depends on x through their activation rules: no single layer of
encoder rows does that, so a boosted ensemble is always kept as its parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from reseed.errors import SpecError, StoreError
from reseed.formats import own
from reseed.records import is_transcoder
from reseed.sae.model import SAE, Rows, from_arrays
from reseed.store import json_bytes, read_json, write_bytes
from reseed.training.arrays import rows_of, train

_FILE = "ensemble.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensemble:
    """SAEs that reconstruct together; all read and write the same D dimensions.

    Raises:
        SpecError: if there is none, or they read different dimensions.
    """

    saes: tuple[SAE, ...]
    """in order: of `boosted`, each reads what those before it leave"""
    kind: Literal["bagged", "boosted"]
    """whether reconstructions are averaged, or summed over residuals"""

    def __post_init__(self) -> None:
        _check(self.saes)
        if self.kind == "boosted" and any(map(is_transcoder, self.saes)):
            raise SpecError(
                "a transcoder leaves no residual of what it reads; it cannot be boosted"
            )

    @property
    def dictionary(self) -> Tensor:
        """Decoder rows of all parts: `[F_1 + ... + F_J, E]`."""
        return torch.cat([sae.W_dec for sae in self.saes])

    def reconstruct(self, x: Rows) -> Tensor:
        """What the ensemble makes of rows, `[N, D] -> [N, E]`."""
        if self.kind == "bagged":
            return torch.stack([sae.reconstruct(x) for sae in self.saes]).mean(0)
        rows = torch.as_tensor(x)
        out = torch.zeros_like(rows)
        for sae in self.saes:
            out = out + sae.reconstruct(rows - out)
        return out

    def write(self, folder: Path) -> None:
        """Save the parts as `0`, `1`, ... and what they are together."""
        for number, sae in enumerate(self.saes):
            own.write(folder / str(number), sae.arrays())
        about = {"kind": self.kind, "parts": len(self.saes)}
        write_bytes(folder / _FILE, json_bytes(about))  # last: with it the folder is whole


def read_ensemble(folder: Path) -> Ensemble:
    """The ensemble that `Ensemble.write` saved.

    Raises:
        StoreError: if it is missing or damaged.
    """
    about = read_json(folder / _FILE)
    try:
        kind, parts = about["kind"], int(about["parts"])
        if kind not in ("bagged", "boosted"):
            raise ValueError(f"kind {kind!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{folder / _FILE} says no ensemble ({error})") from error
    saes = tuple(from_arrays(own.read(folder / str(number))) for number in range(parts))
    return Ensemble(saes=saes, kind=kind)


def bag(saes: Sequence[SAE]) -> SAE:
    """The average of SAEs as one SAE, exact up to float rounding.

    Args:
        saes: J SAEs of the same D; widths may differ, but for TopK and GroupMax.

    Returns:
        F_1 + ... + F_J latents with the decoder rows of each / J; not centred, the centres are in
        `b_enc`.

    Raises:
        SpecError: if their rules have no exact union; `Ensemble(kind="bagged")` averages any.

    Example:
        sae = bag(reseed.train(x, "relu", latents=512, init_seeds=range(8)))
    """
    _check(saes)
    parts, first = len(saes), saes[0]
    if len({sae.normalised for sae in saes}) > 1:
        raise SpecError("some of these SAEs normalise rows and some do not; bag only equal ones")
    rule, threshold = _union(saes)
    skips = [sae.W_skip for sae in saes]
    skip = None
    if any(s is not None for s in skips):
        shape = first.W_dec.shape[1], first.dimensions
        skip = torch.stack([torch.zeros(shape) if s is None else s for s in skips]).mean(0)
    return SAE(
        W_enc=torch.cat([sae.W_enc for sae in saes]),
        W_dec=torch.cat([sae.W_dec for sae in saes]) / parts,
        b_enc=torch.cat([_shifted(sae) for sae in saes]),
        b_dec=torch.stack([sae.b_dec for sae in saes]).mean(0),
        activation=rule,
        threshold=threshold,
        W_skip=skip,
        centred=False,
        normalised=first.normalised,
        about={"bagged": [dict(sae.about) for sae in saes]},
    )


def boost(
    x: Rows,
    architecture: str = "topk",
    *,
    latents: int,
    init_seeds: Sequence[int] = (0, 1),
    **settings: Any,
) -> Ensemble:
    """Train SAEs one after the other, one an init seed, each on what those before it leave.

    All parts read `[N, D]` and have the settings of `reseed.train`, which says what is refused too.

    Example:
        both = boost(x, latents=256, k=16, init_seeds=[0, 1])
    """
    if not len(init_seeds):
        raise SpecError("init_seeds is empty; boosting needs one for each part")
    if settings.get("mutual") is not None:
        raise SpecError("boosting trains one SAE after the other; mutual trains them together")
    rest, saes = torch.as_tensor(rows_of("x", x)).float(), list[SAE]()
    for seed in init_seeds:
        saes += train(rest, architecture, latents=latents, init_seeds=[seed], **settings)
        rest = rest - saes[-1].reconstruct(rest)
    return Ensemble(saes=tuple(saes), kind="boosted")


def _check(saes: Sequence[SAE]) -> None:
    shapes = sorted({(sae.dimensions, sae.W_dec.shape[1]) for sae in saes})
    if len(shapes) != 1:
        listed = ", ".join(f"{d} -> {e}" for d, e in shapes) or "none"
        raise SpecError(f"an ensemble needs SAEs of the same dimensions; these have {listed}")


def _shifted(sae: SAE) -> Tensor:
    """b_enc of the same SAE without a centre: (x - b) W + c = x W + (c - b W)."""
    return sae.b_enc - sae.W_enc @ sae.b_dec if sae.centred else sae.b_enc


def _union(saes: Sequence[SAE]) -> tuple[dict[str, Any], Tensor | None]:
    """The rule by which all latents fire as in their own SAE, and its threshold."""
    kinds = {str(sae.activation["kind"]) for sae in saes}
    if len(saes) == 1:
        return dict(saes[0].activation), saes[0].threshold
    if kinds == {"relu"}:
        return {"kind": "relu"}, None
    if kinds <= {"relu", "jumprelu"}:
        # relu fires above 0; a threshold below that would let negative values through
        each = [
            torch.zeros_like(sae.b_enc) if sae.threshold is None else sae.threshold for sae in saes
        ]
        return {"kind": "jumprelu"}, torch.cat(each)
    picks = [_pick(sae) for sae in saes]
    if None not in picks and len(set(picks)) == 1:
        groups = sum(int(sae.activation["k"]) for sae in saes)
        return {"kind": "groupmax", "k": groups}, None
    raise SpecError(
        f"SAEs with the rules {[dict(sae.activation) for sae in saes]} have no exact union as one "
        "SAE: a latent's firing depends on the others of its own SAE. Keep them as "
        'Ensemble(saes=..., kind="bagged"), or bag ReLU or JumpReLU SAEs'
    )


def _pick(sae: SAE) -> int | None:
    """Latents in each run of which the largest alone fires; None if the rule is another."""
    kind, k = sae.activation["kind"], sae.activation.get("k")
    if kind == "topk" and k == 1:
        return sae.latents
    return sae.latents // int(k) if kind == "groupmax" and k else None
