"""What the page says of counterparts that were compared by what they do."""

from reseed.report.function import KINDS, what_they_do
from reseed.spec.statistics import Contributions, Estimate, Range, Substitution, SubstitutionPart


def part(value, ends):
    number = Estimate(value=value, interval_95=ends)
    unknown = Estimate(value=None, interval_95=None)
    return SubstitutionPart(pairs=20, documents=9, kl=number, cross_entropy=unknown)


def test_nothing_is_said_of_nothing():
    assert what_they_do(None, None) is None


def test_numbers_stand_beside_their_null_and_interval():
    contributions = Contributions(
        value=0.412,
        interval_95=(0.377, 0.447),
        null_frequency=Range(mean=0.031, lo=0.02, hi=0.04),
        explained=-0.125,
    )
    kinds = {kind: part(0.5, (0.25, 0.75)) for kind in KINDS}
    cosines = {"0.7 to 0.9": part(-0.25, (-0.5, 0.125))}
    found = Substitution(windows=300, kinds=kinds, by_cosine=cosines, by_rate={})
    page = str(what_they_do(contributions, found))
    for words in ("0.412 (0.377–0.447)", "0.031", "-0.125", "0.500 (0.250–0.750)", *KINDS.values()):
        assert words in page
    assert "0.7 to 0.9" in page
    assert "-0.250 (-0.500 to 0.125)" in page
