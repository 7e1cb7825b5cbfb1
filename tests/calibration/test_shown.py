"""A calibration in a notebook: one line, a table with the base rate, figures, a frame."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from reseed.errors import SpecError
from reseed.pipeline.known_features import Calibration


@pytest.fixture(scope="module")
def calibration(known):
    summary = {"groups": [known["summary"]]}
    study = SimpleNamespace(**vars(known["study"]), folder=Path("known"))
    return Calibration(study=study, report=Path("x.html"), summary=summary, failed=[], seconds=0.0)


def test_it_shows_itself(calibration):
    label = calibration.summary["groups"][0]["label"]
    assert label in repr(calibration)
    assert "\n" not in repr(calibration)
    html = calibration._repr_html_()
    for column in ("precision", "95% interval", "share that exists", "judges", "runs"):
        assert f"<th>{column}</th>" in html
    assert f"<td>{calibration.table['precision'][0]:.1%}</td>" in html


def test_text_is_escaped(calibration):
    group = {**calibration.summary["groups"][0], "label": "<script>x</script>"}
    assert "<script>" not in replace(calibration, summary={"groups": [group]})._repr_html_()


def test_figures_hold_the_numbers_of_the_tables(calibration):
    judges = calibration.table["judges"][0]
    rows = calibration.read("detector").filter(label="feature", stratum="live", m=judges)
    drawn = calibration.plot().data[-1]
    assert list(drawn.y)[:-1] == pytest.approx(rows["recall"].to_list(), rel=1e-3)
    assert list(drawn.x)[:-1] == pytest.approx(rows["false_alarm"].to_list(), rel=1e-3)
    rule = calibration.plot("rule").data
    assert list(rule[0].y) == pytest.approx(rows["precision"].to_list(), rel=1e-3)
    assert rule[2].y[0] == pytest.approx(calibration.table["base"][0], rel=1e-3)
    with pytest.raises(SpecError, match="'roc'"):
        calibration.plot("rok")
    with pytest.raises(SpecError, match="architecture"):
        calibration.plot(group="nothing")


def test_frames(calibration):
    assert len(calibration.latents) > 0
    pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    assert len(calibration.to_pandas()) == 1
