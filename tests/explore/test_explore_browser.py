"""The explorer in a real Chromium: everything but its own server is blocked and counted."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest

from reseed.explore.server import app_of
from reseed.explore.tables.of_study import StudyFolder
from reseed.runs import map_name

pytestmark = pytest.mark.browser

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
DRAWN = ".points path >> nth=100"
HOSTILE = "</script><img src=x onerror=alert(1)><b>'\"&"


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"there is no {CHROMIUM}")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def hostile(write_made_up, tmp_path_factory):
    """A study whose tokens, explanations, verdicts and name would be HTML."""
    folder = tmp_path_factory.mktemp("hostile")
    study = write_made_up(folder / "<img src=x>.toml", latents=120, word=HOSTILE)
    table = study.latents.select("run", "latent", x=pl.col("enc_dec_cos"), y=pl.col("max_act"))
    files = {"map.parquet": table, "about.json": {}}
    study.store.make(map_name(study.groups()[0].name), None, lambda: files)
    return study


@contextmanager
def serving(studies):
    import uvicorn

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(
            uvicorn.Config(app_of([StudyFolder(study) for study in studies]), log_level="warning")
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def address(hostile, made_up):
    with serving([hostile, made_up]) as address:
        yield address


@contextmanager
def opened(browser, address, path, *, width=1280, scheme="light"):
    """A page; fails the test if it asked another server for anything, or if anything went wrong."""
    context = browser.new_context(viewport={"width": width, "height": 850}, color_scheme=scheme)
    page = context.new_page()
    said, blocked = [], []

    def route(one):
        own = one.request.url.startswith((address + "/", "data:", "blob:"))
        if own:
            one.continue_()
        else:
            blocked.append(one.request.url)
            one.abort()

    context.route("**/*", route)
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: (said.append("dialog"), dialog.dismiss()))
    page.goto(address + path)
    ready(page)
    yield page
    assert page.evaluate("window.__errors") == []
    assert said == []
    assert blocked == []
    context.close()


def ready(page):
    page.wait_for_selector("body[data-ready=true]", timeout=60_000)


NAME = "/%3Cimg%20src%3Dx%3E"
VIEWS = ["latents", "feature/8/{run}", "pair", "map?colour=verdict", "try", "latents?n_matched=9"]


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (390, "dark")])
def test_nothing_spills_and_hostile_text_is_text(browser, address, hostile, width, scheme):
    run = hostile.groups()[0].runs[0]
    with opened(browser, address, NAME + "/latents", width=width, scheme=scheme) as page:
        for view in VIEWS:
            page.goto(f"{address}{NAME}/{view.format(run=run)}")
            ready(page)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, view
            assert page.locator("main img, nav img, main b b").count() == 0
            assert page.inner_text("nav strong") == "<img src=x>"
            ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, ground[4:-1].split(","))) < 200) == (scheme == "dark")


def test_hostile_text_is_shown_as_it_is(browser, address, hostile):
    run = hostile.groups()[0].runs[0]
    with opened(browser, address, f"{NAME}/feature/8/{run}") as page:
        assert HOSTILE in page.inner_text("main .said >> nth=0")
        assert any(HOSTILE in text for text in page.locator("mark").all_inner_texts())
        page.fill("textarea", HOSTILE)
        page.click("[data-star]")
        page.wait_for_selector("[role=status]:has-text('kept')")
        page.goto(f"{address}{NAME}/latents?marked=star")
        ready(page)
        assert page.locator("tbody [data-row]").count() == 1
        assert page.get_attribute("tbody .star >> nth=1", "title") == HOSTILE
    (hostile.folder.parent / f"{hostile.folder.name}.notes.json").unlink()


def test_strengths_and_logits_come_after_the_page(browser, address, hostile):
    run = hostile.groups()[0].runs[0]
    with opened(browser, address, f"{NAME}/feature/8/{run}") as page:
        assert page.locator("svg.strengths").count() == 3
        assert page.locator("svg.strengths >> nth=0 >> rect").count() == 3
        assert HOSTILE in page.inner_text(".logits li >> nth=0")
        assert page.locator(".logits ol").count() == 6
        page.goto(f"{address}{NAME}/feature/15/{run}")
        ready(page)
        assert page.locator("text=It did not fire on what was held out.").count() == 3


def test_a_map_that_is_kept_is_chosen(browser, address):
    with opened(browser, address, NAME + "/map") as page:
        with page.expect_navigation():
            page.select_option("[name=axes]", "umap")
        ready(page)
        assert "axes=umap" in page.url
        assert "laid out by UMAP" in page.inner_text("figcaption")
        page.wait_for_selector(DRAWN, state="attached", timeout=60_000)
        with page.expect_navigation():
            page.select_option("[name=colour]", "verdict")
        ready(page)
        assert "axes=umap" in page.url
        page.wait_for_selector(DRAWN, state="attached", timeout=60_000)


def test_a_histogram_is_brushed_and_taken_back(browser, address, hostile):
    with opened(browser, address, NAME + "/latents") as page:
        box = page.locator(".histogram svg >> nth=2").bounding_box()
        page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 20)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"], box["y"] + 20, steps=4)
        with page.expect_navigation():
            page.mouse.up()
        ready(page)
        assert "max_decoder_cos=" in page.url
        low = float(page.url.split("max_decoder_cos=")[1].split("..")[0])
        expected = hostile.latents.filter(pl.col("max_decoder_cos") >= low).height
        assert f"{expected} latents" in page.inner_text(".top .caption")
        assert page.locator("rect.out").count() > 0
        page.click(".chips a >> nth=0")
        ready(page)
        assert "max_decoder_cos" not in page.url


def test_columns_are_chosen_filtered_and_kept_in_the_address(browser, address):
    with opened(browser, address, NAME + "/latents?sort=firing_rate") as page:
        page.click("summary")
        page.check("[data-column=max_act]")
        page.fill("input[name=max_act]", "2..")
        page.click("[data-columns] button")
        ready(page)
        assert "sort=firing_rate" in page.url
        assert "max_act=2.." in page.url
        assert page.locator("th.c-max_act").count() == 1
        assert all(float(v) >= 2 for v in page.locator("td.c-max_act").all_inner_texts())


def test_the_keyboard_leads_through_it(browser, address):
    with opened(browser, address, NAME + "/latents") as page:
        page.keyboard.press("?")
        assert page.is_visible("#keys")
        page.keyboard.press("/")
        page.keyboard.type("number 6")
        page.keyboard.press("Enter")
        ready(page)
        assert "q=number+6" in page.url
        page.keyboard.press("j")
        page.keyboard.press("j")
        chosen = page.inner_text("tr.at th a")
        with page.expect_navigation():
            page.keyboard.press("Enter")
        ready(page)
        assert page.inner_text("h1").startswith(f"Latent {chosen}")
        page.keyboard.press("p")
        page.wait_for_url("**at=0")
        ready(page)
        page.keyboard.press("s")
        page.wait_for_selector("[data-star][aria-pressed=true]")
        page.wait_for_selector("[role=status]:has-text('kept')")
        page.keyboard.press("s")
        page.wait_for_selector("[data-star][aria-pressed=false]")
        page.keyboard.press("u")
        page.wait_for_url("**/latents?q=number+6")
        ready(page)


def test_a_point_of_a_figure_opens_its_latent(browser, address):
    for view in ("pair", "map"):
        with opened(browser, address, f"{NAME}/{view}") as page:
            assert page.locator(".points path").count() > 100
            page.locator(".points path").last.dispatch_event("mousemove")
            box = page.locator(".points path").last.bounding_box()
            page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
            with page.expect_navigation():
                page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
            ready(page)
            assert page.inner_text("h1").startswith("Latent")


def test_a_real_study_is_walked_through_and_its_report_leads_back(browser, finished):
    from reseed.study import Study

    with serving([Study.load(finished)]) as address, opened(browser, address, "/") as page:
        assert page.locator("tbody [data-row]").count() == 48
        page.click("tbody th a >> nth=0")
        ready(page)
        number = page.inner_text("h1").split()[1]
        assert page.locator(".side").count() >= 2
        page.click("text=in the report")
        ready(page)
        assert page.inner_text("tr.open th").startswith(number)
        page.click("tr.detail >> text=in the explorer")
        ready(page)
        assert page.inner_text("h1").split()[1] == number
        page.click("nav >> text=Two runs")
        ready(page)
        page.click("nav >> text=Map")
        ready(page)
        page.click("nav >> text=Try a text")
        ready(page)
        assert "reads no text" in page.inner_text("main")


def test_a_text_of_ones_own_is_tried(browser, language_study):
    with serving([language_study]) as address, opened(browser, address, "/language/try") as page:
        page.fill("textarea", "the cat sat on a mat")
        page.click("text=Which latents fire?")
        ready(page)
        assert page.locator("tbody [data-row]").count() > 0
        assert page.locator("td.text mark").count() > 0
        number = page.inner_text("tbody th a >> nth=0")
        page.click("tbody th a >> nth=0")
        ready(page)
        assert page.inner_text("h1").startswith(f"Latent {number}")


@pytest.mark.slow
def test_more_than_a_million_latents_are_walked_through(browser, write_made_up, tmp_path):
    size = {"latents": 131_072, "runs": 9, "dimensions": 16, "contexts": 1, "all_pairs": False}
    study = write_made_up(tmp_path / "large.toml", **size)
    with serving([study]) as address, opened(browser, address, "/large/latents") as page:
        assert "1,179,648 latents of 9 runs" in page.inner_text(".top .caption")
        page.click("th.c-max_decoder_cos a")
        ready(page)
        page.click("text=last")
        ready(page)
        assert "page 23,593 of 23,593" in page.inner_text(".pages")
        page.click("tbody th a >> nth=0")
        ready(page)
        assert page.locator(".side").count() >= 9
        page.click("nav >> text=Two runs")
        ready(page)
        assert page.locator(".points path").count() > 1000
        page.click("nav >> text=Map")
        ready(page)
        assert page.locator(".points path").count() > 1000
        page.click("nav >> text=Try a text")
        ready(page)
