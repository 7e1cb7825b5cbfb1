"""From pre-activations to codes, and the sparse products of a TopK step.

The inference rules of all SAEs are in `apply`; `records.SAEArrays` describes them. The dense forms
of `decode`, `code_gradients` and `transposed_product` cost as much as the encoder product each;
these cost a small part of it, since only K of F latents are touched.

B batch (or N rows), D dimensions, F latents, K active latents of a row.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.util import find_spec
from subprocess import CalledProcessError
from typing import Any, NamedTuple

from reseed.sae import Tensor, torch

_GROUP = 32

_GROUPED_FROM = 8192


class Codes(NamedTuple):
    """Codes of a batch, K entries a row; entries of value 0 count as silent."""

    values: Tensor
    """[B, K] float, >= 0"""
    latents: Tensor
    """[B, K] int64, ascending in each row, without repeats"""


def compiles() -> bool:
    """Whether numba is here, for the loops that are faster than what this file has."""
    return find_spec("numba") is not None


@lru_cache(maxsize=1)
def triton_runs() -> bool:
    """Whether Triton's kernels can run on a GPU here; warns, once, where it is there and cannot.

    Triton builds what launches its kernels, so it needs a C compiler and Python's headers.
    """
    if find_spec("triton") is None:
        return False
    from triton.runtime import driver

    try:
        driver.active.get_current_target()  # builds it
    except (AssertionError, OSError, RuntimeError, CalledProcessError) as error:
        warnings.warn(
            f"Triton is here but cannot launch kernels ({error}), so torch makes the steps; a C "
            "compiler (gcc) and Python's headers are needed",
            stacklevel=2,
        )
        return False
    return True


def top_codes(pre: Tensor, k: int) -> Codes:
    """The k largest entries of each row `[B, F]` after ReLU.

    The k largest lie in the k groups with the largest maxima, so wide rows are searched by groups.
    """
    rows, width = pre.shape
    if width < _GROUPED_FROM or width % _GROUP or width // _GROUP <= k:
        latents = torch.topk(pre, k, dim=1, sorted=False).indices
    else:
        groups = pre.view(rows, -1, _GROUP)
        best = groups.amax(dim=2).topk(k, dim=1, sorted=False).indices
        inside = groups.gather(1, best[:, :, None].expand(-1, -1, _GROUP)).reshape(rows, -1)
        place = inside.topk(k, dim=1, sorted=False).indices
        latents = best.gather(1, place // _GROUP) * _GROUP + place % _GROUP
    latents = latents.sort(dim=1).values
    return Codes(pre.gather(1, latents).relu_(), latents)


def top_codes_plain(pre: Tensor, k: int) -> Codes:
    """The plain twin of `top_codes`."""
    values, latents = torch.relu(pre).topk(k, dim=1)
    latents, order = latents.sort(dim=1)
    return Codes(values.gather(1, order), latents)


def codes_of(dense: Tensor) -> Codes:
    """The positive entries of dense codes `[B, F]`, padded with silent ones to the same number."""
    most = int((dense > 0).sum(1).max()) if dense.numel() else 0
    return top_codes(dense, max(1, most))


# -- inference rules -------------------------------------------------------------------------------


def apply(pre: Tensor, activation: Mapping[str, Any], threshold: Tensor | None) -> Tensor:
    """Dense codes `[N, F]` from pre-activations `[N, F]`; for all rules but matching pursuit.

    The rule passed `records.check_rule`; the threshold `[F]` is for jumprelu.
    """
    match activation["kind"]:
        case "relu":
            return torch.relu(pre)
        case "jumprelu":
            assert threshold is not None
            return torch.relu(pre) * (pre > threshold)
        case "one_hot":
            return torch.zeros_like(pre).scatter_(1, pre.argmax(1, keepdim=True), 1.0)
        case "groupmax":
            return groupmax(pre, activation["k"])
        case "batchtopk":
            return batch_top(pre, activation["k"])
        case _:
            return dense(top_codes(pre, activation["k"]), pre.shape[1])


def groupmax(pre: Tensor, k: int) -> Tensor:
    """The largest of relu(pre) in each of k equal runs of latents, dense `[N, F]`."""
    groups = torch.relu(pre).view(len(pre), k, -1)
    best, place = groups.max(dim=2, keepdim=True)
    return torch.zeros_like(groups).scatter_(2, place, best).view_as(pre)


def batch_top(pre: Tensor, k: float) -> Tensor:
    """The k N largest of relu(pre) in all rows (BatchTopK, arXiv 2412.06410), dense `[N, F]`.

    Among equals the lowest rows fire, in a row the lowest latents.
    """
    flat = torch.relu(pre).flatten()
    wanted = count_of(k, len(pre), flat.numel())
    least = flat.detach().topk(wanted, sorted=False).values.min()
    chosen = ~(flat.detach() < least)  # NaN stays
    surplus = int(chosen.sum()) - wanted
    if surplus > 0 and float(least) > 0:
        chosen[(flat.detach() == least).nonzero()[-surplus:, 0]] = False
    return torch.where(chosen, flat, 0.0).view_as(pre)


def count_of(k: float, rows: int, most: int) -> int:
    """How many fire where k do on average over rows: one at least, `most` at the most."""
    return min(max(1, round(k * rows)), most)


def common_threshold(values: Iterable[Tensor], k: float, most_rows: int) -> Tensor:
    """The one threshold at which K latents fire on average (Llama Scope, arXiv 2410.20526).

    It is the (N K)-th largest of all values `[N_i, F]`, or 0 if fewer than that are positive. A
    JumpReLU lets pass what is above its threshold, so N K - 1 values pass this one. N is at most
    `most_rows`, which decides what has to be kept between pieces.
    """
    kept, rows = torch.empty(0), 0
    for part in values:
        rows += len(part)
        both = torch.cat([kept, torch.relu(part).flatten()])
        kept = both.topk(count_of(k, most_rows, both.numel()), sorted=False).values
    if not rows:
        return torch.zeros(())
    return kept.sort(descending=True).values[count_of(k, rows, len(kept)) - 1]


def pursue(centred: Tensor, W_dec: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Matching pursuit (Mallat and Zhang, 1993; in SAEs arXiv 2506.03093); differentiable.

        r = x - b_dec, z = 0;  k times:  i = argmax(r · W_dec),  a = relu(r · W_dec[i]),
        z[i] += a,  r -= a W_dec[i]

    A latent may be chosen more than once; its values add up. Which latent is chosen passes no
    gradient; how strongly it fires does, through all steps. Rows `[N, D]` are less `b_dec`, those
    of `W_dec` of length 1. Returns dense codes `[N, F]` and what they leave over, `[N, D]`.
    """
    residual = centred
    codes = centred.new_zeros(len(centred), len(W_dec))
    for _ in range(k):
        with torch.no_grad():
            chosen = (residual @ W_dec.T).argmax(dim=1)
        rows = W_dec[chosen]
        values = torch.relu((residual * rows).sum(dim=1, keepdim=True))
        codes = codes.scatter_add(1, chosen[:, None], values)
        residual = residual - values * rows
    return codes, residual


