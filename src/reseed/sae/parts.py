"""What several architectures are made of: starts, encoder, auxiliary loss, thresholds, saved form.

Starts: `linear` and `orthogonal` rows are functions of the init seed and the shape alone.
`subspace`, `data` and `kmeans` depend on the first batch too, which is a function of the
activations and the data seed: the latter two choose among its rows by the init seed.

B batch, D dimensions, F latents. The length of a batch is the root mean square distance of its rows
to their mean; losses and settings are in parts of it, so that they do not change with the unit that
activations are measured in.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any, TypeVar

from reseed.errors import SpecError
from reseed.records import Floats
from reseed.sae import Tensor, np, torch
from reseed.sae import codes as kernels
from reseed.sae.architecture import BatchSource, Parameters, Start
from reseed.sae.model import SAE
from reseed.sae.settings import ArchitectureSpec
from reseed.seeds import digest, generator

_LENGTH = 3.0**-0.5
"""Of a row uniform in ±1/sqrt(D): the root of its mean square, whatever D."""

_FILLED = 0.99
"""Part of the squared length of centred activations that their subspace holds."""

K = TypeVar("K", int, float)

NOT_YET = -1.0
"""What a threshold is before it is found."""


# -- starts ----------------------------------------------------------------------------------------


def encoder_rows(latents: int, dimensions: int, init_seed: int) -> Floats:
    """Encoder rows `[F, D]` uniform in ±1/sqrt(D), the default of a linear layer (2501.16615)."""
    bound = 1.0 / np.sqrt(dimensions)
    numbers = generator("encoder-init", init_seed).random((latents, dimensions), dtype=np.float32)
    return (2.0 * bound * numbers - bound).astype(np.float32)


def starting_rows(kind: str, latents: int, init_seed: int, x: Floats, centre: Floats) -> Floats:
    """Encoder rows `[F, D]` of each kind of initialisation, of about the same length in all.

    `x` `[B, D]` is the first batch; `centre` `[D]` is taken out of its rows.
    """
    if kind == "linear":
        return encoder_rows(latents, x.shape[1], init_seed)
    if kind == "orthogonal":
        return orthogonal_rows(latents, x.shape[1], init_seed)
    if kind == "subspace":
        return _scaled(within(encoder_rows(latents, x.shape[1], init_seed), x - centre))
    rows = _different(x, centre)
    if len(rows) < latents:
        raise SpecError(
            f'init = "{kind}" needs {latents:,} different rows in the first batch, which has '
            f"{len(rows):,} (rows at the centre left out); raise the batch or lower latents"
        )
    if kind == "data":
        chosen = generator("data-init", init_seed).choice(len(rows), latents, replace=False)
        return _scaled(rows[chosen])
    return _scaled(spread_rows(rows, latents, init_seed))


def orthogonal_rows(latents: int, dimensions: int, init_seed: int) -> Floats:
    """A random semi-orthogonal matrix `[F, D]`: orthogonal columns, or rows where F <= D.

    It is uniform, and the mean squared length of rows is 1/3, as of `encoder_rows`.
    """
    tall = max(latents, dimensions), min(latents, dimensions)
    drawn = generator("orthogonal-init", init_seed).standard_normal(tall)
    q, r = np.linalg.qr(drawn)
    q = q * np.sign(np.diag(r))  # without it the factorisation's signs are not uniform
    rows = q if latents >= dimensions else q.T
    return (rows * _LENGTH * np.sqrt(latents / tall[1])).astype(np.float32)


def within(rows: Floats, x: Floats) -> Floats:
    """Rows `[F, D]` projected on the fewest principal axes of `x` `[B, D]` that hold `_FILLED`.

    A latent that starts outside of what activations fill never fires (arXiv 2508.16929, which
    starts features in the active subspace of attention outputs; 99 % is the number it names).
    """
    scatter = np.asarray(x, np.float64)
    sizes, axes = np.linalg.eigh(scatter.T @ scatter)
    held = np.cumsum(sizes[::-1]) / max(float(sizes.sum()), 1e-300)
    most = axes[:, ::-1][:, : 1 + int((held < _FILLED).sum())]
    return (rows @ most @ most.T).astype(np.float32)


def spread_rows(rows: Floats, latents: int, init_seed: int) -> Floats:
    """F of the rows `[N, D]` by k-means++: likely by the squared distance to those before."""
    from sklearn.cluster import kmeans_plusplus  # pyright: ignore[reportUnknownVariableType]

    seed = int(generator("kmeans-init", init_seed).integers(2**32))
    centres, _ = kmeans_plusplus(rows, latents, random_state=seed)
    return np.asarray(centres, np.float32)


def independent_rows(shape: tuple[int, ...], init_seed: int) -> Floats:
    """Directions of an untied decoder: uniform on the sphere, rows `[..., D]` of length 1."""
    drawn = generator("decoder-init", init_seed).standard_normal(shape).astype(np.float32)
    return unit_rows(drawn.reshape(-1, shape[-1])).reshape(shape)


def restarted(init_seed: int, restarts: int) -> int:
    """The seed of a training that started again: a function of both numbers; 0 changes nothing."""
    if not restarts:
        return init_seed
    return int(digest(["restart", init_seed, restarts], 15), 16)


def unit_rows(rows: Floats) -> Floats:
    """Rows `[F, D]` scaled to length 1; zero rows stay zero."""
    norms = np.sqrt(np.einsum("fd,fd->f", rows, rows, dtype=np.float64))
    return (rows / np.where(norms > 0, norms, 1.0)[:, None]).astype(np.float32)


def _different(x: Floats, centre: Floats) -> Floats:
    """Rows without the centre, each once, in their order; none of length 0."""
    first = np.sort(np.unique(x, axis=0, return_index=True)[1])
    rows = (x[first] - centre).astype(np.float32)
    return rows[np.einsum("nd,nd->n", rows, rows) > 0]


def _scaled(rows: Floats) -> Floats:
    return (unit_rows(rows) * np.float32(_LENGTH)).astype(np.float32)


def autoencoder(start: Start) -> Parameters:
    """W_enc, b_enc, W_dec, b_dec before training: decoder rows are the scaled encoder rows."""
    return {
        "W_enc": torch.from_numpy(start.rows.copy()),
        "b_enc": torch.zeros(len(start.rows)),
        "W_dec": torch.from_numpy(unit_rows(start.rows)),
        "b_dec": torch.from_numpy(start.x_centre.copy()),
    }


def initial(spec: ArchitectureSpec, start: Start) -> Parameters:
    """`Architecture.initial` of what is an `autoencoder` and nothing else."""
    return autoencoder(start)


def input_scale(x: Tensor) -> Tensor:
    """What gives rows `[B, D]` the mean length √D: a scalar."""
    length = torch.linalg.vector_norm(x, dim=1).mean().clamp_min(1e-12)
    return x.shape[1] ** 0.5 / length


def geometric_median(x: Tensor, rounds: int = 100, tolerance: float = 1e-6) -> Tensor:
    """The point `[D]` with the least summed distance to rows `[B, D]` (Weiszfeld's iteration).

    It ends where the sum changes by less than `tolerance`, relatively.
    """
    median, last = x.mean(0), torch.inf
    for _ in range(rounds):
        distance = torch.linalg.vector_norm(x - median, dim=1).clamp_min(1e-12)
        total = float(distance.sum())
        if abs(last - total) <= tolerance * total:
            break
        weights = 1.0 / distance
        median, last = (weights[:, None] * x).sum(0) / weights.sum(), total
    return median


# -- losses ----------------------------------------------------------------------------------------


def squared_variation(y: Tensor) -> Tensor:
    """Σ (y - mean over the batch)²: what a reconstruction by the mean alone leaves."""
    return (y - y.mean(0)).square().sum()


def pre_activations(p: Parameters, x: Tensor) -> Tensor:
    """`(x - b_dec) W_encᵀ + b_enc`, `[B, D] -> [B, F]`."""
    return (x - p["b_dec"]) @ p["W_enc"].T + p["b_enc"]


def reconstructed(p: Parameters, z: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The reconstruction `z W_dec + b_dec` `[B, D]`, the squared variation of x, and the FVU."""
    x_hat, scale = z @ p["W_dec"] + p["b_dec"], squared_variation(x)
    return x_hat, scale, (x_hat - x).square().sum() / scale


def top(pre: Tensor, k: int) -> Tensor:
    """The k largest of relu(pre) in each row, dense `[B, F]`; differentiable."""
    return kernels.dense(kernels.top_codes_plain(pre, k), pre.shape[1])


def auxk_size(dimensions: int, dead: int) -> tuple[int, float]:
    """How many dead latents may fire, and the factor that fades the loss out as few are dead."""
    wanted = max(1, dimensions // 2)
    return min(wanted, dead), min(dead / wanted, 1.0)


def auxk(pre: Tensor, W_dec: Tensor, error: Tensor, dead: Tensor) -> tuple[float, Tensor]:
    """AuxK of arXiv 2406.04093 over the squared variation: dead latents explain the error.

        min(dead / k_aux, 1) Σ (ê - e)²,  ê = (top k_aux dead codes) W_dec,  k_aux = D / 2

    `error` is e = x - x̂ `[B, D]`, a constant. Returned are both factors of the loss.
    """
    active, share = auxk_size(error.shape[1], int(dead.sum()))
    codes = top(torch.where(dead, pre, -torch.inf), active)
    return share, (codes @ W_dec - error.detach()).square().sum()


def weighted_auxk(
    p: Parameters, pre: Tensor, error: Tensor, scale: Tensor, alpha: float, dead: Tensor
) -> Tensor | float:
    """`auxk` in parts of the squared variation, weighted by `alpha`; 0 where no latent is dead."""
    if alpha == 0 or not bool(dead.any()):
        return 0.0
    share, squares = auxk(pre, p["W_dec"], error, dead)
    return alpha * (share * squares) / scale


def running_threshold(before: Tensor, codes: Tensor, momentum: float) -> Tensor:
    """Running mean of the smallest positive code of a batch, the first one as it is.

    `before` is negative where there was none yet; `momentum` is the share that stays.
    """
    positive = codes[codes > 0]
    if not len(positive):
        return before
    smallest = positive.min()
    return torch.where(before < 0, smallest, momentum * before + (1 - momentum) * smallest)


def last_threshold(raw: Parameters, batches: BatchSource, k: int, rows: int) -> Parameters:
    """The one `threshold` that k pre-activations of a row pass on average in the last rows."""
    last = batches.last(rows)
    first = next(last)
    pres = (batch.x @ raw["W_enc"].T + raw["b_enc"] for batch in chain([first], last))
    return {"threshold": kernels.common_threshold(pres, k, rows + len(first.x))}


def falling_k(step: int, *, first: int, k: K, over: float) -> int | K:
    """K that falls linearly from `first` at step 0 to `k` at step `over` (K annealing, 2410.20526).

    Example:
        >>> falling_k(50, first=100, k=20, over=100)
        60
    """
    if step >= over:
        return k
    return round(first + (k - first) * step / over)


# -- saved form ------------------------------------------------------------------------------------


def frozen(
    p: Mapping[str, Tensor],
    activation: Mapping[str, Any],
    about: Mapping[str, Any],
    threshold: Tensor | None = None,
    *,
    centred: bool = True,
) -> SAE:
    """The SAE of W_enc, b_enc, W_dec, b_dec (and W_skip) with this inference rule."""
    return SAE(
        W_enc=p["W_enc"].detach().clone(),
        W_dec=p["W_dec"].detach().clone(),
        b_enc=p["b_enc"].detach().clone(),
        b_dec=p["b_dec"].detach().clone(),
        activation=activation,
        threshold=threshold,
        W_skip=p["W_skip"].detach().clone() if "W_skip" in p else None,
        centred=centred,
        about=about,
    )


def thawed(sae: SAE, spec: ArchitectureSpec, start: Start) -> Parameters:
    """The way back from `frozen`: what `Architecture.thaw` gives where there is nothing else."""
    names = ("W_enc", "b_enc", "W_dec", "b_dec", "W_skip")
    return {n: getattr(sae, n).clone() for n in names if getattr(sae, n) is not None}


def rows_to_unit(p: Parameters) -> Parameters:
    """Decoder rows scaled to length 1, their lengths moved into the encoder; zero rows stay."""
    norms = torch.linalg.vector_norm(p["W_dec"].detach(), dim=1)
    norms = torch.where(norms > 0, norms, 1.0)
    return dict(p) | {
        "W_enc": p["W_enc"].detach() * norms[:, None],
        "b_enc": p["b_enc"].detach() * norms,
        "W_dec": p["W_dec"].detach() / norms[:, None],
    }
