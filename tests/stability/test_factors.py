"""Effects of width, k and tokens: those that were put in come out, and intervals hold them."""

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest

from reseed.spec.summary import Factors, document_of
from reseed.stability.factors import effects
from reseed.stability.factors.effects import TOGETHER, Cell
from reseed.stability.factors.words import words

WIDTHS, KS, TOKENS = (256, 512, 1024), (8, 32), (1000, 2000, 4000)
FACTORS = ("site", "architecture", "latents", "k", "tokens")
WIDTH, K, SEEN = -0.03, 0.02, 0.05
"""Planted changes of the share with each doubling."""


def decompose(*cells):
    found = effects.decompose(*cells)
    return None if found is None else document_of(found)


def design(seeds: int):
    return {f"i{seed}-d0": (seed, 0) for seed in range(seeds)}


def study(seeds, rng, *, alike=0.0, noise=0.0, runs=0.01, grid=None, extra=None, crossed=None):
    """Cells whose pairs are the planted mean, half the effects of two seeds, and noise of the pair.

    Args:
        seeds: how many, or a design.
        alike: part of the variance of a seed's effect that is the same in all groups.
        noise: standard deviation of the noise of a pair.
        runs: standard deviation of the effects of runs.
        grid: widths and ks; all combinations if left out.
        extra: function of a cell's levels that is added to its mean.
        crossed: standard deviations of the effects of init and data seeds, in place of `runs`.
    """
    names = design(seeds) if isinstance(seeds, int) else seeds
    common = dict(zip(names, rng.normal(size=len(names)), strict=True))
    cells = []
    for width, k in grid or product(WIDTHS, KS):
        own = dict(zip(names, rng.normal(size=len(names)), strict=True))
        mixed = {n: alike**0.5 * common[n] + (1 - alike) ** 0.5 * own[n] for n in names}
        effect = {name: runs * value for name, value in mixed.items()}
        if crossed:
            by_seed = [
                {level: sd * rng.normal() for level in {s[axis] for s in names.values()}}
                for axis, sd in enumerate(crossed)
            ]
            effect = {n: by_seed[0][i] + by_seed[1][d] for n, (i, d) in names.items()}
        pairs = [
            (a, b)
            for a, b in combinations(names, 2)
            if not crossed or all(x != y for x, y in zip(names[a], names[b], strict=True))
        ]
        for tokens in TOKENS:
            levels = {
                "site": "s", "architecture": "topk", "latents": width, "k": k, "tokens": tokens
            }  # fmt: skip
            mean = 0.4 + WIDTH * np.log2(width / 256) + K * np.log2(k / 8)
            mean += SEEN * np.log2(tokens / 1000) + (extra(levels) if extra else 0.0)
            values = np.array([mean + (effect[a] + effect[b]) / 2 for a, b in pairs])
            values = values + noise * rng.normal(size=len(pairs))
            cells.append(Cell(group=f"{width}-{k}", levels=levels, pairs=pairs, values=values))
    return cells, names


def test_planted_effects_come_out_without_noise():
    cells, names = study(3, np.random.default_rng(0), runs=0.0)
    found = decompose(cells, FACTORS, TOKENS[-1], names)
    parts_of = found["effects"]
    for factor, planted in (("latents", WIDTH), ("k", K), ("tokens", SEEN)):
        assert parts_of[factor]["doubling"]["value"] == pytest.approx(planted)
        assert parts_of[factor]["doubling"]["interval_95"] == pytest.approx([planted, planted])
        assert parts_of[factor]["changes_with"] is None
    assert [one["level"] for one in parts_of["latents"]["levels"]] == list(WIDTHS)
    # the means of levels are averages over the other factors, at the end of training
    ends = 0.4 + SEEN * 2 + K
    expected = [ends + WIDTH * step for step in range(3)]
    assert [one["value"] for one in parts_of["latents"]["levels"]] == pytest.approx(expected)
    assert parts_of["site"]["changes_with"] == []
    assert found["interaction"]["value"] == pytest.approx(0.0, abs=1e-12)
    parts = found["spread"]["parts"]
    assert sum(one["share"] for one in parts.values()) == pytest.approx(1)
    assert parts[TOGETHER]["share"] == pytest.approx(0, abs=1e-9)
    # doublings: width 0 to 2 in 3 levels, k 0 or 2, tokens 0 to 2 in 3 levels
    squares = {"latents": WIDTH**2 * 2 / 3, "k": K**2, "tokens": SEEN**2 * 2 / 3}
    for factor, square in squares.items():
        assert parts[factor]["share"] == pytest.approx(square / sum(squares.values()))
    assert found["spread"]["sd"] == pytest.approx(sum(squares.values()) ** 0.5)


