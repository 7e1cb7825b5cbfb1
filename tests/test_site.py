"""The docs as a site: built strictly, works without a network, and says what the code says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from reseed import errors

HOME = Path(__file__).parent.parent
DOCS = sorted((HOME / "docs").rglob("*.md"))
CHROMIUM = Path("/usr/bin/chromium")
ERRORS = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, errors.ReseedError)
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; a link or an anchor that leads nowhere ends the build."""
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", folder],
        cwd=HOME,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_and_notebook_is_there(site):
    for page in DOCS:
        built = site / page.relative_to(HOME / "docs").with_suffix(".html")
        assert built.exists(), page
    assert len(list(site.glob("notebooks/*.ipynb"))) == 3


def test_blocks_beside_each_other_are_tabs(site):
    text = (site / "my_feature.html").read_text("utf-8")
    assert text.count('class="tabbed-set') == 3
    assert "<strong>TOML</strong>" not in text


@pytest.mark.browser
def test_it_works_from_a_file_and_asks_nobody(site):
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}")
    asked, said = [], []
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        try:
            page = browser.new_context(
                offline=True, viewport={"width": 390, "height": 800}
            ).new_page()
            page.on("request", lambda request: asked.append(request.url))
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            for name in ("index", "errors", "suites", "notebooks/first_study"):
                page.goto((site / f"{name}.html").as_uri())
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
            page.set_viewport_size({"width": 1300, "height": 800})
            page.goto((site / "index.html").as_uri())
            page.locator(".md-search__input").click()
            page.keyboard.type("orphans")
            page.locator(".md-search-result__item a").first.wait_for(timeout=60_000)
        finally:
            browser.close()
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:", "about:"))] == []
    assert said == []


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_every_error_has_its_place(error):
    page = (HOME / "docs" / "errors.md").read_text("utf-8")
    _, heading, rest = page.partition(f"\n## {error.__name__}\n")
    assert heading, f"docs/errors.md has no heading {error.__name__}"
    section = " ".join(rest.partition("\n## ")[0].split())
    if error is errors.ReseedError:
        return
    assert f"*{' '.join(error.__doc__.split())}*" in section
    assert f"`{error.__base__.__name__}`; exit code" in section
    if hasattr(error, "exit_code"):
        code = "128" if error is errors.Interrupted else error.exit_code
        assert f"exit code {code}" in section


def test_no_heading_is_of_an_error_that_is_gone():
    page = (HOME / "docs" / "errors.md").read_text("utf-8")
    named = set(re.findall(r"^## (\w+)$", page, re.MULTILINE))
    assert named == {error.__name__ for error in ERRORS} | {"ImportError"}


def test_commands_and_options_on_all_pages_exist(cli):
    """Of lines that begin with `reseed`; what they do is run elsewhere."""
    shown = {}
    for page in [HOME / "README.md", HOME / "AGENTS.md", *DOCS]:
        for block in re.findall(r"^```(?:sh)?\n(.*?)^```", page.read_text("utf-8"), re.M | re.S):
            for line in re.findall(r"^(?:PYTHONPATH=\S+ )?reseed (.*)$", block, re.MULTILINE):
                words = line.partition("  #")[0]
                shown.setdefault(words.split()[0], []).append((page.name, words))
    for command, lines in shown.items():
        if command.startswith("-"):
            continue
        done = cli(command, "--help")
        assert done.returncode == 0, f"{lines}: there is no such command"
        known = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", done.stdout))
        for page, words in lines:
            unknown = set(re.findall(r"(?<=\s)--?[a-z][\w-]*", words)) - known
            assert not unknown, f"{page}: reseed {words}"
