"""What the app answers: headers, hosts, paths, notes, and studies that are not finished."""

import json
import socket

import pytest

from reseed.errors import SpecError
from reseed.explore.app import POLICY
from reseed.explore.server import app_of, explore, is_local
from reseed.explore.tables.of_study import StudyFolder
from reseed.study import Study

PAGES = [
    "latents",
    "map",
    "pair",
    "try",
    "latents?q=river&sort=-max_act",
    "feature/8/{run}",
    "nearest/8/{run}",
]


@pytest.mark.parametrize("page", PAGES)
def test_every_page_is_there_with_its_policy(client, made_up, page):
    answer = client.get("/made-up/" + page.format(run=made_up.groups()[0].runs[0]))
    assert answer.status_code == 200
    assert answer.headers["content-security-policy"] == POLICY
    assert "script-src 'self'" in POLICY
    assert answer.headers["x-frame-options"] == "DENY"
    assert "<script>" not in answer.text  # a policy of 'self' runs none


@pytest.mark.parametrize("data", ["histograms", "texts"])
def test_data_are_json(client, data):
    answer = client.get(f"/made-up/{data}?q=river")
    assert answer.status_code == 200
    assert answer.json()[data]
    wrong = client.get(f"/made-up/{data}?nonsense=1")
    assert (wrong.status_code, "no column" in wrong.json()["error"]) == (400, True)


def test_one_study_is_shown_at_once(client):
    answer = client.get("/", follow_redirects=False)
    assert answer.headers["location"] == "/made-up/latents"
    assert client.get("/made-up").url.path == client.get("/made-up/").url.path == "/made-up/latents"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "10.0.0.1:8765"])
def test_other_hosts_are_refused(client, host):
    answer = client.get("/made-up/latents", headers={"host": host})
    assert answer.status_code == 400
    assert client.get("/made-up/latents", headers={"host": "localhost:1"}).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/made-up/../../etc/passwd", "/made-up/%2e%2e/%2e%2e/etc/passwd", "/other/latents",
        "/static/../app.py", "/static/%2e%2e%2fapp.py", "/static/base.html", "/made-up/report/../x",
        "/made-up/notes.xml", "/made-up/report", "/..%2f..%2fetc/latents", "/nothing",
        "/made-up/feature/8/..%2f..%2fetc", "/made-up/feature/x/y",
    ],
)  # fmt: skip
def test_paths_stay_inside(client, path):
    answer = client.get(path)
    assert answer.status_code in (400, 404)
    assert "root:" not in answer.text
    assert "content-security-policy" in answer.headers


def test_only_own_pages_write_notes(client, made_up, shelf):
    note = {"run": made_up.groups()[0].runs[0], "latent": 3, "star": True, "note": "<b>"}
    sent = {"content-type": "application/json"}
    assert client.post("/made-up/note", json=note).status_code == 200
    assert shelf.notes.of(note["run"], 3).star
    foreign = client.post("/made-up/note", json=note, headers={"sec-fetch-site": "cross-site"})
    assert foreign.status_code == 403
    assert client.post("/made-up/note", data=note).status_code == 415
    assert client.post("/made-up/note", content=b"[" * 99, headers=sent).status_code == 400
    assert client.post("/made-up/note", content=b"x" * 200_000, headers=sent).status_code == 413
    assert client.post("/made-up/note", json=note | {"more": 1}).status_code == 400
    assert client.post("/other/note", json=note).status_code == 404
    assert client.get("/made-up/note").status_code in (404, 405)
    assert "&lt;b&gt;" in client.get("/made-up/latents?marked=star").text
    assert json.loads(client.get("/made-up/notes.json").content)[0] == note
    assert client.get("/made-up/notes.csv").headers["content-disposition"].startswith("attachment")


def test_a_fault_is_a_page(client, monkeypatch, shelf):
    def broken(*_):
        raise RuntimeError("<i>broken")

    monkeypatch.setattr(type(shelf.database), "missing", broken)
    client.raise_server_exceptions = False
    from starlette.testclient import TestClient

    quiet = TestClient(client.app, base_url="http://127.0.0.1", raise_server_exceptions=False)
    answer = quiet.get("/made-up/latents")
    assert answer.status_code == 500
    assert "RuntimeError: &lt;i&gt;broken. This is a fault of reseed" in answer.text


def _asks(studies):
    from starlette.testclient import TestClient

    return TestClient(
        app_of([StudyFolder(study) for study in studies]), base_url="http://127.0.0.1"
    )


def test_a_study_that_is_being_computed_shows_what_is_there(write_made_up, tmp_path):
    study = write_made_up(tmp_path / "half.toml", stability=False)
    asks = _asks([study])
    page = asks.get("/half/latents?sort=-firing_rate").text
    assert "Not matched yet" in page
    assert "64" in page
    run = study.groups()[0].runs[0]
    assert "river" in asks.get(f"/half/feature/8/{run}").text
    assert "not matched yet" in asks.get("/half/pair").text
    assert asks.get("/half/map").status_code == 200
    assert asks.get("/half/histograms").json()["histograms"][0]["name"] == "firing_rate"
    assert asks.get("/half/latents?n_matched=1").status_code == 400


def test_what_is_made_meanwhile_is_shown(write_made_up, tmp_path, monkeypatch):
    from reseed.explore.tables import database

    monkeypatch.setattr(database, "_AGAIN", 0.0)
    study = write_made_up(tmp_path / "half.toml", stability=False)
    asks = _asks([study])
    assert "Not matched yet" in asks.get("/half/latents").text
    write_made_up(tmp_path / "half.toml")
    page = asks.get("/half/latents").text
    assert "Not matched yet" not in page
    assert "2 of 2" in page


def test_a_study_without_any_run_says_what_makes_them(write_study):
    study = Study.load(write_study("fresh"))
    asks = _asks([study])
    for page in ("latents", "map", "pair", "try", "latents?q=x"):
        answer = asks.get(f"/fresh/{page}")
        assert answer.status_code == 200, answer.text
        assert "reseed run" in answer.text
    assert asks.get("/fresh/histograms").json() == {"histograms": []}


def test_a_damaged_table_is_a_sentence(write_made_up, tmp_path):
    study = write_made_up(tmp_path / "bad.toml")
    name = study.groups()[0].name
    (study.store.path(f"stability/{name}") / "latents.parquet").write_bytes(b"nothing")
    answer = _asks([study]).get("/bad/latents")
    assert answer.status_code == 503
    assert "is damaged" in answer.text
    assert "reseed run" in answer.text


def test_several_studies_are_chosen_from_a_list(write_made_up, tmp_path):
    first = write_made_up(tmp_path / "x" / "same.toml", latents=16)
    second = write_made_up(tmp_path / "y" / "same.toml", latents=32)
    asks = _asks([first, second])
    assert "/same-2/latents" in asks.get("/").text
    assert "48 latents" in asks.get("/same/latents").text
    assert "96 latents" in asks.get("/same-2/latents").text


def test_a_port_that_is_taken_is_a_sentence(made_up):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SpecError, match=f"port {port}.*--port 0"):
            explore([StudyFolder(made_up)], port=port)
    with pytest.raises(SpecError, match="cannot listen"):
        explore([StudyFolder(made_up)], host="203.0.113.7", port=0)


def test_what_is_local_is_known():
    assert is_local("127.0.0.1")
    assert is_local("::1")
    assert is_local("localhost")
    assert not is_local("0.0.0.0")
    assert not is_local("example.org")
