"""The page as text: what is in it, that nothing escapes from it and nothing is loaded into it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest
from plotly.offline import get_plotlyjs

import reseed.report
import reseed.survival
from reseed.errors import StoreError
from reseed.report import html
from reseed.report.facts import select_least, select_most
from reseed.report.figures import POINTS, STEPS, short, stride
from reseed.report.html import Html, fill, percent, prose, tag
from reseed.report.study import write_report
from reseed.store import Store

HOME = Path(reseed.report.__file__).parent
HOSTILE = "</script><img src=x onerror=alert(1)>"
VARIANTS = {
    "three runs": {},
    "one run": {"runs": 1},
    "two runs, no chance, no text": {"runs": 2, "null": False, "texts": False},
    "several groups": {"groups": 3},
    "more groups than buttons": {"groups": 8},
    "nothing done": {"groups": 0, "failed": {"r": "loss nan"}},
    "all dead": {"live": 0},
    "groups compared": {"groups": 4, "factors": True},
}


class Page(HTMLParser):
    """Elements with their attributes, and what is inside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        self._inside = name

    def handle_endtag(self, name):
        self._inside = ""

    def handle_data(self, data):
        if self._inside in self.raw:
            self.raw[self._inside].append(data)
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def read(path) -> Page:
    return Page(path.read_text("utf-8"))


@pytest.mark.parametrize("options", VARIANTS.values(), ids=list(VARIANTS))
def test_every_state_of_a_study_gives_a_page(make_page, options):
    page = read(make_page(**options))
    names = [name for name, _ in page.elements]
    assert names.count("main") == 1
    assert names.count("script") == 3
    assert "nan" not in page.text.replace("loss nan", "").lower().split()
    assert "None" not in page.text


def test_equal_stores_give_equal_pages(make_store):
    store = make_store()
    write_report(store, "a.html")
    write_report(store, "b.html")
    assert store.path("a.html").read_bytes() == store.path("b.html").read_bytes()


def test_a_study_without_summary_is_explained(tmp_path):
    with pytest.raises(StoreError, match="reseed run"):
        write_report(Store(tmp_path), "report.html")


def test_headline_stands_beside_interval_chance_untrained_and_certificates(make_page):
    text = read(make_page()).text
    assert "another init seed, 50.0% of the latents come back nearly unchanged; 60.0% res" in text
    assert "shared at tau 0.7: 50.0% (95% interval 40.0–60.0%) 1.0% , untrained 0.0%" in text
    assert "1.0% (0.0–3.0%)" in text
    assert "6 of 6" in text
    assert "Why equal is 100% for an untrained pair" in text


def test_rows_are_tokens_only_where_there_is_a_text(make_store):
    store = make_store()
    said = {}
    for kind in ("toy", "language_model"):
        summary = store.read_json("summary.json")
        store.write("summary.json", summary | {"subject": {"kind": kind}})
        write_report(store, "report.html")
        said[kind] = read(store.path("report.html")).text
    for kind, rows in (("toy", "rows"), ("language_model", "tokens")):
        assert f"% of {rows}" in said[kind]
        assert f"held-out {rows} a live latent" in said[kind]
    assert "% of tokens" not in said["toy"]


def test_notes_and_failed_runs_come_before_the_numbers(make_page):
    text = read(make_page(notes=["Too short."], failed={"run-x": "loss nan"})).text
    assert text.index("Too short.") < text.index("Headline")
    assert text.count("Left out because it failed: run-x , step 7: loss nan.") == 1


def test_without_interval_and_chance_the_page_says_so(make_page):
    text = read(make_page(runs=2, null=False)).text
    assert "(too few runs for an interval)" in text
    assert "Chance was not measured" in text


def test_the_page_says_what_needs_no_tau_and_what_seeds_share(make_page):
    text = read(make_page(crossed=True)).text
    assert "that is anything like it? match at FDR 5%: 60.0% (95% interval 50.0–70.0%)" in text
    assert "Where disagreement comes from" in text
    assert "share the init seed" in text
    assert "Where disagreement comes from" not in read(make_page()).text
    assert "95% interval of the offset" not in text
    many = read(make_page(runs=5)).text
    assert "Do not rely on it. Single matches are unreliable." in many


def test_hostile_text_stays_text(make_page):
    path = make_page(name=HOSTILE, notes=[HOSTILE], failed={"r": HOSTILE})
    page = read(path)
    assert HOSTILE in page.text
    assert {name for name, _ in page.elements}.isdisjoint({"img", "iframe", "link", "object", "b0"})
    assert not [k for _, found in page.elements for k in found if k.startswith("on")]
    assert "<img" not in path.read_text("utf-8").replace(get_plotlyjs(), "")


def test_control_signs_are_shown_not_obeyed(make_page):
    text = read(make_page()).text
    assert "⏎" in text
    assert "␀" in text
    assert "\x00" not in text


def test_figure_data_cannot_end_its_script(make_page):
    data = read(make_page()).raw["script"][0]
    assert not set(data) & set("<>&\u2028\u2029")
    assert json.loads(data)["groups"][0]["label"] == "toy <b>0</b> · topk 8 latents, k 2"


def test_nothing_is_loaded_from_outside(make_page):
    path = make_page(groups=2)
    page = read(path)
    for name, found in page.elements:
        assert not {"src", "srcset", "action", "data"} & set(found), (name, found)
        assert (found.get("href") or "#").startswith("#")
    own = path.read_text("utf-8").replace(get_plotlyjs(), "")
    assert not re.search(r"https?://|@import|url\(|fetch\(|XMLHttpRequest|WebSocket", own)


