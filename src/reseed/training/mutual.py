"""Mutual Feature Regularization: runs that are trained together (arXiv 2411.01220).

    L_i = loss_i + alpha w(t) mean over pairs (a, b) of (1 - MMCS(W_a, W_b))

MMCS is the mean cosine of decoder rows under the best one-to-one assignment (bijective despite its
name, "mean max cosine similarity", as in the source's code). The assignment is a constant; the
gradient flows through the matched cosines. w(t) is `schedule.mutual_weight`. A step has two phases:
all members look at the batch, then all are updated, so that their order does not matter.

It raises the agreement of its members by construction: judge it by known features, or by a run that
was not among them. F latents, E dimensions, M members.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from reseed.errors import SpecError, TrainingError
from reseed.sae.options import MutualSpec
from reseed.training.learner import Learner, Metrics, Through
from reseed.training.schedule import mutual_weight
from reseed.training.step.plain import Look

Assignments = dict[tuple[int, int], Tensor]
"""Of members a < b: `[F]` int64, the row of b that each row of a has"""
_LEAST = 1e-12


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of each row of a with the row of b at its place: `[F, E], [F, E] -> [F]`."""
    lengths = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    return (a * b).sum(1) / lengths.clamp_min(_LEAST)


@torch.no_grad()
def best_assignment(a: Tensor, b: Tensor) -> Tensor:
    """`[F]` the row of b `[F, E]` for each of a `[F, E]`: the largest sum of cosines, exact."""
    unit = [m / torch.linalg.vector_norm(m, dim=1, keepdim=True).clamp_min(_LEAST) for m in (a, b)]
    _, columns = linear_sum_assignment((unit[0] @ unit[1].T).double().cpu().numpy(), maximize=True)
    return torch.from_numpy(columns).to(a.device)


def disagreement(rows: Sequence[Tensor], assignments: Assignments) -> Tensor:
    """Mean over pairs of 1 - mean matched cosine: a scalar, differentiable in the rows."""
    each = [1 - cosines(rows[a], rows[b][to]).mean() for (a, b), to in assignments.items()]
    return torch.stack(each).mean()


def pulls(rows: Sequence[Tensor], assignments: Assignments, weight: float) -> list[Tensor]:
    """Gradient of `weight * disagreement` in the rows of each member, `[F, E]` each."""
    free = [r.detach().requires_grad_() for r in rows]
    with torch.enable_grad():
        return list(torch.autograd.grad(weight * disagreement(free, assignments), free))


def firing_penalty(rates: Tensor, target: float) -> float:
    """Mean over latents of |(rate - target) / target|^3; rates `[F]`, target k / F or another."""
    return float(((rates - target) / target).abs().pow(3).mean())


