"""The steering of L0 on a plant that is known, and what is refused or said where it cannot be."""

import math

import pytest
import torch

from reseed.errors import SpecError
from reseed.sae.architectures import ARCHITECTURES
from reseed.spec.refusals import read_spec
from reseed.spec.statistics import Counts, Range, Reconstruction
from reseed.spec.summary import GroupSummary
from reseed.spec.training import RunSpec, TrainingSpec
from reseed.stability.notes import notes
from reseed.training.learner import Learner
from reseed.training.schedule import STILL, UNMOVED, factor, moved

STEPS = 400


def steered(slope: float, lag: float, target: float = 16.0, start: float = 300.0):
    """L0 that follows, with a lag, a power law of the penalty; factors and L0 by step."""
    held, l0, factors, seen = UNMOVED, start, [], []
    for step in range(STEPS):
        factors.append(factor(held))
        wanted = 40.0 * factors[-1] ** -slope
        l0 = math.exp(lag * math.log(l0) + (1 - lag) * math.log(wanted))
        seen.append(l0)
        held = moved(held, l0, target, step, STEPS)
    return factors, seen


@pytest.mark.parametrize("slope", [0.3, 1.0])
@pytest.mark.parametrize("lag", [0.0, 0.8])
def test_l0_comes_to_the_target_and_stays(slope: float, lag: float) -> None:
    _, seen = steered(slope, lag)
    assert all(abs(one / 16.0 - 1) < 0.1 for one in seen[-20:])
    assert min(seen[STEPS // 10 :]) > 4.0  # it does not dive on the way


def test_the_penalty_stands_still_at_the_end() -> None:
    factors, _ = steered(1.0, 0.8)
    end = math.ceil((1 - STILL) * STEPS)
    assert len(set(factors[end:])) == 1
    assert len(set(factors[: end - 1])) > STEPS // 2


def test_nothing_that_fires_is_no_infinity() -> None:
    held = UNMOVED
    for step in range(STEPS):
        held = moved(held, 0.0, 16.0, step, STEPS)
        assert 0 < factor(held) <= 1
    assert all(math.isfinite(part) for part in held)


PENALISED = sorted(
    name for name, kind in ARCHITECTURES.items() if "target_l0" in kind.settings.model_fields
)


@pytest.mark.parametrize("name", PENALISED)
def test_a_target_that_cannot_be_is_refused(name: str) -> None:
    kind = ARCHITECTURES[name].settings
    for wrong, says in (
        ({"target_l0": 9}, "target_l0 = 9 is above latents = 8"),
        ({"target_l0": 0}, "greater than 0"),
        ({"target_l0": 2, "penalty": 0}, "penalty of 0 cannot be moved"),
        ({"penalty": -1}, "must be at least 0"),
    ):
        with pytest.raises(SpecError, match=says):
            read_spec(kind, {"latents": 8, **wrong}, "test")


def test_the_penalty_is_carried_over_a_restart_and_grows_at_first() -> None:
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    sae = {"architecture": "relu", "latents": 16, "target_l0": 2, "penalty_warmup": 0.5}
    run = RunSpec(
        data="", site="x", sae=sae, training=TrainingSpec(tokens=640, batch=64), init_seed=0,
        data_seed=0,
    )  # fmt: skip
    one, other = Learner(run, x), Learner(run, x)
    assert "held_l0" not in one.state()
    for _ in range(4):
        one.update(x)
    assert one.state()["held_l0"].dtype == torch.float64
    other.restore({name: value.clone() for name, value in one.state().items()})
    assert torch.equal(one.state()["held_l0"], other.state()["held_l0"])


def test_the_reader_is_told_where_l0_is_not_what_was_asked_for() -> None:
    def said(lo: float, hi: float, promised: float | None) -> list[str]:
        l0 = Range(mean=(lo + hi) / 2, lo=lo, hi=hi)
        group = GroupSummary(
            label="", runs=["a"], tokens=1,
            counts=Counts(runs=1, pairs=0, latents=1, live=[1], dead=[0], dense=[0]),
            reconstruction=Reconstruction(held_out_tokens=1, l0=l0),
            distance_from_init=Range(mean=None, lo=None, hi=None),
        )  # fmt: skip
        return [note for note in notes(group, {}, {}, 1.0, promised) if "asked for" in note]

    assert said(15.0, 17.5, 16.0) == []
    assert said(3.0, 300.0, None) == []
    assert "15 to 17.9 where 16" in said(15.0, 17.9, 16.0)[0]
    assert said(13.0, 16.0, 16.0)


def test_the_reader_is_told_where_the_mean_would_do_better() -> None:
    def said(fvu: float) -> list[str]:
        group = GroupSummary(
            label="", runs=["a"], tokens=1,
            counts=Counts(runs=1, pairs=0, latents=1, live=[1], dead=[0], dense=[0]),
            reconstruction=Reconstruction(
                held_out_tokens=1, fvu=Range(mean=0.9, lo=0.8, hi=fvu)
            ),
            distance_from_init=Range(mean=None, lo=None, hi=None),
        )  # fmt: skip
        return [note for note in notes(group, {}, {}, 1.0) if "worse than the mean" in note]

    assert said(0.99) == []
    assert "up to 1.04" in said(1.04)[0]
