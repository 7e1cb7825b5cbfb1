"""A feature, two runs, the map and the text of one's own, beside the same from the store."""

import shutil

import numpy as np
import polars as pl
import pytest

from reseed.errors import SpecError, StoreError
from reseed.events import Events
from reseed.explore.pages import two_runs
from reseed.explore.pages.display import display_view
from reseed.explore.pages.features import feature_of, neighbours
from reseed.explore.pages.principal_axes import map_view
from reseed.explore.pages.table_view import feature_view
from reseed.explore.pages.try_text import try_view
from reseed.explore.pages.two_runs import pair_view
from reseed.explore.weights import Matrix, nearest_of, plane_of
from reseed.formats import own
from reseed.runs import run_name


@pytest.fixture
def runs(made_up):
    return made_up.groups()[0].runs


@pytest.fixture
def decoders(made_up, runs):
    rows = {run: own.read_piece(made_up.store, run_name(run)).W_dec for run in runs}
    return {run: W / np.linalg.norm(W, axis=1, keepdims=True) for run, W in rows.items()}


def test_a_family_stands_side_by_side(shelf, runs, decoders, made_up):
    feature = feature_of(shelf.database, runs[1], 8)
    assert [(s.run, s.latent, s.kin) for s in feature.sides] == [
        (runs[1], 8, True), (runs[0], 8, True), (runs[2], 8, True)
    ]  # fmt: skip
    assert all(side.contexts and side.top == 3.0 for side in feature.sides)
    for pair in feature.between:
        cosine = decoders[pair.a[0]][pair.a[1]] @ decoders[pair.b[0]][pair.b[1]]
        assert pair.decoder == pytest.approx(cosine, abs=1e-5)
    known = made_up.store.table(f"cofiring/{runs[0]}--{runs[1]}", "matched.parquet")
    expected = known.filter(latent_a=8)["act_corr"][0]
    assert feature.between[0].fires == expected
    assert feature.between[0].fires_null == 0.01
    assert feature.chance["decoder"] == pytest.approx(0.48)
    assert feature.sentences[0].startswith(f"Found in {feature.row['n_matched']} of 2 other")
    assert feature.row["explanation"] == "fires on river number 8"


def test_an_orphan_stands_beside_its_nearest(shelf, runs):
    feature = feature_of(shelf.database, runs[0], 7)
    assert [(s.latent, s.kin) for s in feature.sides] == [(7, True), (7, False), (7, False)]
    assert "no family" in feature.sentences[-1]
    with pytest.raises(SpecError, match="no latent 64"):
        feature_of(shelf.database, runs[0], 64)


def test_nearest_latents_are_those_of_a_plain_product(shelf, runs, decoders):
    for found in neighbours(shelf.database, runs[0], 8):
        cosines = decoders[found["run"]] @ decoders[runs[0]][8]
        if found["run"] == runs[0]:
            cosines[8] = -2
        order = np.argsort(-cosines)[: len(found["latents"])]
        assert [latent for latent, _ in found["latents"]] == order.tolist()
        assert np.allclose([cosine for _, cosine in found["latents"]], cosines[order], atol=1e-5)


def test_nearest_latents_are_looked_for_in_blocks(shelf, made_up, runs, monkeypatch):
    from reseed.explore import weights

    once = nearest_of(made_up.store, (runs[0], 40), runs[1], 5)
    monkeypatch.setattr(weights, "_ROWS", 7)
    assert [n for n, _ in nearest_of(made_up.store, (runs[0], 40), runs[1], 5)] == [
        n for n, _ in once
    ]


@pytest.mark.parametrize("dense", [1, 64])
def test_the_map_holds_the_first_two_principal_components(
    made_up, runs, decoders, dense, monkeypatch
):
    from reseed.explore import weights

    monkeypatch.setattr(weights, "_DENSE", dense)
    plane = plane_of(made_up.store, [(run, np.arange(64)) for run in runs])
    rows = np.concatenate([decoders[run] for run in runs])
    centred = rows - rows.mean(axis=0)
    _, values, axes = np.linalg.svd(centred, full_matrices=False)
    plain = centred @ axes[:2].T
    for drawn, exact in zip((plane["x"], plane["y"]), plain.T, strict=True):
        assert abs(np.corrcoef(drawn, exact)[0, 1]) == pytest.approx(1, abs=1e-4)
    assert plane["shares"] == pytest.approx((values[:2] ** 2 / (values**2).sum()).tolist(), 1e-3)