def test_a_large_page_has_the_same_deflated(make_page, monkeypatch):
    plain = read(make_page()).raw["script"]
    monkeypatch.setattr(html, "PACKED_FROM", 0)
    path = make_page()
    packed = read(path).raw["script"]
    for text, bits in zip(plain[:2], packed[:2], strict=True):
        assert zlib.decompress(base64.b64decode(bits)).decode() == text
    assert packed[2] == plain[2]
    # the policy allows what is unpacked
    digest = hashlib.sha256(plain[1].encode()).digest()
    assert base64.b64encode(digest).decode() in path.read_text("utf-8")
    assert path.stat().st_size < 2_500_000


def test_the_policy_names_the_hashes_of_both_scripts(make_page):
    page = read(make_page())
    policy = next(f["content"] for _, f in page.elements if "http-equiv" in f)
    for script in page.raw["script"][1:]:
        wanted = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{wanted}'" in (policy or "")
    assert "default-src 'none'" in (policy or "")


def test_cards_follow_their_rule():
    table = pl.DataFrame(
        {
            "run": ["a", "b", "a", "a", "b", "b"],
            "latent": [0, 0, 1, 2, 1, 2],
            "alive": [True, True, True, True, True, False],
            "n_matched": [2, 2, 2, 0, 0, 0],
            "max_decoder_cos": [0.8, 0.9, 0.95, 0.3, 0.2, 0.1],
            "family": [7, 7, None, None, None, None],
        }
    )
    assert select_most(table).select("run", "latent").rows() == [("a", 1), ("b", 0)]
    none = table.with_columns(n_matched=0)
    assert select_most(none).select("run", "latent").rows()[0] == ("a", 1)  # the nearest miss
    assert select_least(table).select("run", "latent").rows() == [("b", 1), ("a", 2)]


def test_thinning_never_exceeds_its_limit_and_keeps_small_things_whole(make_page):
    for most in (POINTS, STEPS):
        for rows in (0, 1, most - 1, most, most + 1, 10 * most + 3):
            assert -(-rows // stride(rows, most)) <= most
            assert stride(rows, most) == 1 or rows > most
    page = read(make_page())
    curve = json.loads(page.raw["script"][0])["groups"][0]["training"][0]
    assert curve["tokens"][0] == 3
    assert curve["tokens"][-1] == 3000
    assert "One step in 3 is drawn." in page.text


def test_numbers_are_short_and_never_lie_about_the_ends():
    assert short([0.123456, 12345, float("nan"), None, 2.0]) == [0.1235, 12345, None, None, 2]
    assert percent(0.0001) == "<0.1%"
    assert percent(0.99999) == ">99.9%"
    assert percent(1.0) == "100.0%"


def test_plain_text_is_escaped_in_tags_and_attributes():
    shown = tag("p", '<a "b">', title='"<x>')
    assert shown == '<p title="&quot;&lt;x&gt;">&lt;a &quot;b&quot;&gt;</p>'
    assert tag("p", Html("<b>")) == "<p><b></p>"


def test_the_room_needs_nothing_heavy():
    code = (
        "import sys, reseed.report.study, reseed.report.comparison, reseed.report.calibration\n"
        "print({m.split('.')[0] for m in sys.modules} & {'torch', 'transformers', 'scipy'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_note_of_several_groups_is_said_once(make_page):
    text = read(make_page(groups=3, notes=["too few tokens."])).text
    assert text.count("too few tokens.") == 1
    assert "All 3 SAEs: too few tokens." in text


def test_what_no_factor_changes_has_no_figure(make_store):
    store = make_store(groups=2, factors=True)
    summary = store.read_json("summary.json")
    for numbers in summary["factors"]["measures"].values():
        for effect in numbers["effects"].values():
            effect["levels"] = effect["levels"][:1]
    store.write("summary.json", summary)
    write_report(store, "report.html")
    page = read(store.path("report.html"))
    assert "How the SAEs differ" in page.text
    assert "Change with each doubling" not in page.text
    assert "factors" not in {found.get("data-plot") for _, found in page.elements}


def test_equal_ends_of_a_range_are_one_number(make_page):
    text = read(make_page(groups=3)).text
    assert "50.0% of the latents come back nearly unchanged" in text
    assert "shared at tau 0.7: 50.0% in each of 3 SAEs" in text


def test_many_notes_are_folded(make_page):
    text = read(make_page(notes=[f"note {n}." for n in range(11)])).text
    assert text.index("Note 7.") < text.index("3 more") < text.index("Note 8.")
    assert "Both SAEs: note 1." in read(make_page(groups=2, notes=["note 1."])).text


def test_every_sentence_of_the_prose_has_a_place():
    rooms = HOME, Path(reseed.survival.__file__).parent
    source = "".join(path.read_text("utf-8") for room in rooms for path in room.rglob("*.py"))
    whole = ("no-most", "no-least", "pair-cosines", "pair-shares")  # put together from two words
    whole += tuple(f"{a}-{b}" for a in ("question", "quote") for b in ("shared", "fdr", "mean"))
    whole += ("pairs-question-shared", "pairs-question-fdr")
    whole += ("survival-auroc-question", "survival-auroc_of_r-question")
    whole += tuple(
        f"next-{step}" for step in ("explore", "export", "explain", "predict", "consensus")
    )
    source += " ".join(f'"{key}"' for key in whole)
    keys = [key for kind in ("figures", "sentences") for key in prose()[kind]]
    assert [key for key in keys if f'"{key}"' not in source] == []


def test_blanks_are_filled_and_escaped():
    shown = fill("<a> {one}\n {two}{none}.", one="<b>", two=tag("b", "c"), none=None)
    assert shown == "&lt;a&gt; &lt;b&gt; <b>c</b>."