# -- sparse products -------------------------------------------------------------------------------


def decode(codes: Codes, W_dec: Tensor) -> Tensor:
    """Sum of the decoder rows of the active latents, weighted by their codes: `[B, D]`, no bias."""
    return torch.nn.functional.embedding_bag(
        codes.latents, W_dec, per_sample_weights=codes.values, mode="sum"
    )


def dense(codes: Codes, width: int) -> Tensor:
    """Codes as a dense `[B, F]` array."""
    rows = codes.values.shape[0]
    out = torch.zeros(rows, width, dtype=codes.values.dtype, device=codes.values.device)
    return out.scatter_(1, codes.latents, codes.values)


def code_gradients(error: Tensor, W_dec: Tensor, latents: Tensor) -> Tensor:
    """`error @ W_dec.T` at the active latents only, `[B, K]`; ascending in each row."""
    rows, active = latents.shape
    starts = torch.arange(0, rows * active + 1, active, device=latents.device)
    ones = torch.ones(rows * active, dtype=error.dtype, device=error.device)
    pattern = _csr(starts, latents.reshape(-1), ones, (rows, W_dec.shape[0]))
    return torch.sparse.sampled_addmm(pattern, error, W_dec.T, beta=0.0).values().view(rows, active)


class ByLatent(NamedTuple):
    """The active entries of a batch sorted by latent, for products with the transposed codes."""

    order: Tensor
    """[B * K] places in the flattened codes"""
    starts: Tensor
    """[F + 1] where each latent's entries begin"""
    rows: Tensor
    """[B * K] batch row of each entry"""


def by_latent(latents: Tensor, width: int) -> ByLatent:
    """Sort the active entries `[B, K]` of a batch by latent."""
    flat = latents.reshape(-1)
    order = torch.argsort(flat, stable=True)
    starts = torch.zeros(width + 1, dtype=torch.int64, device=flat.device)
    torch.cumsum(torch.bincount(flat, minlength=width), 0, out=starts[1:])
    return ByLatent(order, starts, order // latents.shape[1])


def transposed_product(values: Tensor, index: ByLatent, right: Tensor) -> Tensor:
    """`dense(values).T @ right`, `[F, D]`: the gradient of a matrix of which few rows are touched.

    `values` `[B, K]` are in the order of the codes that `index` was made from; `right` is `[B, D]`.
    """
    shape = (index.starts.numel() - 1, values.shape[0])
    sparse = _csr(index.starts, index.rows, values.reshape(-1)[index.order], shape)
    return sparse @ right


def _csr(starts: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    with warnings.catch_warnings():  # torch calls its CSR support beta, once in a process
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(starts, columns, values, shape, check_invariants=False)
