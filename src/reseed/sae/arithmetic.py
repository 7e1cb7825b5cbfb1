"""What the last bits of a result depend on beside its settings: the machine, in six words."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from reseed.sae import torch


def arithmetic(device: str = "cpu") -> dict[str, Any]:
    """Versions, instruction set, device and threads that are in force in this process.

    Two runs with the same card and the same settings have the same bits; with different cards they
    may differ in the last ones, from where a training drifts apart.

    Args:
        device: where was computed, as torch names it.
    """
    on_gpu = torch.device(device).type != "cpu"
    return {
        "torch": torch.__version__.partition("+")[0],
        "numba": _version("numba"),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "processor": os.environ.get("NUMBA_CPU_NAME") or _processor(),
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "threads": torch.get_num_threads(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str | None:
    """What compiled loops are made for, by LLVM's name."""
    try:
        from llvmlite.binding import get_host_cpu_name
    except ImportError:
        return None
    return str(get_host_cpu_name())