class Together:
    """Learners that take their steps together: one alone, or several that pull each other.

    Several have settings of `mutual`, are at the same step and differ only in their init seed.
    """

    def __init__(self, learners: Sequence[Learner]) -> None:
        settings = learners[0].spec.sae.mutual if learners else None
        if not learners or (settings is None) != (len(learners) == 1):
            raise SpecError(
                f"{len(learners)} runs cannot be trained together: mutual needs two init seeds at "
                "least, and settings that say how"
            )
        for learner in learners[1:]:
            _check_same(learners[0], learner)
        self.learners, self._settings = list(learners), settings or MutualSpec()
        self._pairs = list(combinations(range(len(learners)), 2))
        self._assignments: Assignments = {}
        self._stale = set(self._pairs)
        """pairs to be assigned anew whatever the refresh says"""

    @property
    def step(self) -> int:
        """Steps made."""
        return self.learners[0].step

    @property
    def finished(self) -> bool:
        """Whether all steps are made."""
        return self.learners[0].finished

    def update(
        self, x: Tensor, target: Tensor | None = None, through: Through | None = None
    ) -> list[Metrics]:
        """Make one step of all members, or of none if one runs into NaN or infinity."""
        if len(self.learners) == 1:
            return [self.learners[0].update(x, target, through)]
        pulls = self._pulls()
        looks = [
            self._look(learner, x, target, through, pull)
            for learner, pull in zip(self.learners, pulls, strict=True)
        ]
        out = [a.apply(look, len(x)) for a, look in zip(self.learners, looks, strict=True)]
        for number, look in enumerate(looks):
            self._judge(number, look)
        return out

    def agreement(self) -> float:
        """Mean over pairs of the mean matched cosine, as of the last assignment; no evaluation."""
        rows = [learner.parameters["W_dec"] for learner in self.learners]
        return 1 - float(disagreement(rows, self._assignments)) if self._assignments else math.nan

    def _pulls(self) -> Sequence[Tensor | None]:
        rows = [learner.parameters["W_dec"] for learner in self.learners]
        for a, b in self._pairs:
            if self.step % self._settings.refresh == 0 or (a, b) in self._stale:
                self._assignments[a, b] = best_assignment(rows[a], rows[b])
        self._stale.clear()
        weight = self._settings.alpha * mutual_weight(self.step, over=self._settings.warmup_steps)
        if weight == 0:
            return [None] * len(rows)
        return pulls(rows, self._assignments, weight)

    def _look(
        self,
        learner: Learner,
        x: Tensor,
        target: Tensor | None,
        through: Through | None,
        pull: Tensor | None,
    ) -> Look:
        try:
            return learner.look(x, target, through, pull=pull)
        except TrainingError as error:
            raise TrainingError(
                f"init seed {learner.spec.init_seed}: {error}. The {len(self.learners)} runs that "
                "are trained with it stop, since each depends on all"
            ) from error

    def _judge(self, number: int, look: Look) -> None:
        """Let a member start again whose latents fire too unevenly."""
        above, learner = self._settings.restart_above, self.learners[number]
        if above is None or learner.restarts >= self._settings.restarts or learner.finished:
            return
        sae = learner.spec.sae
        target = self._settings.firing or getattr(sae, "k", 0) / sae.latents
        assert look.rates is not None  # these runs have torch's gradients
        if firing_penalty(look.rates, target) > above:
            learner.restart()
            self._stale |= {pair for pair in self._pairs if number in pair}

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, as named tensors."""
        out = {
            f"{number}.{name}": value
            for number, learner in enumerate(self.learners)
            for name, value in learner.state().items()
        }
        out |= {f"assignment.{a}.{b}": to.cpu() for (a, b), to in self._assignments.items()}
        stale = [int(pair in self._stale) for pair in self._pairs]
        return out | {"stale": torch.tensor(stale)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` gave."""
        for number, learner in enumerate(self.learners):
            own = f"{number}."
            learner.restore(
                {n.removeprefix(own): value for n, value in state.items() if n.startswith(own)}
            )
        flags = state["stale"].tolist()
        self._stale = {pair for pair, stale in zip(self._pairs, flags, strict=True) if stale}
        self._assignments = {
            (a, b): state[f"assignment.{a}.{b}"].clone().to(self.learners[0].device)
            for a, b in self._pairs
            if f"assignment.{a}.{b}" in state
        }

    def check_weights(self) -> None:
        """Refuse to save what is not finite."""
        for learner in self.learners:
            try:
                learner.check_weights()
            except TrainingError as error:
                if len(self.learners) == 1:
                    raise
                raise TrainingError(f"init seed {learner.spec.init_seed}: {error}") from error


def _check_same(first: Learner, other: Learner) -> None:
    if first.parameters["W_dec"].shape != other.parameters["W_dec"].shape:
        raise SpecError(
            f"decoders of {tuple(first.parameters['W_dec'].shape)} and "
            f"{tuple(other.parameters['W_dec'].shape)} cannot be trained together: mutual assigns "
            "latents one to one, so all widths must be equal"
        )
    same = other.spec.model_copy(update={"init_seed": first.spec.init_seed})
    if same != first.spec or first.step != other.step:
        raise SpecError(
            "runs that are trained together differ in their init seed alone; "
            f"{first.spec.id} and {other.spec.id} differ in more"
        )
