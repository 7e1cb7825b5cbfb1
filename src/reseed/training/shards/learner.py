"""One run whose latents lie on several ranks, or all on this one.

The first rank does all that a study asks: it reads batches, keeps metrics, writes pieces. What it
does with the run it asks of the others too, by an order before each of its own steps; they follow.
F latents, D dimensions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reseed.errors import SpecError, StoreError, TrainingError
from reseed.sae.architecture import Batch, BatchSource, Parameters
from reseed.sae.codes import compiles
from reseed.sae.in_blocks import blocks_of
from reseed.spec.training import RunSpec
from reseed.store import read_sealed, write_sealed
from reseed.training.learner import Learner, RunBatches, Through
from reseed.training.scale import BatchStream, Scales
from reseed.training.shards.ranks import RankGroup
from reseed.training.shards.step import ShardedStep, Spec, by_latent, own_blocks
from reseed.training.start import first_parameters
from reseed.training.step.plain import Look, Step

_NUMBERS = count()
"""Names of learners in orders."""


class BlockLearner(Learner):
    """A `Learner` of some of the latents; on the first rank, it leads those of the others.

    Args:
        spec: the run, of TopK, BatchTopK or JumpReLU.
        parameters: of its own latents, on the CPU.
        ranks: that share the run.
        number: its name in orders.
        batches: see `Learner`.
        scales: see `Learner`.
        first: `[B, D]` as `Learner` has it; for the first rank alone.

    Raises:
        SpecError: if the blocks cannot be dealt out evenly.
    """

    def __init__(
        self,
        spec: RunSpec,
        parameters: Parameters,
        ranks: RankGroup,
        number: int,
        *,
        batches: BatchSource | None = None,
        scales: Scales | None = None,
        first: Tensor | None = None,
    ) -> None:
        self._ranks, self.number = ranks, number
        self.over = False
        """whether all steps were made and their SAE was collected"""
        rows = torch.empty(0, len(parameters["b_dec"])) if first is None else first
        super().__init__(spec, rows, batches=batches, parameters=parameters, scales=scales)

    @classmethod
    def lead(
        cls,
        spec: RunSpec,
        first: Tensor,
        ranks: RankGroup,
        *,
        batches: BatchSource,
        scales: Scales | None = None,
    ) -> BlockLearner:
        """On the first rank: make a run's parameters and deal them out."""
        if not compiles():
            raise SpecError("blocks needs numba, which reseed[train] installs")
        own_blocks(blocks_of(spec.sae), ranks)
        every = first_parameters(spec, Batch(first, first), batches, scales=scales)
        number = next(_NUMBERS)
        shapes = {name: list(value.shape) for name, value in every.items()}
        run = spec.model_dump(mode="json")
        ranks.order(do="begin", learner=number, run=run, shapes=shapes)
        rows = by_latent(spec.sae)
        own = {n: ranks.deal(every[n], shape, n in rows) for n, shape in shapes.items()}
        return cls(spec, own, ranks, number, batches=batches, scales=scales, first=first)

    @classmethod
    def follow(cls, order: Mapping[str, Any], ranks: RankGroup) -> BlockLearner:
        """On the other ranks: what the first one deals out, as its order to begin says."""
        spec = RunSpec.model_validate(order["run"])
        shapes, rows = order["shapes"].items(), by_latent(spec.sae)
        own = {name: ranks.deal(None, shape, name in rows) for name, shape in shapes}
        return cls(spec, own, ranks, order["learner"])

    def _begin(self) -> None:
        super()._begin()
        own = len(self.parameters["b_enc"])
        self._silent = torch.zeros(own, dtype=torch.int64, device=self.device)

    def _path_of(self, trained: frozenset[str]) -> Step:
        sae = self.spec.sae
        assert isinstance(sae, Spec), "others have no blocks"
        self._sharded = ShardedStep(
            self.parameters, trained, sae, self.spec.training.clip, self._ranks
        )
        return self._sharded

    # -- what the first rank asks of all ---------------------------------------------------------

    def look(
        self,
        x: Tensor,
        target: Tensor | None = None,
        through: Through | None = None,
        *,
        pull: Tensor | None = None,
    ) -> Look:
        self._order("look", rows=len(x))
        return self.look_too(x.to(self.device).contiguous())

    def apply(self, look: Look, rows: int) -> dict[str, float]:
        self._order("apply", rows=rows)
        return self.apply_too(look, rows)

    @property
    def _on_cpu(self) -> Parameters:
        return self.all_parameters()

    def all_parameters(self) -> Parameters:
        """Those of all ranks, on the CPU."""
        self._order("collect")
        return self.collect()

    def check_weights(self) -> None:
        self._order("check")
        self.check_too()

    def write_parts(self, folder: Path) -> None:
        self._order("write", folder=str(folder.absolute()))
        self.write(folder)

    def read_parts(self, folder: Path) -> None:
        self._order("read", folder=str(folder.absolute()), step=self.step)
        self.read(folder, self.step)

    def _order(self, do: str, **about: Any) -> None:
        self._ranks.order(do=do, learner=self.number, **about)

    # -- what all ranks do -----------------------------------------------------------------------

    def look_too(self, x: Tensor) -> Look:
        """Look at a batch `[B, D]`, which the first rank gives to all."""
        self._ranks.send(x, "rows")
        return super().look(x)

    def apply_too(self, look: Look, rows: int) -> dict[str, float]:
        """Update by what was found just before."""
        return super().apply(look, rows)

    def collect(self) -> Parameters:
        """All parameters, on the first rank; others get their own back."""
        rows = by_latent(self.spec.sae)
        out: Parameters = {}
        self.over = self.finished
        for name, value in self.parameters.items():
            own = value.detach().cpu()
            out[name] = self._ranks.collect(own) if name in rows else own
        return out

    def check_too(self) -> None:
        """Refuse on all ranks what is not finite on one of them."""
        bad = [int((~torch.isfinite(value)).sum()) for value in self.parameters.values()]
        counts = self._ranks.count(torch.tensor(bad), "numbers").tolist()
        for name, number in zip(self.parameters, counts, strict=True):
            if number:
                raise TrainingError(f"{name} has NaN or infinity after step {self.step}")

    def write(self, folder: Path | str) -> None:
        """Write the own blocks of a checkpoint, each with what all ranks have in common."""
        problem, common = "", self._common()
        try:
            for number, part in self._parts().items():
                state = {name: value.cpu().numpy() for name, value in (common | part).items()}
                write_sealed(_file(folder, self.step, number), state, self._about(number))
        except StoreError as error:
            problem = str(error)
        digest = hashlib.sha256()
        for name in sorted(common):
            digest.update(common[name].cpu().numpy().tobytes())
        self._agree(problem, digest.hexdigest())

    def read(self, folder: Path | str, step: int) -> None:
        """Continue from the own blocks of a checkpoint, whatever number of ranks wrote it."""
        problem, self.step = "", step
        try:
            for number, part in self._parts().items():
                path = _file(folder, step, number)
                arrays, about = read_sealed(path)
                if about != self._about(number):
                    raise StoreError(f"{path} is of {about}, not of {self._about(number)}")
                state = {name: torch.from_numpy(np.array(a)) for name, a in arrays.items()}
                for name, value in (part | self._common()).items():
                    if not name.startswith("adam."):
                        value.copy_(state[name])
                self._sharded.blocks[number].restore(state)
                self._sharded.common.restore(state)
        except (StoreError, KeyError, RuntimeError) as error:
            problem = str(error)
        self._agree(problem, "")

    def state(self) -> dict[str, Tensor]:
        """What the first rank keeps; the rest lies in parts, see `write`."""
        return {"step": torch.tensor(self.step)}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.step = int(state["step"])

    def _share(self, dead: Tensor) -> float:
        return self._sharded.dead / self.spec.sae.latents

    def _common(self) -> dict[str, Tensor]:
        own = {
            n: value for n, value in self.parameters.items() if n not in by_latent(self.spec.sae)
        }
        return _named(own) | self._sharded.common.state()

    def _parts(self) -> dict[int, dict[str, Tensor]]:
        """Block to its state; parameters and counters are views."""
        blocks, step = self._sharded.blocks, self._sharded
        silent = dict(zip(blocks, self._silent.chunk(len(blocks)), strict=True))
        return {
            number: {"silent": silent[number]} | _named(step.rows_of(number)) | block.state()
            for number, block in blocks.items()
        }

    def _about(self, block: int) -> dict[str, Any]:
        return {"run": self.spec.id, "step": self.step, "block": block}

    def _agree(self, problem: str, common: str) -> None:
        """Go on if no rank has a problem and what they have in common is the same on all."""
        problems, digests = zip(*self._ranks.texts(f"{common:64}{problem}"), strict=True)
        for rank, text in enumerate(problems):
            if text:
                raise StoreError(text if self._ranks.size == 1 else f"rank {rank}: {text}")
        if len(set(digests)) > 1:
            raise TrainingError(
                f"after step {self.step}, ranks do not have the same b_dec, which each computes "
                "for itself: their processors or versions of torch and numba differ; take ranks "
                "that are alike"
            )