def test_what_does_not_add_is_seen():
    def more(levels):
        return 0.01 * np.log2(levels["latents"] / 256) * np.log2(levels["k"] / 8)

    cells, names = study(3, np.random.default_rng(0), runs=0.0, extra=more)
    found = decompose(cells, FACTORS, TOKENS[-1], names)
    assert found["interaction"]["value"] == pytest.approx(0.01)
    assert found["spread"]["parts"][TOGETHER]["share"] > 0.005


def test_a_grid_with_a_hole_is_told_apart_all_the_same():
    grid = [(256, 8), (256, 32), (1024, 8)]
    cells, names = study(3, np.random.default_rng(0), runs=0.0, grid=grid)
    found = decompose(cells, FACTORS, TOKENS[-1], names)
    assert found["effects"]["latents"]["doubling"]["value"] == pytest.approx(WIDTH)
    assert found["effects"]["k"]["doubling"]["value"] == pytest.approx(K)
    assert found["interaction"] is None


def test_width_and_k_that_change_together_are_not_told_apart():
    cells, names = study(3, np.random.default_rng(0), grid=[(256, 8), (1024, 32)])
    found = decompose(cells, FACTORS, TOKENS[-1], names)
    assert found["effects"]["latents"]["changes_with"] == ["k"]
    assert found["effects"]["k"]["changes_with"] == ["latents"]
    assert found["effects"]["latents"]["doubling"] is None
    assert found["effects"]["tokens"]["doubling"]["value"] == pytest.approx(SEEN)
    assert set(found["spread"]["parts"]) == {"tokens", TOGETHER}


def test_two_seeds_give_no_interval_and_a_lost_run_no_harm():
    cells, names = study(2, np.random.default_rng(0))
    found = decompose(cells, FACTORS, TOKENS[-1], names)
    assert found["effects"]["k"]["doubling"]["interval_95"] is None
    assert found["spread"]["seeds"] is None
    cells, names = study(5, np.random.default_rng(0))
    lost = next(iter(names))
    few = [pair for pair in cells[0].pairs if lost not in pair]
    cells[0] = Cell(
        group=cells[0].group, levels=cells[0].levels, pairs=few,
        values=cells[0].values[[lost not in pair for pair in cells[0].pairs]],
    )  # fmt: skip
    found = decompose(cells, FACTORS, TOKENS[-1], names)
    assert found["effects"]["k"]["doubling"]["interval_95"] is not None


def test_a_value_that_is_missing_leaves_the_measure_out():
    cells, names = study(3, np.random.default_rng(0))
    cells[0].values[0] = np.nan
    assert decompose(cells, FACTORS, TOKENS[-1], names) is None
    assert decompose([], FACTORS, TOKENS[-1], names) is None


CASES = {
    "runs of groups are independent, 3 seeds": ({"seeds": 3}, 0.93, 0.97),
    "runs of groups are independent, 6 seeds": ({"seeds": 6}, 0.93, 0.97),
    "a seed does the same in all groups": ({"seeds": 4, "alike": 0.9}, 0.93, 0.97),
    "pairs are noisy": ({"seeds": 4, "noise": 0.01}, 0.93, 0.995),
    "both seeds vary": (
        {"seeds": {f"i{i}-d{d}": (i, d) for i in range(3) for d in range(3)},
         "crossed": (0.01, 0.004)}, 0.93, 1.0),
}  # fmt: skip


@pytest.mark.parametrize(
    "case",
    [
        name if not at else pytest.param(name, marks=pytest.mark.slow)
        for at, name in enumerate(CASES)
    ],
)
def test_intervals_hold_the_planted_effects(case):
    """The standard error of the coverage over 1,000 studies is 0.7 points."""
    options, least, most = CASES[case]
    planted = {"latents": WIDTH, "k": K, "tokens": SEEN}
    if not options.get("noise"):
        del planted["tokens"]  # effects of runs that snapshots share cancel in it: no error at all
    held = dict.fromkeys(planted, 0)
    repeats, grid = 1000, list(product((256, 1024), KS))
    for repeat in range(repeats):
        cells, names = study(rng=np.random.default_rng([1, repeat]), grid=grid, **options)
        if not options.get("noise"):
            cells = [cell for cell in cells if cell.levels["tokens"] == TOKENS[-1]]
        found = decompose(cells, FACTORS, TOKENS[-1], names)["effects"]
        for factor, value in planted.items():
            low, high = found[factor]["doubling"]["interval_95"]
            held[factor] += low <= value <= high
    for factor, count in held.items():
        assert least <= count / repeats <= most, (factor, count / repeats)


