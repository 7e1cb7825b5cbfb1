"""Controls stand below the group that they explain, in both headline tables."""

from reseed.report.study import shares_table, training_table, words


def number(value):
    return {
        "value": value,
        "interval_95": [value - 0.02, value + 0.02],
        "null_covariance": {"mean": 0.01, "lo": 0.0, "hi": 0.02},
        "null_untrained": 0.0,
        "chance_corrected": value - 0.01,
    }


def group(controls):
    counts = {"runs": 3, "latents": 8, "live": [8] * 3, "dead": [0] * 3, "dense": [0] * 3}
    fvu = {"mean": 0.25, "lo": 0.2, "hi": 0.3}
    about = {
        "counts": counts,
        "reconstruction": {"held_out_tokens": 100, "fvu": fvu, "l0": {"mean": 2, "lo": 2, "hi": 2}},
    }
    shared = {"all": number(0.6), "live": number(0.7)}
    made = {
        kind: {**about, "shared": None if value is None else {"all": number(value)}}
        for kind, value in controls.items()
    }
    return {
        **about,
        "label": "toy",
        "tokens": 3000,
        "headline": {
            "tau": 0.7,
            "shared": shared,
            "match_at_fdr": {},
            "ceiling_same_run": 1.0,
        },
        "controls": made,
    }


def test_each_control_has_a_row():
    groups = [group({"gaussian": 0.123, "soft_frozen_decoder": None})]
    shown = str(shares_table(groups))
    assert "control: gaussian" in shown
    assert "12.3%" in shown
    assert "control: soft frozen decoder" in shown
    assert "fewer than two runs" in shown
    assert 'rowspan="4"' in shown
    trained = str(training_table(groups, {"epochs": 2.0}))
    assert trained.count("control: ") == 2
    assert "runs of the same recipe" in str(words(groups))


def test_without_controls_nothing_is_said_of_them():
    groups = [group({})]
    groups[0].pop("controls")
    shown = str(shares_table(groups)) + str(training_table(groups, {"epochs": 2.0}))
    assert "ontrol" not in shown + str(words(groups))
