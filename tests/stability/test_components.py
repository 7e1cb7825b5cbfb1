"""Where disagreement comes from: effects that were put in come out."""

from itertools import combinations

import numpy as np
import polars as pl
import pytest

from reseed.matching.measures import SHARED
from reseed.stability import shares
from reseed.stability.factors.components import components, distance_from_init
from reseed.stability.intervals import share_over_pairs
from reseed.stability.shares import PairTable

DESIGN = {f"{i}{d}": (i, d) for i in range(3) for d in range(3)}
FEATURES = 400


def table(pair, shared: np.ndarray, own_number: bool) -> PairTable:
    """A pair in which some latents are shared, with the partner of their own number or the next."""
    partner = np.arange(FEATURES) if own_number else np.roll(np.arange(FEATURES), 1)
    back = np.argsort(partner)
    sides = []
    for side, to, has in (("a", partner, shared), ("b", back, shared[back])):
        cos = np.where(has, 0.9, 0.1)
        sides.append(
            pl.DataFrame(
                {
                    "side": [side] * FEATURES,
                    "latent": np.arange(FEATURES),
                    "decoder_match": to,
                    "encoder_match": to,
                    "decoder_cos": cos,
                    "encoder_cos": cos,
                }
            )
        )
    return PairTable(pair, pl.concat(sides))


def study(feature: float, init: float, data: float, rng) -> tuple[list, list]:
    """Latents found by chance of their own: `feature` always, `init` and `data` with that seed."""
    end, start = [], []
    for pair in combinations(DESIGN, 2):
        (i, d), (j, e) = (DESIGN[run] for run in pair)
        p = feature + init * (i == j) + data * (d == e)
        end.append(table(pair, rng.random(FEATURES) < p, i == j))
        start.append(table(pair, np.full(FEATURES, i == j), i == j))
    return end, start


def test_shares_by_what_two_runs_share_have_the_intervals_of_the_headline():
    end, start = study(0.05, 0.3, 0.1, np.random.default_rng(0))
    everyone = {run: np.ones(FEATURES, dtype=bool) for run in DESIGN}
    found = components(end, start, DESIGN, everyone, 0.7)
    assert found is not None
    neither = [pair for pair in end if all(map(str.__ne__, *pair.pair))]
    values = np.array([shares.share_of(pair, SHARED, everyone, 0.7) for pair in neither])
    pairs = [pair.pair for pair in neither]
    assert found.classes["share neither seed"].shared == share_over_pairs(
        pairs, values, DESIGN, FEATURES
    )
    # equal in all pairs by accident, and still no interval of width zero
    alike = share_over_pairs(pairs, np.full(len(pairs), 0.05), DESIGN, FEATURES)
    assert alike.interval_95 is not None
    assert alike.interval_95[0] < 0.05 < alike.interval_95[1]


def test_planted_components_come_out_and_a_shared_start_is_seen():
    end, start = study(0.4, 0.3, 0.1, np.random.default_rng(0))
    everyone = {run: np.ones(FEATURES, dtype=bool) for run in DESIGN}
    found = components(end, start, DESIGN, everyone, 0.7)
    assert found is not None
    values = {name: part.value for name, part in found.parts.items()}
    assert sum(values.values()) == pytest.approx(1)
    for name, planted in {"feature": 0.4, "init": 0.3, "data": 0.1, "both": 0.2}.items():
        assert values[name] == pytest.approx(planted, abs=0.03)
        low, high = found.parts[name].interval_95
        assert low <= planted <= high
    classes = found.classes
    assert [agreement.pairs for agreement in classes.values()] == [18, 9, 9]
    same, neither = classes["share the init seed"], classes["share neither seed"]
    assert same.untrained.value == same.same_number.value == 1
    assert neither.untrained.value == neither.same_number.value == 0


def test_where_nothing_is_crossed_nothing_is_said():
    end, start = study(0.4, 0.3, 0.1, np.random.default_rng(1))
    everyone = {run: np.ones(FEATURES, dtype=bool) for run in DESIGN}
    one_data = {run: seeds for run, seeds in DESIGN.items() if seeds[1] == 0}
    kept = [t for t in end if set(t.pair) <= one_data.keys()]
    assert components(kept, kept, one_data, everyone, 0.7) is None
    # two levels of a seed: values, but no interval
    two = {run: seeds for run, seeds in DESIGN.items() if seeds[0] < 2}
    kept, first = ([t for t in ts if set(t.pair) <= two.keys()] for ts in (end, start))
    found = components(kept, first, two, everyone, 0.7)
    assert found.parts["init"].interval_95 is None
    assert found.parts["init"].value == pytest.approx(0.3, abs=0.06)


def test_distance_from_init_is_of_live_latents():
    latents = pl.DataFrame(
        {
            "run": ["a", "a", "b", "b"],
            "alive": [True, False, True, True],
            "init_cos": [0.2, 1.0, 0.4, 0.6],
        }
    )
    found = distance_from_init(latents)
    assert (found.mean, found.lo, found.hi) == pytest.approx((0.35, 0.2, 0.5))
    assert distance_from_init(latents.filter(~pl.col("alive"))).mean is None
