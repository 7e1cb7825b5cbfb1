"""One run in training: parameters, optimiser, counters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reseed.errors import TrainingError
from reseed.sae.architecture import At, Batch, BatchSource, OneBatch, Parameters
from reseed.sae.architectures import architecture
from reseed.sae.model import SAE
from reseed.sae.settings import PenalisedSpec
from reseed.spec.training import RunSpec, check_held
from reseed.training.scale import Scales, off_mean, raw
from reseed.training.schedule import UNMOVED, Held, factor, learning_rate, moved, rising
from reseed.training.start import FROZEN, aligned, first_parameters, keep_near
from reseed.training.step import step_of
from reseed.training.step.plain import Look, Step


class RunBatches:
    """What a run learns from, a `BatchSource`; `batch` has its batches by number."""

    def __init__(self, run: RunSpec, batch: Callable[[int], Mapping[str, Tensor]]) -> None:
        self._run, self._batch = run, batch

    def first(self, rows: int) -> Iterator[Batch]:
        return map(self._at, range(self._count(rows)))

    def last(self, rows: int) -> Iterator[Batch]:
        steps = self._run.training.steps
        return map(self._at, range(steps - 1, steps - 1 - self._count(rows), -1))

    def _count(self, rows: int) -> int:
        training = self._run.training
        return min(training.steps, -(-rows // training.batch))

    def _at(self, number: int) -> Batch:
        rows = self._batch(number)
        read, written = self._run.rows
        return Batch(rows[read], rows[written])


Metrics = dict[str, float]

Through = Callable[[Tensor], Tensor]


class Learner:
    """Takes batches of activations and learns from them.

    Args:
        spec: the run.
        first: `[B, D]` first batch of its stream; its geometric median is where `b_dec` starts.
        first_target: `[B, E]` what it is to reconstruct, if that is not `first`.
        plain: take the plain path, also where there is a faster one.
        batches: all that it will learn from; for architectures that read more than `first` at once.
        device: where it computes, as torch names it; `first` and `batches` are on the CPU.
        parameters: float32, that it starts from; left out, those of its architecture and init seed.
        scales: what its batches were multiplied by, by site; taken back out of its SAE.
        centre: `[D]` what was taken out of the scaled rows that it reads; put back into its SAE.

    Raises:
        SpecError: if the architecture cannot be trained on such rows, or not under this control.
    """

    def __init__(
        self,
        spec: RunSpec,
        first: Tensor,
        first_target: Tensor | None = None,
        *,
        plain: bool = False,
        batches: BatchSource | None = None,
        device: str = "cpu",
        parameters: Parameters | None = None,
        scales: Scales | None = None,
        centre: Tensor | None = None,
    ) -> None:
        self.spec = spec
        self.device = torch.device(device)
        self.step = 0
        self._architecture = architecture(spec.sae.name)
        batch = Batch(first, first if first_target is None else first_target)
        self._batches = OneBatch(batch) if batches is None else batches
        self._plain, self._scales, self._centre = plain, scales or {}, centre
        if parameters is None:
            parameters = self._first_parameters(batch)
        self.parameters = {n: value.to(device).contiguous() for n, value in parameters.items()}
        check_held(spec.sae, spec.control)
        self.restarts = 0
        mutual = spec.sae.mutual
        keeps = mutual is not None and mutual.restart_above is not None
        self._first = Batch(batch.x.clone(), batch.y.clone()) if keeps else None
        self._begin()

    def _begin(self) -> None:
        """A new optimiser and new counters for the parameters as they are."""
        spec = self.spec
        not_trained = {*self._architecture.buffers, FROZEN.get(spec.control)}
        trained = frozenset(self.parameters) - not_trained
        soft = spec.control == "soft_frozen_decoder"
        self._near = self.parameters["W_dec"].clone() if soft else None
        self._path = self._path_of(trained)
        self._silent = torch.zeros(spec.sae.latents, dtype=torch.int64, device=self.device)
        self._held = UNMOVED

    def _path_of(self, trained: frozenset[str]) -> Step:
        clip = self.spec.training.clip
        return step_of(self.parameters, trained, self.spec.sae, clip, self._plain)

    @property
    def tokens(self) -> int:
        """Tokens seen."""
        return self.step * self.spec.training.batch

    @property
    def finished(self) -> bool:
        """Whether all steps are made."""
        return self.step >= self.spec.training.steps

    def update(
        self, x: Tensor, target: Tensor | None = None, through: Through | None = None
    ) -> Metrics:
        """Make one step: fvu, l0 and dead share. Nothing is updated where they are not finite.

        x `[B, D]` and target `[B, E]` (x if left out) are finite float32; `through` is what a
        reconstruction does to the subject, if that is learned.
        """
        return self.apply(self.look(x, target, through), len(x))

    def look(
        self,
        x: Tensor,
        target: Tensor | None = None,
        through: Through | None = None,
        *,
        pull: Tensor | None = None,
    ) -> Look:
        """Loss and gradients, the first half of a step; `pull` `[F, E]` is added to W_dec's."""
        if self.step == 0 and (fit := self._architecture.fit) is not None:
            self._take(fit(self._on_cpu, self.spec.sae, self.spec.init_seed, self._batches))
        at = At(self.step, self.spec.training.steps, self._dead, self._penalty)
        rows = x.to(self.device)
        wanted = rows if target is None or target is x else target.to(self.device)
        look = self._path.look(Batch(rows, wanted, through), at, pull)
        if not (math.isfinite(look.fvu) and math.isfinite(look.norm)):
            raise TrainingError(
                f"loss {look.fvu:.4g}, gradient norm {look.norm:.4g} at step {self.step} "
                f"(learning rate {self.learning_rate:.3g}); the usual cause is a learning rate "
                "that is too high, or activations all alike within a batch"
            )
        return look

    def apply(self, look: Look, rows: int) -> Metrics:
        """The second half: update by what `look` found just before, in a batch of so many rows."""
        dead = self._dead
        self._path.apply(self.learning_rate)
        if self._near is not None:
            keep_near(self.parameters["W_dec"], self._near)
        self._silent += rows
        self._silent.masked_fill_(look.fired, 0)
        if isinstance(sae := self.spec.sae, PenalisedSpec) and sae.target_l0 is not None:
            steps = self.spec.training.steps
            self._held = moved(self._held, look.l0, sae.target_l0, self.step, steps)
        self.step += 1
        if self.finished and (settle := self._architecture.settle) is not None:
            self._take(settle(self._on_cpu, self.spec.sae, self._batches))
        return {"fvu": look.fvu, "l0": look.l0, "dead": self._share(dead)}

    def _share(self, dead: Tensor) -> float:
        """Of all latents that these, `[F]` bool, are."""
        return float(dead.float().mean())

    @property
    def _on_cpu(self) -> Parameters:
        """The parameters, for what is computed there; themselves if they are there."""
        return {name: value.cpu() for name, value in self.parameters.items()}

    def _take(self, values: Parameters) -> None:
        for name, value in values.items():
            self.parameters[name].copy_(value)

    @property
    def _penalty(self) -> float:
        """Factor on the penalty of the step about to be made."""
        sae = self.spec.sae
        if not isinstance(sae, PenalisedSpec):
            return 1.0
        share = rising(self.step, over=round(sae.penalty_warmup * self.spec.training.steps))
        return share * (1.0 if sae.target_l0 is None else factor(self._held))

    @property
    def _dead(self) -> Tensor:
        return self._silent >= self.spec.sae.dead_after

    def restart(self) -> None:
        """Begin again with other random numbers and a new optimiser; the step goes on."""
        self.restarts += 1
        self._take(self._parameters_again())
        self._begin()

    def _parameters_again(self) -> Parameters:
        assert self._first is not None, "only runs with mutual.restart_above begin again"
        return self._first_parameters(self._first, self.restarts)

    def _first_parameters(self, first: Batch, restarts: int = 0) -> Parameters:
        units = self._scales, self._centre
        return first_parameters(self.spec, first, self._batches, restarts, *units)

    @property
    def learning_rate(self) -> float:
        """Of the step about to be made."""
        sae, training = self.spec.sae, self.spec.training
        return learning_rate(
            sae.lr_schedule, self.step, sae.rate(training.steps), training.warmup, training.steps
        )

    def check_weights(self) -> None:
        """Refuse to save what is not finite."""
        for name, value in self.parameters.items():
            if not bool(torch.isfinite(value).all()):
                raise TrainingError(f"{name} has NaN or infinity after step {self.step}")

    def sae(self) -> SAE:
        """The SAE as it is now, on the CPU."""
        spec = self.spec
        about: dict[str, Any] = {
            "run": spec.id,
            "site": spec.site,
            "architecture": spec.sae.name,
            "init_seed": spec.init_seed,
            "data_seed": spec.data_seed,
            "tokens": self.tokens,
        }
        if spec.target != spec.site:
            about["target"] = spec.target
        if spec.control is not None:
            about["control"] = spec.control
        if spec.ensemble:
            about["ensemble"] = list(spec.ensemble)
        if self.restarts:
            about["restarts"] = self.restarts
        if self.device.type != "cpu":
            about["device"] = self.device.type
        p = aligned(self._on_cpu) if spec.sae.aligned else self._on_cpu
        read, written = (self._scales.get(site, 1.0) for site in (spec.site, spec.target))
        sae = self._architecture.freeze(p, spec.sae, about)
        if self._centre is not None:
            sae = off_mean(sae, self._centre, written=spec.target == spec.site)
        return raw(sae, read, written)

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, as named tensors on the CPU."""
        out = {"step": torch.tensor(self.step), "silent": self._silent}
        if self._held != UNMOVED:
            out["held_l0"] = torch.tensor(self._held, dtype=torch.float64)
        out |= {f"parameter.{name}": value for name, value in self.parameters.items()}
        if self._first is not None:
            out["restarts"] = torch.tensor(self.restarts)
        return {name: value.cpu() for name, value in (out | self._path.state()).items()}

    def write_parts(self, folder: Path) -> None:
        """Write what does not go into one checkpoint beside it; nothing, unless ranks share it."""

    def read_parts(self, folder: Path) -> None:
        """Continue from what `write_parts` wrote, once the rest is restored."""

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from what `state` gave; KeyError or RuntimeError if that is another run's."""
        state = {name: value.to(self.device) for name, value in state.items()}
        self.step = int(state["step"])
        self._silent = state["silent"].clone()
        self._held = Held(*state["held_l0"].tolist()) if "held_l0" in state else UNMOVED
        if self._first is not None:
            self.restarts = int(state["restarts"])
            if self._near is not None:
                self._near = self._parameters_again()["W_dec"].to(self.device)
        for name, value in self.parameters.items():
            value.copy_(state[f"parameter.{name}"])
        self._path.restore(state)
