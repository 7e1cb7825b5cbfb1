"""Archetypal and relaxed archetypal SAEs (arXiv 2502.12892), with a choice of the start.

    W_dec = exp(m) (A C + Λ),   A >= 0, rows of A sum to 1,   ‖Λ_i‖ <= δ
    z = TopK(relu((x - b_dec) W_encᵀ + b_enc)),  x̂ = z W_dec + b_dec,  loss = FVU

C holds the k-means centroids of the first rows less b_dec's start, a function of the data alone.
After every step A is cut at 0 and its rows scaled to sum 1, and rows of Λ are shortened to δ, as in
the authors' code. Its stability comes from its start (arXiv 2606.02061): there A is the identity
and Λ is 0 for every seed. Here that is `start = "shared"`.

D dimensions, F latents, P centroids.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from reseed.errors import SpecError
from reseed.records import Floats
from reseed.sae import Tensor, np, parts, torch
from reseed.sae.architecture import Architecture, At, Batch, Objective, Parameters, Start
from reseed.sae.architectures.baselines import centroids, enough_rows, rows_of
from reseed.sae.model import SAE
from reseed.sae.parts import squared_variation
from reseed.sae.settings import ArchitectureSpec
from reseed.seeds import generator


class ArchetypalSpec(ArchitectureSpec):
    """TopK with decoder rows that stay near the hull of k-means centroids (arXiv 2502.12892)."""

    without: ClassVar[frozenset[str]] = frozenset(
        {"aligned", "end_to_end", "mutual", "tied_init", "weight_l2"}
    )
    trains: ClassVar[frozenset[str]] = frozenset({"W_enc"})

    architecture: Literal["archetypal"] = "archetypal"
    k: Annotated[int, Field(ge=1)] = 32
    """Latents that may fire at a time."""
    centroids: Annotated[int, Field(ge=2)] | None = None
    """Points of the hull; left out, as many as latents."""
    relax: Annotated[float, Field(ge=0)] = 1.0
    """How far a row may leave the hull, in root mean square lengths of the centroids: the paper's
    δ; 0 for the strict form."""
    start: Literal["independent", "shared"] = "independent"
    """`shared`: every seed starts from the centroids themselves, as the authors' code does (see
    arXiv 2606.02061); `independent`: from mixtures of them that the init seed draws."""
    fit_rows: Annotated[int, Field(ge=2)] = 32_768
    """Rows at the start of training on which the centroids are found."""

    @model_validator(mode="after")
    def _possible(self) -> ArchetypalSpec:
        if self.start == "shared" and self.points < self.latents:
            raise ValueError(
                f"start = 'shared' gives each latent a centroid of its own, but there are "
                f"{self.points} centroids for {self.latents} latents; raise centroids"
            )
        return self

    @property
    def points(self) -> int:
        """P, centroids."""
        return self.latents if self.centroids is None else self.centroids

    def check_rows(self, rows: int) -> None:
        enough_rows(min(rows, self.fit_rows), self.points, self.name, "centroids")

    @property
    def settings(self) -> dict[str, Any]:
        return {"k": self.k, "relax": self.relax, "": self.start}

    @property
    def unit_rows(self) -> bool:
        return False


_MIXED = 4
"""Centroids that a row of A mixes at an independent start."""


def initial(spec: ArchetypalSpec, start: Start) -> Parameters:
    """Parameters before training; encoder rows are those of the init seed under both starts."""
    if start.batches is None:
        raise SpecError("archetypal: its centroids need the rows that it will learn from")
    points = rows_of(start.batches, spec.fit_rows) - start.x_centre
    hull = centroids(points, spec.points, rounds=50).centroids
    return {
        "W_enc": torch.from_numpy(start.rows.copy()),
        "b_enc": torch.zeros(spec.latents),
        "mix": torch.from_numpy(_mixture(spec, start.init_seed)),
        "relax": torch.zeros(spec.latents, hull.shape[1]),
        "log_scale": torch.zeros(()),
        "b_dec": torch.from_numpy(start.x_centre.copy()),
        "centroids": torch.from_numpy(hull),
    }


def _mixture(spec: ArchetypalSpec, init_seed: int) -> Floats:
    """`[F, P]` A at the start."""
    if spec.start == "shared":
        return np.eye(spec.latents, spec.points, dtype=np.float32)
    numbers = generator("archetypes", init_seed)
    mixed = min(_MIXED, spec.points)
    out = np.zeros((spec.latents, spec.points), np.float32)
    for row in out:
        chosen = numbers.choice(spec.points, mixed, replace=False)
        row[chosen] = numbers.dirichlet(np.ones(mixed))
    return out


def dictionary(p: Parameters) -> Tensor:
    """`[F, D]` W_dec."""
    return p["log_scale"].exp() * (p["mix"] @ p["centroids"] + p["relax"])


def objective(p: Parameters, batch: Batch, spec: ArchetypalSpec, at: At) -> Objective:
    """The loss of a batch."""
    z = parts.top(parts.pre_activations(p, batch.x), spec.k)
    error = z @ dictionary(p) + p["b_dec"] - batch.x
    loss = error.square().sum() / squared_variation(batch.x)
    return Objective(loss, loss.detach(), z.detach())


def project(p: Parameters, spec: ArchetypalSpec) -> None:
    """Bring A back to rows that are mixtures, and Λ to lengths of at most δ; in place."""
    mix, relax = p["mix"], p["relax"]
    mix.clamp_(min=0.0)
    total = mix.sum(dim=1, keepdim=True)
    mix.copy_(torch.where(total > 0, mix / total.clamp_min(1e-12), 1.0 / mix.shape[1]))
    most = spec.relax * p["centroids"].square().sum(dim=1).mean().sqrt()
    length = torch.linalg.vector_norm(relax, dim=1, keepdim=True)
    relax.mul_((most / length.clamp_min(1e-12)).clamp(max=1.0))


def freeze(p: Parameters, spec: ArchetypalSpec, about: Mapping[str, Any]) -> SAE:
    """The SAE that these parameters are; the dictionary is multiplied out."""
    return parts.frozen(p | {"W_dec": dictionary(p)}, {"kind": "topk", "k": spec.k}, about)


_BUFFERS = frozenset({"centroids"})
ARCHETYPAL = Architecture(
    ArchetypalSpec, initial, objective, freeze, buffers=_BUFFERS, project=project
)
