"""Compiles every Triton kernel for a GPU that need not be here; prints what came out as JSON.

Run as `python triton_targets.py CAPABILITY`, without TRITON_INTERPRET: the interpreter checks
neither types nor shapes nor whether a kernel fits a GPU.
"""

import json
import re
import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from reseed.loops import gpu_encode as encoder
from reseed.loops import gpu_step as adam
from reseed.loops import gpu_step as step
from reseed.sae import gpu
from reseed.training.step import gpu as gpu_step
from reseed.training.step.plain import BETAS, EPSILON

SCALARS = {"slack": "fp32", "clip": "fp32", "rate": "fp32", "root": "fp32"}
SIZES = {"latents", "groups", "room", "D", "K", "F", "x_rows", "residual_rows", "modulo"}
INTEGERS = {"chosen", "count", "starts", "rows"}
HALVES = {"product", "halves"}


def signature(kernel, constants, change):
    """Types as the callers pass them: float32 arrays unless said otherwise."""
    out = {}
    for name in kernel.arg_names:
        kind = "*i32" if name in INTEGERS else "*bf16" if name in HALVES else "*fp32"
        kind = "i32" if name in SIZES else SCALARS.get(name, kind)
        out[name] = "constexpr" if name in constants else change.get(name, kind)
    return out


def kernels():
    """Kernel, constants, types that differ, warps."""
    rows = gpu_step.sizes(576)
    warps, wide = rows["num_warps"], {n: v for n, v in rows.items() if n.isupper()}
    tile = {n: v for n, v in gpu._TILE.items() if n.isupper()}
    count, row = {"rows": "i32"}, gpu._ROW
    moments = {"FIRST": BETAS[0], "SECOND": BETAS[1], "EPSILON": EPSILON, **wide}
    for group in (64, 1):
        how = {"GROUP": group, "GROUPS": gpu._LATENTS // group}
        yield encoder.candidates, how, count, 4
    both = {**tile, "GROUP": 64, "WIDE": False}
    yield encoder.screen, both, {"x": "*bf16", "W": "*bf16", **count}, 8
    yield encoder.all_scores, tile, count, 8
    yield encoder.score, row, {}, 4
    yield step.decode, {"WIDTH": wide["WIDTH"]}, {"latents": "*i64"}, warps
    yield step.norms, {"ENCODER": True, "DECODER": True, **wide}, {}, warps
    yield adam.update_encoder, {"HALVES": True, **moments}, {}, warps
    yield adam.update_decoder, moments, {}, warps


def main(capability):
    made = {}
    for kernel, constants, change, warps in kernels():
        types = signature(kernel, constants, change)
        aligned = {
            (i,): [["tt.divisibility", 16]]
            for i, kind in enumerate(types.values())
            if kind[0] == "*" or kind == "i32"
        }
        source = ASTSource(fn=kernel, signature=types, constexprs=constants, attrs=aligned)
        options = {"num_warps": warps, **gpu.EXACT}
        target = GPUTarget("cuda", capability, 32)
        out = triton.compile(source, target=target, options=options)
        ptx = out.asm["ptx"]
        name = kernel.__name__
        made[name] = {
            "target": next(line for line in ptx.splitlines() if line.startswith(".target")),
            "tensor_cores": "mma" in ptx,
            "shared": out.metadata.shared,
            "atomics": bool(re.search(r"\b(atom|red)\.(global|async)", ptx)),
        }
    sys.stdout.write(json.dumps(made))


main(int(sys.argv[1]))
