"""What a page says against its numbers: what is missing, as keys and numbers to copy."""

import tomllib

import pytest

from reseed.spec.statistics import Number
from reseed.spec.summary import GroupSummary
from reseed.stability.notes import notes


def number(value, ends=None):
    return Number(
        value=value, interval_95=ends, null_covariance=None, null_untrained=0.0,
        chance_corrected=None,
    )  # fmt: skip


def group(share=0.2, ends=None, runs=3):
    strata = {"all": number(share, ends)}
    measures = ("both", "equal", "decoder_only", "max_cos_both", "pw_mcc", "mmcs_decoder")
    others = dict.fromkeys((*measures, "match_at_fdr", "nearest_at_fdr"), strata)
    return GroupSummary.model_validate(
        {
            "label": "toy", "runs": [f"r{n}" for n in range(runs)], "tokens": 1000,
            "counts": {"runs": runs, "pairs": 3, "latents": 8, "live": [8] * runs,
                       "dead": [0] * runs, "dense": [0] * runs},
            "reconstruction": {"held_out_tokens": 100},
            "distance_from_init": {"mean": 0.3, "lo": 0.3, "hi": 0.3},
            "independent": {"pairs": 3, "they": "share the data seed", "trials": runs - 1},
            "headline": {"tau": 0.7, "shared": strata, "ceiling_same_run": 1.0,
                         "in_itself": {}, "null_kinds": {}, **others},
        }
    )  # fmt: skip


def said(share=0.2, trend=None, nearest=None, **more):
    return " ".join(notes(group(share, **more), {}, trend or {}, 1.0, nearest=nearest or {}))


def keys(text):
    """What stands between backticks and is TOML."""
    return tomllib.loads("\n".join(part for part in text.split("`")[1::2] if "=" in part))


def test_a_rising_share_names_twice_the_tokens():
    text = said(0.2, {0: 0.0, 500: 0.1, 1000: 0.2})
    assert "too few tokens for a verdict" in text
    assert keys(text) == {"training": {"tokens": 2000}}
    assert "too few tokens" not in said(0.2, {0: 0.0, 500: 0.19, 1000: 0.2})


@pytest.mark.parametrize(
    ("nearest", "tokens"),
    [({0: 0.3, 500: 0.4, 1000: 0.5}, 4000), ({0: 0.3, 500: 0.55, 1000: 0.69}, 2000)],
)
def test_nothing_back_yet_draws_the_cosines_on_to_tau(nearest, tokens):
    text = said(0.0, dict.fromkeys(nearest, 0.0), nearest)
    assert "nothing has come back yet" in text
    assert keys(text) == {"training": {"tokens": tokens}}


@pytest.mark.parametrize("end", [0.4, 0.405, 0.35])
def test_a_trend_that_leads_nowhere_promises_nothing(end):
    text = said(0.0, {0: 0.0, 500: 0.0, 1000: 0.0}, {0: 0.3, 500: 0.4, 1000: end})
    assert "do not promise it" in text
    assert "training.tokens" not in text


def test_without_snapshots_they_are_asked_for():
    text = said(0.0, {0: 0.0, 1000: 0.0}, {0: 0.3, 1000: 0.5})
    assert keys(text) == {"snapshots": [0.25, 0.5], "tokens": 4000}


def test_a_wide_interval_asks_for_more_runs():
    assert keys(said(0.2, ends=(0.1, 0.3))) == {"init": [0, 1, 2, 3, 4, 5]}
    assert "more runs" not in said(0.2, ends=(0.19, 0.21))
    assert "more runs" not in said(0.2, ends=(0.1, 0.3), runs=6)
    assert keys(said(0.2, runs=2)) == {"init": [0, 1, 2]}
