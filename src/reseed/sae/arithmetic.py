"""What the last bits of a result depend on beside its settings: the machine, in a few words."""

from __future__ import annotations

import os
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from reseed.errors import SpecError
from reseed.sae import Tensor, torch


def arithmetic(device: str = "cpu") -> dict[str, Any]:
    """Versions, instruction set, device and threads that are in force in this process.

    Two runs with the same card and the same settings have the same bits; with different cards they
    may differ in the last ones, from where a training drifts apart.

    Args:
        device: where was computed, as torch names it.
    """
    on_gpu = torch.device(device).type != "cpu"
    return {
        **arithmetic_of_weights(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "threads": torch.get_num_threads(),
    }


def arithmetic_of_weights() -> dict[str, Any]:
    """The same of what compares the weights of runs. Needs no torch and imports none."""
    without = os.environ.get("NPY_DISABLE_CPU_FEATURES")
    return {
        "torch": _version("torch"),
        "numba": _version("numba"),
        "numpy": " without ".join(filter(None, (_version("numpy"), without))),
        "processor": os.environ.get("NUMBA_CPU_NAME") or _processor(),
        "products": os.environ.get("OPENBLAS_CORETYPE") or _processor(),
    }


@cache
def onednn_is_faster() -> bool:
    """Whether oneDNN's float32 products are much faster than those of MKL, which torch takes.

    On processors of AMD, where MKL does not use AVX-512: 95 GFLOP/s on a core of family 26, where
    oneDNN makes 230. A rule and no measurement, so that what goes on takes the same products as
    before; sums are added in another order, so last bits differ between the two.
    """
    amd = (_processor() or "").startswith("znver")
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return amd and wide and torch.backends.mkldnn.is_available()


def by_onednn(x: Tensor, W: Tensor, bias: Tensor | None = None) -> Tensor:
    """Rows times transposed weights plus bias, float32 on a CPU, without gradients.

    Args:
        x: `[..., D]`.
        W: `[F, D]`.
        bias: `[F]`.
    """
    # what torch.compile calls for it; it has no public name
    return torch.ops.mkldnn._linear_pointwise(x, W, bias, "none", [], "")


def product(x: Tensor, W: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
    """`out` `[B, F]`, filled with x Wᵀ + bias, see `by_onednn`, by what is faster."""
    if onednn_is_faster():
        return out.copy_(by_onednn(x, W, bias))
    if bias is None:
        return torch.mm(x, W.T, out=out)
    return torch.addmm(bias, x, W.T, out=out)


def add_product(out: Tensor, x: Tensor, W: Tensor) -> None:
    """Add x Wᵀ to `out` `[B, F]`."""
    if onednn_is_faster():
        out.add_(by_onednn(x, W))
    else:
        out.addmm_(x, W.T)


def refuse_tf32(device: str) -> None:
    """Refuse a device that rounds the factors of float32 products: no bound of ours holds there.

    Raises:
        SpecError: saying what makes it do so.
    """
    odd = torch.full((64,), 4097.0, device=device)  # 2^12 + 1: 13 bits, of which TF32 has 11
    if float((torch.diag(odd) @ torch.eye(64, device=device)).diagonal().min()) != 4097.0:
        raise SpecError(
            f"float32 products on {device} are rounded, as TF32 does it, so that nothing could be "
            "proven by them: unset NVIDIA_TF32_OVERRIDE and TORCH_ALLOW_TF32_CUBLAS_OVERRIDE, and "
            "call torch.set_float32_matmul_precision('highest')"
        )


@cache
def _version(package: str) -> str | None:
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError:
        return None


@cache
def _processor() -> str | None:
    """What compiled loops are made for, by LLVM's name."""
    try:
        from llvmlite.binding import get_host_cpu_name
    except ImportError:
        return None
    return str(get_host_cpu_name())