def test_a_damaged_matrix_is_said(made_up, runs, tmp_path):
    from reseed.store import Store

    store = Store(tmp_path)
    folder = store.path(run_name(runs[0]))
    folder.mkdir(parents=True)
    for content in (b"", b"\xff" * 40, b"\x02\0\0\0\0\0\0\0{}"):
        (folder / "sae.safetensors").write_bytes(content)
        with pytest.raises(StoreError, match="cannot be read"):
            Matrix(store, runs[0], "W_dec")


def test_the_map_is_coloured_by_any_column(shelf, made_up):
    for colour in ("verdict", "firing_rate", "score_detection", "run"):
        figure = map_view({"colour": colour}, shelf)["figure"]
        assert len(figure["x"]) == len(figure["value"]) == 3 * 64
    latents = made_up.latents
    figure = map_view({"colour": "verdict"}, shelf)["figure"]
    assert figure["value"] == latents["verdict"].to_list()
    with pytest.raises(SpecError, match="did you mean 'verdict'"):
        map_view({"colour": "verdct"}, shelf)
    with pytest.raises(SpecError, match="no group"):
        map_view({"group": "x"}, shelf)


def test_two_runs_count_what_they_share(shelf, made_up, runs, monkeypatch):
    facts = pair_view({"a": runs[1], "b": runs[0]}, shelf)
    match = made_up.store.table(f"matches/{runs[0]}--{runs[1]}", "00000040.parquet")
    alive = made_up.latents.filter("alive").select("run", "latent").rows()
    for side, letter, run in zip(facts["sides"], "ba", (runs[1], runs[0]), strict=True):
        own = match.filter(pl.col("side") == letter)
        both = pl.min_horizontal("decoder_cos", "encoder_cos") >= 0.7
        shared = set(own.filter(both)["latent"])
        live = {latent for of, latent in alive if of == run}
        assert side["shared"] == len(shared)
        assert (side["live"], side["lacks"]) == (len(live), len(live - shared))
        assert {row["latent"] for row in side["rows"]} <= live - shared
    assert len(facts["figure"]["x"]) == 64
    monkeypatch.setattr(two_runs, "_POINTS", 16)
    few = pair_view({"a": runs[1], "b": runs[0]}, shelf)["figure"]
    assert few["step"] == 4
    assert {latent % 2 for latent in few["latent"]} == {0, 1}  # no period of the numbers
    with pytest.raises(SpecError, match="no finished run 'x'"):
        pair_view({"a": "x"}, shelf)


def test_previous_and_next_follow_the_table(shelf, runs):
    table = made_order = [
        (row["run"], row["latent"]) for row in _rows(shelf, sort="-firing_rate", verdict="unstable")
    ]
    at = 3
    run, latent = made_order[at]
    query = {"sort": "-firing_rate", "verdict": "unstable", "at": str(at)}
    facts = feature_view({**query, "_run": run, "_latent": str(latent)}, shelf)
    assert facts["previous"]["latent"] == table[at - 1][1]
    assert facts["following"]["latent"] == table[at + 1][1]
    assert "verdict=unstable" in facts["back"]
    # a place that is another latent's now: by number
    other = feature_view({**query, "at": "0", "_run": run, "_latent": str(latent)}, shelf)
    assert other["following"] is None or other["following"]["latent"] == latent + 1
    first = feature_view({"_run": run, "_latent": "0"}, shelf)
    assert first["previous"] is None


def _rows(shelf, **query):
    from reseed.explore.tables.listing import TableRows, columns_of, read_listing

    table = TableRows(shelf.database, read_listing(query, columns_of(shelf.database)))
    return table.rows(0, 50, table.count())


def test_runs_are_named_by_what_differs(shelf, runs):
    assert shelf.database.names() == {run: f"init {n}" for n, run in enumerate(runs)}


def test_a_subject_without_text_says_so(shelf):
    assert "reads no text" in try_view({"text": "hello"}, shelf)["why"]


