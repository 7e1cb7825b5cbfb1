"""Where learners and subjects compute: a CPU or a GPU. Read without torch."""

from __future__ import annotations

import re

from reseed.errors import SpecError


def chosen(device: str) -> str:
    """The device that was asked for, if it is there.

    Args:
        device: `"cpu"`, `"cuda"`, `"cuda:1"` and so on, or `"auto"`: a GPU if there is one.

    Returns:
        Its name as torch has it.

    Raises:
        SpecError: if the name is unknown, or there is no such device.
    """
    if device == "cpu":
        return device
    if device != "auto" and not re.fullmatch(r"cuda(:\d+)?", device):
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
    reason = "this torch is built for the CPU alone; install one that is built for your GPU"
    if torch.version.cuda or torch.version.hip:
        reason = "look at `nvidia-smi` and CUDA_VISIBLE_DEVICES"
    raise SpecError(
        f"device {device!r} was asked for, but torch {torch.__version__} sees {there} GPUs: "
        f"{reason}, or take cpu"
    )