def _named(parameters: Parameters) -> dict[str, Tensor]:
    return {f"parameter.{name}": value for name, value in parameters.items()}


def _file(folder: Path | str, step: int, block: int) -> Path:
    return Path(folder) / f"{step:08d}-{block:04d}.safetensors"


def refuse_device(run: RunSpec, device: str) -> None:
    """Refuse (SpecError) a run in blocks where they cannot be computed."""
    if blocks_of(run.sae) > 1 and device != "cpu":
        raise SpecError(
            f"run {run.id}: blocks = {blocks_of(run.sae)} has a step for CPUs alone; take "
            "--device cpu, or blocks = 1 and a GPU for each run"
        )


def learners_of(
    run: RunSpec, init_seeds: Sequence[int], stream: BatchStream, device: str
) -> list[Learner]:
    """A learner of a run for each init seed, with the batches of its stream."""
    first = stream.batch(0)
    out: list[Learner] = []
    for spec in (run.model_copy(update={"init_seed": seed}) for seed in init_seeds):
        batches = RunBatches(spec, stream.batch)
        if blocks_of(spec.sae) > 1:
            refuse_device(spec, device)
            about: dict[str, Any] = {"batches": batches, "scales": stream.scales}
            out.append(BlockLearner.lead(spec, first[spec.site], RankGroup(), **about))
            continue
        of_run: dict[str, Any] = {"batches": batches, "device": device, "scales": stream.scales}
        centre = stream.centres.get(spec.site) if spec.sae.center else None
        out.append(Learner(spec, *(first[name] for name in spec.rows), **of_run, centre=centre))
    return out