def test_strengths_and_logits_of_a_feature_stand_in_its_order(shelf, runs, made_up, client):
    facts = display_view({"_run": runs[1], "_latent": "8"}, shelf)
    sides = feature_of(shelf.database, runs[1], 8).sides
    assert [(m["run"], m["latent"]) for m in facts["members"]] == [(s.run, s.latent) for s in sides]
    for member in facts["members"]:
        evidence, logits = (
            made_up.store.table(f"{piece}/{member['run']}", file).filter(latent=8)
            for piece, file in (("evidence", "histogram.parquet"), ("logits", "logits.parquet"))
        )
        assert [bar["count"] for bar in member["bars"]] == evidence["counts"][0].to_list()
        assert member["logits"]["top"] == logits["top"][0].to_list()
    assert facts["range"] == (pytest.approx(2**-2 * 1.5), pytest.approx(1.0))
    page = client.get(f"/made-up/display/8/{runs[1]}").text
    assert page.count("<svg") == 3
    assert "through the gain of the final norm" in page
    silent = display_view({"_run": runs[1], "_latent": "15"}, shelf)
    assert silent["members"][0]["bars"] is None


def test_an_older_study_says_what_makes_what_it_lacks(shelf, runs, monkeypatch, client):
    there = shelf.database.folder.has
    absent = ("histogram.parquet", "logits.parquet")
    has = lambda piece, file: file not in absent and there(piece, file)  # noqa: E731
    monkeypatch.setattr(shelf.database.folder, "has", has)
    page = client.get(f"/made-up/display/8/{runs[1]}").text
    assert "`reseed run` makes them" in page
    assert "of kind &#39;toy&#39; and has no vocabulary" in page
    assert client.get(f"/made-up/display/64/{runs[1]}").status_code == 400


@pytest.fixture
def copied(made_up, tmp_path):
    from reseed.study import Study

    shutil.copytree(made_up.folder, tmp_path / "copied")
    shutil.copy(made_up.folder.with_name(made_up.folder.name + ".toml"), tmp_path / "copied.toml")
    return Study.load(tmp_path / "copied.toml")


def test_a_map_that_was_laid_out_is_drawn_from_what_is_kept(copied, monkeypatch):
    from reseed.explore import neighbour_map
    from reseed.explore.shelf import shelves
    from reseed.explore.tables.of_study import StudyFolder

    shelf = next(iter(shelves([StudyFolder(copied)]).values()))
    shelf.database.refresh()
    group = copied.groups()[0]
    with pytest.raises(SpecError, match="`reseed umap STUDY` makes one"):
        map_view({"axes": "umap"}, shelf)
    monkeypatch.setattr(neighbour_map, "_laid_out", lambda rows: rows[:, :2])
    monkeypatch.setattr(neighbour_map, "_version", lambda: "0")
    assert neighbour_map.make_map(copied, group, Events())
    assert not neighbour_map.make_map(copied, group, Events())
    facts = map_view({"axes": "umap", "colour": "run"}, shelf)
    rows = np.concatenate(
        [Matrix(copied.store, run, "W_dec").unit_rows(slice(None)) for run in group.runs]
    )
    assert facts["has_umap"]
    assert facts["figure"]["x"] == pytest.approx(rows[:, 0].round(4).tolist(), abs=1e-4)
    assert facts["figure"]["value"] == [run for run in group.runs for _ in range(64)]
    assert map_view({}, shelf)["figure"]["shares"]
    with pytest.raises(SpecError, match="no map by 'tsne'"):
        map_view({"axes": "tsne"}, shelf)


def test_without_umap_learn_the_command_says_what_to_install(copied, monkeypatch):
    import sys

    from reseed.explore.neighbour_map import make_map

    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(SpecError, match=r"reseed\[map\]"):
        make_map(copied, copied.groups()[0], Events())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_umap_gives_the_same_places_again(copied):
    pytest.importorskip("umap")
    from reseed.explore.neighbour_map import FILE, make_map
    from reseed.runs import map_name

    group = copied.groups()[0]
    tables = []
    for _ in range(2):
        assert make_map(copied, group, Events())
        tables.append(copied.store.table(map_name(group.name), FILE))
        shutil.rmtree(copied.store.path(map_name(group.name)))
    assert tables[0].equals(tables[1])
    # members of a family lie together
    x, y = (tables[0][axis].to_numpy().reshape(3, 64) for axis in "xy")
    apart = np.hypot(x[0] - x[1], y[0] - y[1])
    assert np.median(apart[::2]) < np.median(apart[1::2])
