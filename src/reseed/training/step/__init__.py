"""Which path a run's steps take: the fastest that there is for its settings, or the plain one.

Read without torch: what a path needs decides how much memory a run is planned to take.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reseed.sae.architectures.batchtopk import BatchSpec, BatchTopKSpec
from reseed.sae.architectures.gated import GatedSpec
from reseed.sae.architectures.jumprelu import JumpReLUSpec
from reseed.sae.architectures.relu import ReLUSpec
from reseed.sae.architectures.topk import TopKSpec
from reseed.sae.codes import compiles, triton_runs
from reseed.sae.settings import ArchitectureSpec

if TYPE_CHECKING:
    from reseed.sae.architecture import Parameters
    from reseed.training.step.plain import Step


def has_loops(spec: ArchitectureSpec) -> bool:
    """Whether compiled loops make the steps of these settings on a CPU, optimiser and all."""
    return _has_rule(spec) and spec.optimizer == "adam" and not _changes_loss(spec)


def _learns_by_codes(spec: ArchitectureSpec) -> bool:
    """Whether loops find its gradients, what options say of the weights and of k added."""
    counts = spec.mutual is not None and spec.mutual.restart_above is not None  # rates of firing
    return _has_rule(spec) and not counts and spec.end_to_end is None


def _has_rule(spec: ArchitectureSpec) -> bool:
    """Whether compiled loops find what a batch says to the codes."""
    match spec:
        case TopKSpec():
            return not spec.multi_topk
        case JumpReLUSpec():
            return spec.unit_rows or spec.pre_act == 0
        case _:
            return isinstance(spec, BatchSpec | GatedSpec | ReLUSpec)


def _changes_loss(spec: ArchitectureSpec) -> bool:
    """Whether an option is set that changes the loss, so that gradients are torch's."""
    return (
        spec.weight_l2 > 0
        or spec.aligned
        or spec.k_start is not None
        or spec.mutual is not None
        or spec.end_to_end is not None
    )


def step_of(
    parameters: Parameters,
    trained: frozenset[str],
    spec: ArchitectureSpec,
    clip: float,
    plain: bool,
) -> Step:
    """The fastest path that there is for these settings where the parameters are.

    `trained` names the parameters that are updated in place, `clip` is the largest norm of their
    gradient; `plain` takes the plain path in any case.
    """
    from reseed.training.step.plain import PlainStep, by_autograd, topk_by_hand

    device, fast = parameters["b_dec"].device.type, has_loops(spec) and not plain
    on_gpu = fast and device == "cuda" and triton_runs()
    if on_gpu and isinstance(spec, TopKSpec | BatchTopKSpec):
        from reseed.training.step.gpu import TritonStep

        return TritonStep(parameters, trained, spec, clip)
    if fast and device == "cpu" and compiles():
        from reseed.training.step.fast import FastStep  # needs numba

        return FastStep(parameters, trained, spec, clip)
    if device == "cpu" and not plain and _learns_by_codes(spec) and compiles():
        from reseed.training.step.fast import by_loops

        return PlainStep(parameters, trained, spec, clip, by_loops(spec))
    differentiate = by_autograd(spec)
    if isinstance(spec, TopKSpec) and not (spec.multi_topk or _changes_loss(spec)):
        differentiate = topk_by_hand(spec)
    return PlainStep(parameters, trained, spec, clip, differentiate)
