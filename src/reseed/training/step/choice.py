"""Which way a run's steps are made: the fastest that there is for it, or the plain one."""

from __future__ import annotations

from typing import TypeGuard

from reseed.sae.architecture import Parameters
from reseed.sae.architectures.batchtopk import BatchTopKSpec
from reseed.sae.architectures.topk import TopKSpec
from reseed.sae.codes import compiles, triton_runs
from reseed.sae.settings import ArchitectureSpec
from reseed.training.step.plain import PlainStep, Step, by_autograd, topk_by_hand


def way_of(
    parameters: Parameters,
    trained: frozenset[str],
    spec: ArchitectureSpec,
    clip: float,
    plain: bool,
) -> Step:
    """The fastest way there is for this architecture where its parameters are.

    Args:
        parameters: of the run, updated in place.
        trained: names of those that are trained.
        spec: the architecture.
        clip: largest norm of the gradient.
        plain: take the plain way in any case.
    """
    given = parameters, trained, spec, clip
    device = parameters["b_dec"].device.type
    fast = not (plain or spec.plain)
    if fast and device == "cuda" and triton_runs() and _by_triton(spec):
        from reseed.training.step.gpu import TritonStep

        return TritonStep(parameters, trained, spec, clip)
    if fast and device == "cpu" and spec.loops and compiles():
        from reseed.training.step.fast import FastStep  # needs numba

        return FastStep(parameters, trained, spec, clip)
    if isinstance(spec, TopKSpec) and not (spec.multi_topk or spec.differentiated):
        return PlainStep(*given, topk_by_hand(spec))
    return PlainStep(*given, by_autograd(spec))


def _by_triton(spec: ArchitectureSpec) -> TypeGuard[TopKSpec | BatchTopKSpec]:
    if isinstance(spec, TopKSpec):
        return not spec.multi_topk
    return isinstance(spec, BatchTopKSpec)
