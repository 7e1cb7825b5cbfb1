"""Controls stand below the group that they explain, in both headline tables."""

from reseed.report.overview import shares_table, training_table
from reseed.report.parts import glossary
from reseed.spec.statistics import Counts, Headline, Number, Range, Reconstruction
from reseed.spec.summary import ControlSummary, StudyGroup

COUNTS = Counts(runs=3, pairs=3, latents=8, live=[8] * 3, dead=[0] * 3, dense=[0] * 3)
FIT = Reconstruction(
    held_out_tokens=100, fvu=Range(mean=0.25, lo=0.2, hi=0.3), l0=Range(mean=2, lo=2, hi=2)
)
MOVED = Range(mean=0.4, lo=0.4, hi=0.4)


def number(value):
    return Number(
        value=value,
        interval_95=(value - 0.02, value + 0.02),
        null_covariance=Range(mean=0.01, lo=0.0, hi=0.02),
        null_untrained=0.0,
        chance_corrected=value - 0.01,
    )


def control(value):
    return ControlSummary(
        null="N5a",
        rules_out="something",
        group="control",
        counts=COUNTS,
        reconstruction=FIT,
        distance_from_init=MOVED,
        shared=None if value is None else {"all": number(value)},
    )


def group(controls):
    strata = {"all": number(0.6), "live": number(0.7)}
    measures = ("both", "equal", "decoder_only", "max_cos_both", "pw_mcc", "mmcs_decoder")
    others = dict.fromkeys((*measures, "match_at_fdr", "nearest_at_fdr"), {})
    return StudyGroup(
        label="toy",
        runs=["a", "b", "c"],
        tokens=3000,
        counts=COUNTS,
        reconstruction=FIT,
        distance_from_init=MOVED,
        headline=Headline(
            tau=0.7, shared=strata, ceiling_same_run=1.0, in_itself={}, null_kinds={}, **others
        ),
        group="toy",
        controls={kind: control(value) for kind, value in controls.items()},
        through_subject=None,
        notes=[],
    )


def test_each_control_has_a_row():
    groups = [group({"gaussian": 0.123, "soft_frozen_decoder": None})]
    shown = str(shares_table(groups))
    assert "control: gaussian" in shown
    assert "12.3%" in shown
    assert "control: soft frozen decoder" in shown
    assert "fewer than two runs" in shown
    assert 'rowspan="4"' in shown
    assert str(training_table(groups)).count("control: ") == 2
    assert "runs of the same recipe" in str(glossary("100", controls=True))


def test_without_controls_nothing_is_said_of_them():
    groups = [group({})]
    shown = str(shares_table(groups)) + str(training_table(groups))
    assert "ontrol" not in shown + str(glossary("100", controls=False))
