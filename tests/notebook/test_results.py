"""What results show of themselves: one line, a small escaped table, a figure, a frame."""

import sys
import warnings

import numpy as np
import pytest

import reseed
from reseed.notebook.doors import DOORS, door
from reseed.notebook.markup import ROWS, ends, html_table, percent

pytest.importorskip("torch", reason="studies are made with torch")

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def study(finished):
    return reseed.Study.load(finished)


@pytest.fixture(scope="module")
def comparison(finished):
    runs = reseed.Study.load(finished).runs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return reseed.compare(*(run.sae() for run in runs[:3]), null_draws=1)


@pytest.fixture(scope="module")
def match():
    rng = np.random.default_rng(0)
    return reseed.match(*rng.normal(size=(2, 12, 6)).astype(np.float32))


def every(study, comparison, match):
    return [study, comparison, match, study.runs[0].sae()]


def test_all_show_one_line_and_a_table(study, comparison, match):
    for shown in every(study, comparison, match):
        assert "\n" not in repr(shown)
        assert len(repr(shown)) < 300
        html = shown._repr_html_()
        assert html.startswith("<table>")
        assert html.count("<table>") == html.count("</table>") == 1


def test_numbers_stand_beside_chance_interval_and_counts(study, comparison):
    html = study._repr_html_()
    for column in ("shared", "95% interval", "chance", "untrained pair", "runs", "pairs"):
        assert f"<th>{column}</th>" in html
    shared = study.summary["groups"][0]["headline"]["shared"]["all"]
    assert f"<td>{percent(shared['value'])}</td>" in html
    assert f"<td>{percent(shared['null_covariance']['mean'])}</td>" in html
    html = comparison._repr_html_()
    for column in ("of A", "of B", "chance", "draws of chance", "95% over pairs"):
        assert f"<th>{column}</th>" in html
    assert html.count("<tr>") == 1 + 3 * 3  # measures of three pairs


def test_all_text_is_escaped(finished):
    html = html_table(HOSTILE, [{HOSTILE: HOSTILE}], HOSTILE)
    assert "<script" not in html
    assert "<img" not in html
    assert html.count("&lt;script&gt;") == 4
    sae = reseed.Study.load(finished).runs[0].sae()
    sae.about["subject"] = HOSTILE
    sae.about["measured"] = {HOSTILE: HOSTILE}
    assert "<script" not in sae._repr_html_()
    named = reseed.compare(sae, sae, names=["<script>x", "b"], null_draws=1)
    assert "<script" not in named._repr_html_()
    assert "<script" not in named.plot().layout.title.text


def test_long_tables_say_what_they_leave_out():
    html = html_table("t", [{"a": number} for number in range(ROWS + 3)])
    assert "3 more rows" in html
    assert html.count("<tr>") == ROWS + 1
    assert ends(None) == ends((None, 1.0)) == percent(None) == "–"


def test_a_study_without_results_says_what_makes_them(write_study):
    assert "reseed.run(study)" in reseed.Study.load(write_study())._repr_html_()


def test_figures_hold_the_numbers_of_the_pages(study, comparison, match):
    headline = study.summary["groups"][0]["headline"]["shared"]["all"]
    forest = study.plot()
    assert list(forest.data[-1].x)[0] == pytest.approx(headline["value"], rel=1e-3)
    assert len(forest.data[-1].x) == len(study.groups())
    for figure in ("cosines", "shares", "n-of-m"):
        assert len(study.plot(figure, group=study.groups()[1].label).data) >= 2
    drawn = study.plot("cosines")
    assert sum(drawn.data[0].y) == pytest.approx(16, rel=1e-3)
    for figure in ("shares", "cosines", "forest"):
        assert comparison.plot(figure, pair=1).data
    shares = comparison.plot("shares").data[-1]
    at = list(shares.x).index(0.7) if 0.7 in shares.x else None
    assert at is None or 0 <= shares.y[at] <= 1
    assert list(match.plot().data[0].x) == list(match.similarity)
    assert len(study.runs[0].sae().plot().data) == 2


def test_unknown_figures_are_named(study, comparison):
    with pytest.raises(reseed.SpecError, match="did you mean 'forest'"):
        study.plot("forrest")
    with pytest.raises(reseed.SpecError, match="pairs 0 to 2"):
        comparison.plot(pair=3)
    with pytest.raises(reseed.SpecError, match="no group"):
        study.plot(group="nothing")


def test_frames(study, comparison, match):
    assert match.latents.columns == ["latent_a", "latent_b", "similarity"]
    pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    for shown in (study, comparison, match):
        frame = shown.to_pandas()
        assert len(frame) == len(shown.latents)
        assert list(frame.columns) == shown.latents.columns


def test_a_missing_extra_is_named(match, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"Match\.to_pandas needs pandas.*reseed\[notebook\]"):
        match.to_pandas()


@pytest.mark.parametrize("name", DOORS)
def test_every_door_opens(name):
    assert callable(door(name))


def test_plotly_figures_are_loaded_late(python):
    code = "import sys, reseed; reseed.Study; reseed.Match; reseed.SAE\n"
    done = python("-c", code + "assert 'plotly.graph_objects' not in sys.modules")
    assert done.returncode == 0, done.stderr


def test_colours_are_those_of_the_page():
    from reseed.report.html import asset
    from reseed.report.notebook.draw import colour_of

    for kind in ("observed", "null", "untrained"):
        assert f"--{kind}: {colour_of(kind)};" in asset("page.css").partition("@media")[0]