def test_what_seeds_alone_put_into_a_part_is_expected_there():
    """Without any effect a part of the spread is what other seeds alone would put there."""
    parts, chance = [], []
    for repeat in range(100):
        rng = np.random.default_rng([2, repeat])
        cells, names = study(6, rng, runs=0.02)
        cells = [
            Cell(group=c.group, levels=c.levels, pairs=c.pairs,
                 values=c.values - WIDTH * np.log2(c.levels["latents"] / 256))
            for c in cells
        ]  # fmt: skip
        one = decompose(cells, FACTORS, TOKENS[-1], names)["spread"]["parts"]["latents"]
        parts.append(one["share"])
        chance.append(one["by_seeds"])
    assert np.mean(chance) == pytest.approx(np.mean(parts), rel=0.25)


def said(cells, names, **more):
    """The sentences about cells by the shared share; more measures by name."""
    measures = {
        name: decompose(found, FACTORS, TOKENS[-1], names)
        for name, found in {"shared": cells, **more}.items()
    }
    return " ".join(words(factors(measures)))


def factors(measures):
    return Factors(
        tau=0.7, groups=[], across=[], also_differ=["lr"], init_seeds=3, data_seeds=1, words=[],
        measures=measures,
    )  # fmt: skip


def test_sentences_name_the_change_its_interval_and_what_cannot_be_told():
    rng = np.random.default_rng(3)
    cells, names = study(4, rng, runs=0.001)
    text = said(cells, names)
    assert "doubling the width (256 to 1,024) changes the share that comes back by -3." in text
    assert "width and k may simply add" in text
    assert "groups also differ in lr" in text
    assert "one data seed" in text
    # the same with the sign of every effect turned: the measures contradict each other
    turned = [
        Cell(group=c.group, levels=c.levels, pairs=c.pairs, values=1 - c.values) for c in cells
    ]
    assert "the width moves the mean matched cosine (+0.03" in said(cells, names, pw_mcc=turned)
    assert "the other way" not in said(cells, names, pw_mcc=cells)
    joined, names = study(3, rng, grid=[(256, 8), (1024, 32)])
    text = said(joined, names)
    assert "the effect of the width cannot be separated from that of k: they change" in text
    alone, names = study(3, rng, grid=[(256, 8), (256, 32)])
    assert "the width" not in said(alone, names)  # of one level there is nothing to say
    assert words(factors({})) == ["some group has no pair of runs, so groups cannot be compared."]


def test_effects_that_do_not_add_are_said():
    def more(levels):
        return 0.02 * np.log2(levels["latents"] / 256) * np.log2(levels["k"] / 8)

    cells, names = study(4, np.random.default_rng(4), runs=0.001, extra=more)
    assert "width and k do not simply add" in said(cells, names)


@pytest.mark.parametrize("value", [0.1, 0.3, 1 / 3, 0.7, 1e-9, 123.4])
@pytest.mark.parametrize("groups", [2, 4, 7, 8, 9])
def test_groups_that_share_alike_have_no_spread(groups, value):
    """Sites of one array give equal means, whose sum of squares rounding can make negative."""
    names = design(3)
    pairs = list(combinations(names, 2))
    cells = [
        Cell(group=str(at), levels={"site": str(at)}, pairs=pairs, values=np.full(3, value))
        for at in range(groups)
    ]
    spread = decompose(cells, ["site"], None, names)["spread"]
    assert spread["sd"] == 0
    assert spread["parts"]["site"] == {"share": None, "by_seeds": None}
    assert spread["seeds"] is None


def test_means_of_shares_have_intervals_of_shares():
    cells, names = study(3, np.random.default_rng(0), runs=0.08, extra=lambda _: -0.33)
    cells = [replace(cell, values=cell.values.clip(0, 1)) for cell in cells]
    levels = decompose(cells, FACTORS, TOKENS[-1], names)["effects"]["latents"]["levels"]
    ends = [level["interval_95"] for level in levels]
    assert min(low for low, _ in ends) == 0.0
    assert all(
        low <= level["value"] <= high for level, (low, high) in zip(levels, ends, strict=True)
    )
