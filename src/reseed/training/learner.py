"""One run in training: parameters, optimiser, counters."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from reseed.errors import TrainingError
from reseed.sae.architecture import At, Batch, Parameters, architecture
from reseed.sae.kernels import compiles
from reseed.sae.model import SAE
from reseed.sae.specs.common import ArchitectureSpec
from reseed.sae.specs.topk import TopKSpec
from reseed.training.controls import FROZEN, keep_near
from reseed.training.schedule import learning_rate, rising
from reseed.training.spec import RunSpec
from reseed.training.start import aligned, first_parameters
from reseed.training.steps import PlainStep, Seen, Step, by_autograd, topk_by_hand

Metrics = dict[str, float]


def _step(
    parameters: Parameters,
    trained: frozenset[str],
    spec: ArchitectureSpec,
    clip: float,
    plain: bool,
) -> Step:
    """The fastest way there is for this architecture, or the plain one."""
    if not isinstance(spec, TopKSpec) or spec.differentiated:
        return PlainStep(parameters, trained, spec, clip, by_autograd(spec))
    if plain or spec.plain or not compiles():
        return PlainStep(parameters, trained, spec, clip, topk_by_hand(spec))
    from reseed.training.fast_step import FastStep  # needs numba

    return FastStep(parameters, trained, spec, clip)


class Learner:
    """Takes batches of activations and learns from them.

    Args:
        spec: the run.
        first: `[B, D]` first batch of its stream; its geometric median is where `b_dec` starts.
        first_target: `[B, E]` what it is to reconstruct, if that is not `first`.
        plain: make steps the plain way, also where there is a faster one.
    """

    def __init__(
        self,
        spec: RunSpec,
        first: Tensor,
        first_target: Tensor | None = None,
        *,
        plain: bool = False,
    ) -> None:
        self.spec = spec
        self.step = 0
        self._architecture = architecture(spec.sae.architecture)
        batch = Batch(first, first if first_target is None else first_target)
        self.parameters = first_parameters(spec, batch)
        self.restarts = 0
        self._plain = plain
        mutual = spec.sae.mutual
        keeps = mutual is not None and mutual.restart_above is not None
        self._first = Batch(*(part.clone() for part in batch)) if keeps else None
        self._begin()

    def _begin(self) -> None:
        """A new optimiser and new counters for the parameters as they are."""
        spec = self.spec
        not_trained = {*self._architecture.BUFFERS, FROZEN.get(spec.control)}
        trained = frozenset(self.parameters) - not_trained
        soft = spec.control == "soft_frozen_decoder"
        self._near = self.parameters["W_dec"].clone() if soft else None
        self._way = _step(self.parameters, trained, spec.sae, spec.training.clip, self._plain)
        self._silent = torch.zeros(spec.sae.latents, dtype=torch.int64)

    @property
    def tokens(self) -> int:
        """Tokens seen."""
        return self.step * self.spec.training.batch

    @property
    def finished(self) -> bool:
        """Whether all steps are made."""
        return self.step >= self.spec.training.steps

    def update(self, x: Tensor, target: Tensor | None = None) -> Metrics:
        """Make one step.

        Args:
            x: float32 `[B, D]`, finite.
            target: float32 `[B, E]`, what is to be reconstructed; x if left out.

        Returns:
            fvu, l0, dead share.

        Raises:
            TrainingError: if loss, gradient or weights are NaN or infinite; nothing was updated.
        """
        return self.apply(self.look(x, target), len(x))

    def look(self, x: Tensor, target: Tensor | None = None, pull: Tensor | None = None) -> Seen:
        """The first half of a step: loss and gradients.

        Args:
            x: as `update`.
            target: as `update`.
            pull: `[F, E]` added to the gradient of W_dec.

        Raises:
            TrainingError: as `update`.
        """
        at = At(
            self.step,
            self.spec.training.steps,
            self._dead,
            rising(self.step, over=round(self.spec.sae.sparsity_warmup * self.spec.training.steps)),
        )
        seen = self._way.look(Batch(x, x if target is None else target), at, pull)
        if not (math.isfinite(seen.fvu) and math.isfinite(seen.norm)):
            raise TrainingError(
                f"loss {seen.fvu:.4g}, gradient norm {seen.norm:.4g} at step {self.step} "
                f"(learning rate {self.learning_rate:.3g}); the usual cause is a learning rate "
                "that is too high, or activations all alike within a batch"
            )
        return seen

    def apply(self, seen: Seen, rows: int) -> Metrics:
        """The second half: update by what `look` found just before.

        Args:
            seen: what it gave.
            rows: B of the batch.
        """
        dead = self._dead
        self._way.apply(self.learning_rate)
        if self._near is not None:
            keep_near(self.parameters["W_dec"], self._near)
        self._silent += rows
        self._silent[seen.fired] = 0
        self.step += 1
        return {"fvu": seen.fvu, "l0": seen.l0, "dead": float(dead.float().mean())}

    @property
    def _dead(self) -> Tensor:
        return self._silent >= self.spec.sae.dead_after

    def restart(self) -> None:
        """Begin again with other random numbers and a new optimiser; the step goes on."""
        if self._first is None:
            raise RuntimeError("only runs with mutual.restart_above begin again")
        self.restarts += 1
        for name, value in first_parameters(self.spec, self._first, self.restarts).items():
            self.parameters[name].copy_(value)
        self._begin()

    @property
    def learning_rate(self) -> float:
        """Of the step about to be made."""
        sae, training = self.spec.sae, self.spec.training
        return learning_rate(
            sae.lr_schedule,
            self.step,
            peak=sae.peak_lr,
            warmup=training.warmup,
            steps=training.steps,
        )

    def check_weights(self) -> None:
        """Refuse to save what is not finite.

        Raises:
            TrainingError: naming the parameter.
        """
        for name, value in self.parameters.items():
            if not bool(torch.isfinite(value).all()):
                raise TrainingError(f"{name} has NaN or infinity after step {self.step}")

    def sae(self) -> SAE:
        """The SAE as it is now."""
        spec = self.spec
        about = {
            "run": spec.id,
            "site": spec.site,
            "architecture": spec.sae.architecture,
            "init_seed": spec.init_seed,
            "data_seed": spec.data_seed,
            "tokens": self.tokens,
        }
        if spec.control is not None:
            about["control"] = spec.control
        if spec.ensemble:
            about["ensemble"] = list(spec.ensemble)
        if self.restarts:
            about["restarts"] = self.restarts
        p = aligned(self.parameters) if spec.sae.aligned else self.parameters
        return self._architecture.freeze(p, spec.sae, about)

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, as named tensors."""
        out = {"step": torch.tensor(self.step), "silent": self._silent}
        out |= {f"parameter.{name}": value for name, value in self.parameters.items()}
        if self._first is not None:
            out["restarts"] = torch.tensor(self.restarts)
        return out | self._way.state()

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from what `state` gave.

        Raises:
            KeyError, RuntimeError: if it is the state of another run.
        """
        self.step = int(state["step"])
        self._silent = state["silent"].clone()
        if self._first is not None:
            self.restarts = int(state["restarts"])
            if self._near is not None:
                self._near = first_parameters(self.spec, self._first, self.restarts)["W_dec"]
        for name, value in self.parameters.items():
            value.copy_(state[f"parameter.{name}"])
        self._way.restore(state)
