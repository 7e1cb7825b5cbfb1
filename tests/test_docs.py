"""What the pages name is there."""

import re
from pathlib import Path

import pytest
from benchmarks import bars

from reseed.study import Study

HOME = Path(__file__).parent.parent
PAGES = [HOME / "README.md", *sorted((HOME / "docs").rglob("*.md"))]
STUDIES = sorted((HOME / "studies").glob("*.toml"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page):
    text = page.read_text("utf-8")
    named = set(re.findall(r"(?:studies|docs|benchmarks|tests)/[\w/]+\.(?:toml|md|png|py)", text))
    linked = re.findall(r"\]\(([\w./]+\.(?:md|png|toml))(?:#[\w-]+)?\)", text)
    wanted = [HOME / name for name in named] + [page.parent / name for name in linked]
    assert not [str(path) for path in wanted if not path.exists()]


CODE = [
    path.as_posix()
    for folder in ("src/reseed", "tests", "benchmarks", "studies", "docs")
    for path in (HOME / folder).rglob("*.py")
]
TODAY = [page for page in PAGES if page.name != "log.md"]


@pytest.mark.parametrize("page", TODAY, ids=lambda page: page.name)
def test_code_that_a_page_names_is_there(page):
    named = set(re.findall(r"`([a-z_./]+/[a-z_0-9]+\.py)`", page.read_text("utf-8")))
    assert not [name for name in named if not any(path.endswith("/" + name) for path in CODE)]


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_can_be_read(path, tmp_path):
    assert Study.load(path, tmp_path / "out").runs


def test_tables_of_bars_are_those_that_were_measured():
    kept = bars.read(bars.KEPT)
    assert bars.PAGE.read_text("utf-8") == bars.page(kept)
    for page in bars.WITH_TABLES:
        text = page.read_text("utf-8")
        assert "<!-- bars: " in text
        assert bars.with_tables(text, kept) == text
