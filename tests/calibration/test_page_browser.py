"""The page of a calibration in a real Chromium without network."""

from pathlib import Path

import pytest

from reseed.report.calibration import write_calibration
from reseed.store import json_bytes

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking"]  # fmt: skip


@pytest.fixture(scope="module")
def page(known):
    """The page of the runs written by hand, under a hostile name."""
    about = {
        "study": "</script><img src=x onerror=alert(1)>",
        "subject": {"features": 60, "dimensions": 48, "active": 4.0},
        "training_tokens": 1000,
        "failed": ["run9"],
        "groups": [{"name": "planted", **known["summary"]}] * 2,
    }
    store = known["store"]
    store.path("calibration.json").write_bytes(json_bytes(about))
    write_calibration(store, "calibration.json", "calibration.html")
    return store.path("calibration.html")


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_everything_is_drawn_and_nothing_is_asked_for(page, width, scheme):
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"there is no {CHROMIUM}")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        context = browser.new_context(
            viewport={"width": width, "height": 850}, color_scheme=scheme, offline=True
        )
        opened, said, asked = context.new_page(), [], []
        opened.on("console", lambda message: said.append(message.text))
        opened.on("pageerror", lambda error: said.append(str(error)))
        opened.on("request", lambda request: asked.append(request.url))
        opened.goto(page.as_uri())
        opened.wait_for_selector("body[data-ready=true]", timeout=60_000)
        for number in ("1", "0"):
            opened.click(f"nav button[data-choose='{number}']")
            opened.wait_for_selector("body[data-ready=true]", timeout=60_000)
        rules = "[data-group='0'] figure:has([data-plot=roc]) [data-option=label]"
        opened.select_option(rules, "feature or subspace")
        drawn = opened.evaluate(
            "() => [...document.querySelectorAll(\"[data-group='0'] [data-plot]\")].map((plot) => "
            "[plot.dataset.plot, plot.querySelectorAll('.trace path, .points path').length])"
        )
        assert {name for name, _ in drawn} == {"roc", "rule", "recall", "reliability", "subspaces"}
        assert all(count > 0 for _, count in drawn), drawn
        assert opened.evaluate("document.documentElement.scrollWidth") <= width
        assert opened.evaluate("window.__errors") == []
        assert said == []
        assert opened.locator("img").count() == 0
        assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
        browser.close()


def test_equal_stores_give_equal_pages(page, known):
    before = page.read_bytes()
    write_calibration(known["store"], "calibration.json", "calibration.html")
    assert page.read_bytes() == before
