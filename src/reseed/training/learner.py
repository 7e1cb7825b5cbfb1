"""One run in training: parameters, optimiser, counters."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from reseed.errors import TrainingError
from reseed.sae import topk
from reseed.sae.model import SAE
from reseed.training.controls import FROZEN, keep_near
from reseed.training.schedule import warmup_then_linear
from reseed.training.spec import RunSpec

Metrics = dict[str, float]


class Learner:
    """Takes batches of activations and learns from them.

    Args:
        spec: the run.
        first: `[B, D]` first batch of its stream; its geometric median is where `b_dec` starts.
    """

    def __init__(self, spec: RunSpec, first: Tensor) -> None:
        self.spec = spec
        self.step = 0
        start = topk.initial(spec.sae, spec.init_seed, topk.geometric_median(first).numpy())
        self.parameters = {name: torch.nn.Parameter(value) for name, value in start.items()}
        frozen = FROZEN.get(spec.control)
        self._trained = {name: p for name, p in self.parameters.items() if name != frozen}
        soft = spec.control == "soft_frozen_decoder"
        self._near = start["W_dec"].clone() if soft else None
        self._optimizer = torch.optim.Adam(self._trained.values(), fused=True)
        self._silent = torch.zeros(spec.sae.latents, dtype=torch.int64)

    @property
    def tokens(self) -> int:
        """Tokens seen."""
        return self.step * self.spec.training.batch

    @property
    def finished(self) -> bool:
        """Whether all steps are made."""
        return self.step >= self.spec.training.steps

    def update(self, x: Tensor) -> Metrics:
        """Make one step.

        Args:
            x: float32 `[B, D]`, finite.

        Returns:
            fvu, l0, dead share.

        Raises:
            TrainingError: if loss, gradient or weights are NaN or infinite; nothing was updated.
        """
        spec, p = self.spec, {name: value.data for name, value in self.parameters.items()}
        dead = self._silent >= spec.sae.dead_after
        out = topk.step(p, x, spec.sae, dead)
        for name, parameter in self._trained.items():
            parameter.grad = out.gradients[name]
        norm = float(torch.nn.utils.clip_grad_norm_(self._trained.values(), spec.training.clip))
        if not (math.isfinite(out.fvu) and math.isfinite(norm)):
            raise TrainingError(
                f"loss {out.fvu:.4g}, gradient norm {norm:.4g} at step {self.step} "
                f"(learning rate {self.learning_rate:.3g}); the usual cause is a learning rate "
                "that is too high, or activations all alike within a batch"
            )
        self._remove_parallel(p["W_dec"], out.gradients["W_dec"])
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate
        self._optimizer.step()
        if "W_dec" in self._trained:
            p["W_dec"].div_(torch.linalg.vector_norm(p["W_dec"], dim=1, keepdim=True))
        if self._near is not None:
            keep_near(p["W_dec"], self._near)
        self._silent += x.shape[0]
        self._silent[out.fired] = 0
        self.step += 1
        return {"fvu": out.fvu, "l0": out.l0, "dead": float(dead.float().mean())}

    @property
    def learning_rate(self) -> float:
        """Of the step about to be made."""
        training = self.spec.training
        return warmup_then_linear(
            self.step, peak=self.spec.sae.peak_lr, warmup=training.warmup, steps=training.steps
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
        p = {name: value.data for name, value in self.parameters.items()}
        return topk.freeze(p, spec.sae, about)

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, as named tensors."""
        out = {"step": torch.tensor(self.step), "silent": self._silent}
        for name, parameter in self.parameters.items():
            out[f"parameter.{name}"] = parameter.data
        for name, parameter in self._trained.items():
            for key, value in self._optimizer.state[parameter].items():
                out[f"adam.{name}.{key}"] = value
        return out

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from what `state` gave.

        Raises:
            KeyError, RuntimeError: if it is the state of another run.
        """
        self.step = int(state["step"])
        self._silent = state["silent"].clone()
        for name, parameter in self.parameters.items():
            parameter.data.copy_(state[f"parameter.{name}"])
        for name, parameter in self._trained.items():
            prefix = f"adam.{name}."
            self._optimizer.state[parameter] = {
                key.removeprefix(prefix): value.clone()
                for key, value in state.items()
                if key.startswith(prefix)
            }

    @staticmethod
    def _remove_parallel(rows: Tensor, gradient: Tensor) -> None:
        """Take out of each row's gradient what would only change the row's length."""
        gradient.sub_((gradient * rows).sum(1, keepdim=True) * rows)
