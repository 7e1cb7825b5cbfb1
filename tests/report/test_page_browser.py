"""The page in a real Chromium without network: figures drawn, nothing fails, nothing spills."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from reseed.report import html

pytestmark = pytest.mark.browser

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DRAWN = """() => [...document.querySelectorAll('[data-plot]')]
    .filter((plot) => !plot.closest('[hidden]') && !plot.classList.contains('nothing'))
    .map((plot) => [plot.dataset.plot,
        plot.querySelectorAll('.trace path, .points path, .traces path, canvas').length])"""


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"there is no {CHROMIUM}")
    assert shutil.which(CHROMIUM)
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield opened
        opened.close()


@contextmanager
def opened(browser, path: Path, *, width: int = 1280, scheme: str = "light") -> Iterator[object]:
    """A page with its network cut; fails the test if anything was asked for or went wrong."""
    context = browser.new_context(
        viewport={"width": width, "height": 850}, color_scheme=scheme, offline=True
    )
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: (said.append("dialog"), dialog.dismiss()))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    ready(page)
    yield page
    assert page.evaluate("window.__errors") == []
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    context.close()


def ready(page) -> None:
    page.wait_for_selector("body[data-ready=true]", timeout=60_000)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_everything_is_drawn_and_nothing_spills(browser, make_page, width, scheme):
    path = make_page(
        groups=4, crossed=True, factors=True, notes=["A note."], failed={"run-x" * 12: "loss nan"}
    )
    with opened(browser, path, width=width, scheme=scheme) as page:
        drawn = page.evaluate(DRAWN)
        assert {name for name, _ in drawn} == {
            "forest", "cosines", "shares", "n-of-m", "frequency", "training", "trend", "strata",
            "recurrence", "posterior", "components",
            "factors", "factor-spread",
        }  # fmt: skip
        assert all(count > 0 for _, count in drawn), drawn
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, ground[4:-1].split(","))) < 200) == (scheme == "dark")


@pytest.mark.parametrize(
    "options",
    [
        {"runs": 1},
        {"runs": 2, "null": False, "texts": False},
        {"groups": 0, "failed": {"r": "x"}},
        {"live": 0},
        {"groups": 8, "runs": 8},
    ],
    ids=["one run", "two runs", "nothing done", "all dead", "many"],
)
def test_poor_and_rich_studies_look_right_on_a_phone(browser, make_page, options):
    with opened(browser, make_page(**options), width=390) as page:
        assert all(count > 0 for _, count in page.evaluate(DRAWN))
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_packed_page_unpacks_itself(browser, make_page, monkeypatch):
    hostile = "</script><img src=x onerror=alert(1)>"
    monkeypatch.setattr(html, "PACKED_FROM", 0)
    with opened(browser, make_page(name=hostile, notes=[hostile])) as page:
        assert page.locator("img").count() == 0
        assert all(count > 0 for _, count in page.evaluate(DRAWN))
        assert hostile in page.inner_text("mark >> nth=0")


def test_a_browser_that_cannot_unpack_says_so(browser, make_page, monkeypatch):
    monkeypatch.setattr(html, "PACKED_FROM", 0)
    page = browser.new_page(offline=True)
    page.add_init_script("delete globalThis.DecompressionStream")
    page.goto(make_page().as_uri())
    page.get_by_text("this browser cannot unpack them").wait_for()
    page.close()


def test_groups_measures_and_legend_can_be_chosen(browser, make_page):
    with opened(browser, make_page(groups=2)) as page:
        page.click("nav button[data-choose='1']")
        ready(page)
        assert page.is_hidden("[data-group='0']")
        assert all(count > 0 for _, count in page.evaluate(DRAWN))
        shares = "[data-group='1'] figure:has([data-plot=shares])"
        page.select_option(f"{shares} [data-option=measure]", "decoder_only")
        page.select_option(f"{shares} [data-option=stratum]", "dense")
        page.click(f"{shares} .legend button >> nth=0")
        assert page.get_attribute(f"{shares} .legend button >> nth=0", "aria-pressed") == "false"
        page.emulate_media(color_scheme="dark")
        ready(page)
        page.evaluate("document.fonts.ready")


def test_hostile_text_is_only_text(browser, make_page):
    hostile = "</script><img src=x onerror=alert(1)>"
    with opened(browser, make_page(name=hostile, notes=[hostile])) as page:
        assert page.locator("img").count() == 0
        assert page.inner_text("h1") == hostile
        assert hostile in page.inner_text("mark >> nth=0")


def test_latents_are_found_sorted_and_opened(browser, make_page):
    with opened(browser, make_page(groups=2)) as page:
        table = "[data-group='0'] .latents"
        rows = f"{table} tbody tr:not(.detail)"
        assert page.locator(rows).count() == 24
        page.fill(f"{table} [data-list=search]", "7")
        assert page.locator(rows).count() == 3
        page.fill(f"{table} [data-list=search]", "ONERROR")
        assert page.locator(rows).count() == 24
        page.fill(f"{table} [data-list=search]", "")
        page.select_option(f"{table} [data-list=found]", "2")
        assert page.locator(rows).count() == 6
        page.click(f"{table} [data-sort=firing_rate]")
        assert page.inner_text(f"{rows} >> nth=0").startswith("7")
        page.click(f"{rows} >> nth=0 >> button")
        assert page.locator(f"{table} .detail .side").count() == 3
        page.click(f"{table} .detail .side >> nth=1 >> button")
        assert page.evaluate("location.hash").startswith("#latent-0-")
        assert page.locator("img").count() == 0
        # a card's number, and a group that is not shown
        page.click("[data-group='0'] .card [data-latent] >> nth=1")
        assert page.locator(f"{table} tr.open").count() == 1
        page.evaluate("openLatent(1, 2, 3)")
        assert page.is_visible("[data-group='1'] tr.open")
