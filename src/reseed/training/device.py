"""Where learners and subjects compute: a CPU or a GPU. Read without torch."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from reseed.errors import SpecError
from reseed.sae.in_blocks import blocks_of
from reseed.sae.settings import PenalisedSpec
from reseed.spec.training import RunSpec
from reseed.training.shards.launch import world_size
from reseed.training.step import has_loops


def chosen(device: str, *, elsewhere: bool = False) -> str:
    """The device that was asked for, as torch names it, if it is there.

    That is `"cpu"`, `"cuda"`, `"cuda:1"` and so on, or `"auto"`: a GPU if there is one. Where the
    work is done `elsewhere`, by processes that see for themselves, this one does with a CPU.
    """
    if device == "cpu":
        return device
    if device != "auto" and not re.fullmatch(r"cuda(:\d+)?", str(device)):
        raise SpecError(
            f"device {device!r} is unknown; take cpu, cuda (a GPU), cuda:1 (the second one) or auto"
        )
    import torch  # only where something else than the CPU is asked for

    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return "cuda" if there else "cpu"
    number = int(device.partition(":")[2] or 0)
    if number < there:
        return device
    if elsewhere:
        return "cpu"
    reason = "this torch is built for the CPU alone; install one that is built for your GPU"
    if torch.version.cuda or torch.version.hip:
        reason = "look at `nvidia-smi` and CUDA_VISIBLE_DEVICES"
    raise SpecError(
        f"device {device!r} was asked for, but torch {torch.__version__} sees {there} GPUs: "
        f"{reason}, or take cpu"
    )


_A_WEIGHT = 26
"""Bytes: float32 and two moments of encoder and decoder, the encoder once more in bfloat16."""

_A_GRADIENT = 16
"""More where the plain path makes the step: gradients of both matrices, and of what is added."""

_A_WHOLE_GRADIENT = 8
"""More where codes may be dense: gradients of both matrices."""

_SHARE = 0.8
"""Of the free memory that learners may take."""


def learner_bytes(run: RunSpec, dimensions: int, output: int | None = None) -> int:
    """What a run holds while it is trained; the loops store no gradients of sparse codes.

    Its site has D `dimensions`, its target E (`output`); D if left out.
    """
    soft = 4 if run.control == "soft_frozen_decoder" else 0  # where the decoder started
    extra = 0
    if not has_loops(run.sae):
        extra = _A_GRADIENT
    elif isinstance(run.sae, PenalisedSpec):
        extra = _A_WHOLE_GRADIENT
    both = dimensions + (dimensions if output is None else output)
    every = (_A_WEIGHT + soft + extra) * run.sae.latents * both // 2
    return every // (world_size() if blocks_of(run.sae) > 1 else 1)


def sharing(run: RunSpec, dimensions: int, free: int | None) -> str | None:
    """For people: whether ranks should share a run, by the bytes that are free for it."""
    size = learner_bytes(run, dimensions)
    state = f"{run.sae.label} takes {size / 1e9:.3g} GB of weights and optimizer state a process"
    if free is not None and size > _SHARE * free:
        least = 2 ** math.ceil(math.log2(size / (_SHARE * free)))
        return (
            f"{state}, and {free / 1e9:.3g} GB are free here: with `blocks = {least}`, or a larger "
            "power of two, as many ranks can share a run of topk, batchtopk or jumprelu "
            "(docs/sharding.md)"
        )
    if blocks_of(run.sae) > 1 and world_size() == 1:
        return (
            f"{state}, which fits: runs side by side, each in one process, are the better use of "
            "several processors than ranks that share one, unless one run is to be over sooner"
        )
    return None


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes that can be taken without swapping, a container's limit counted; None if unknown."""
    limits: list[int] = []
    try:
        for text in (root / "proc/meminfo").read_text("ascii").splitlines():
            if text.startswith("MemAvailable:"):
                limits.append(int(text.split()[1]) * 1024)
        group = root / "sys/fs/cgroup"
        limit = (group / "memory.max").read_text("ascii").strip()
        if limit != "max":
            limits.append(int(limit) - int((group / "memory.current").read_text("ascii")))
    except (OSError, ValueError):
        pass
    if not limits and hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        limits.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(limits, default=None)


def units(runs: Sequence[RunSpec]) -> list[list[RunSpec]]:
    """Runs that must be trained together, together; the others each alone; in their order."""
    out: dict[tuple[str, int, int], list[RunSpec]] = {}
    for run in runs:
        alone = -1 if run.ensemble else run.init_seed
        out.setdefault((run.group, run.data_seed, alone), []).append(run)
    return list(out.values())


def passes(
    runs: Sequence[RunSpec], dimensions: Mapping[str, int], free: int | None
) -> list[list[RunSpec]]:
    """Runs in groups that fit into memory together, in their order; each run once.

    Runs that are trained together stay together. What does not fit alone is a group by itself: it
    may still go, on swap. `dimensions` has D of each site; where the bytes that are `free` are not
    known, all go together.
    """
    out: list[list[RunSpec]] = []
    left = 0.0
    for unit in units(runs):
        size = sum(
            learner_bytes(run, dimensions[run.site], dimensions.get(run.target)) for run in unit
        )
        if not out or (free is not None and size > left):
            out.append([])
            left = _SHARE * (free or 0)
        out[-1].extend(unit)
        left -= size
    return out
