"""Two or more SAEs compared: known answers, nonsense refused, restart, page."""

import json

import numpy as np
import polars as pl
import pytest

import reseed
from reseed.comparison.dictionary import dictionaries
from reseed.errors import SpecError, StoreError
from reseed.formats import own
from reseed.records import SAEArrays


def rows(n: int, d: int, seed: int):
    made = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def sae(n: int = 60, d: int = 16, seed: int = 0, **changes) -> SAEArrays:
    given = {
        "W_enc": rows(n, d, seed),
        "b_enc": np.zeros(n, np.float32),
        "W_dec": rows(n, d, seed),
        "b_dec": np.zeros(d, np.float32),
        "activation": {"kind": "topk", "k": 4},
        "about": {},
    }
    return SAEArrays(**(given | changes))


def planted(part: float = 0.5, n: int = 60, d: int = 16):
    """B holds a part of A in another order; the rest is its own."""
    a, b = sae(n, d, 0), sae(n, d, 1)
    order = np.random.default_rng(2).permutation(n)
    kept = order[: int(part * n)]
    W_enc, W_dec = b.W_enc.copy(), b.W_dec.copy()
    W_enc[: len(kept)], W_dec[: len(kept)] = a.W_enc[kept], a.W_dec[kept]
    return a, sae(n, d, 1, W_enc=W_enc, W_dec=W_dec), kept


def test_planted_part_is_found() -> None:
    a, b, kept = planted(d=64)
    found = reseed.compare(a, b)
    assert found.names == ("A", "B")
    assert found.shared == 0.5
    mine = found.latents.filter(pl.col("sae") == "A", pl.col("decoder_cos") > 0.99)
    assert set(mine["latent"]) == set(kept)
    numbers = found.summary["pairs"][0]["numbers"]["shared"]
    assert numbers["null"]["mean"] == 0
    assert numbers["chance_corrected"] == 0.5
    assert found.certificate["decoder"]["optimal"]
    assert found.null["shared"]["mean"] == 0
    at = found.curve.filter(measure="shared", stratum="all", tau=0.7)
    assert at["share_a"].item() == 0.5
    assert found.summary["over_pairs"]["shared"]["interval_95"] is None
    assert "50.0%" in repr(found)


def test_unequal_widths_count_on_their_own_side() -> None:
    a = sae(80, 64)
    part = a.W_enc[:20], a.W_dec[:20]
    found = reseed.compare((a.W_enc, a.W_dec), part)
    shared = found.summary["pairs"][0]["numbers"]["shared"]
    assert (shared["a"], shared["b"]) == (0.25, 1.0)


def test_every_kind_of_input_gives_the_same(tmp_path) -> None:
    torch = pytest.importorskip("torch")
    from reseed.sae.model import from_arrays

    a, b, _ = planted(d=32)
    own.write(tmp_path / "a", a)
    own.write(tmp_path / "b", b)
    arrays = reseed.compare(a, b)
    others = [
        reseed.compare(from_arrays(a), from_arrays(b)),
        reseed.compare(tmp_path / "a", str(tmp_path / "b"), names=["A", "B"]),
        reseed.compare((a.W_enc, torch.from_numpy(a.W_dec)), (b.W_enc, b.W_dec)),
    ]
    for one in others:
        assert one.latents.equals(arrays.latents)
    found = reseed.compare(tmp_path / "a", tmp_path / "b")
    assert found.names == ("a", "b")


def test_decoders_alone() -> None:
    a, b, _ = planted(d=64)
    found = reseed.compare(a.W_dec, b)
    assert found.shared == 0.5
    assert any("no encoder" in one for one in found.warnings)


def test_three_give_an_interval() -> None:
    a, b, _ = planted(d=32)
    found = reseed.compare(a, b, a)
    assert len(found.pairs) == 3
    interval = found.summary["over_pairs"]["shared"]["interval_95"]
    assert interval[0] <= found.summary["over_pairs"]["shared"]["value"] <= interval[1]
    assert any("same weights" in one for one in found.warnings)


def test_independent_ones_are_at_chance() -> None:
    scale = 1.0 / np.arange(1, 41, dtype=np.float32)
    made = [
        np.random.default_rng(s).normal(size=(400, 40)).astype(np.float32) * scale for s in (0, 1)
    ]
    found = reseed.compare(*made)
    shared = found.summary["pairs"][0]["numbers"]["shared"]
    assert shared["value"] > 0.6
    assert abs(shared["chance_corrected"]) < 0.25


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (lambda: (sae(),), "at least two"),
        (lambda: (sae(d=16), sae(d=8)), "different spaces"),
        (lambda: (rows(60, 16, 0), rows(16, 60, 0)), "transposed"),
        (lambda: ((rows(6, 4, 0), rows(5, 4, 0)), sae()), "transposed"),
        (lambda: (np.full((4, 3), np.nan), np.ones((4, 3))), "NaN"),
        (lambda: (np.ones(4), np.ones((4, 3))), "matrix"),
        (lambda: (np.zeros((4, 3)), np.ones((4, 3))), "nothing is left.* Was it trained"),
        (lambda: (rows(1, 3, 0), np.ones((4, 3))), "1 of 1 latents .* needs two.* compare$"),
        (
            lambda: ((np.eye(4)[[0, 1, 2, 2]] * [1, 1, 0, 0], np.eye(4) * [0, 1, 1, 1]), np.eye(4)),
            "1 of 4 latents",
        ),
        (lambda: ("/nowhere/at/all", sae()), "nowhere"),
    ],
)
def test_nonsense_is_refused(given, word: str) -> None:
    with pytest.raises((SpecError, StoreError), match=word):
        reseed.compare(*given())


@pytest.mark.parametrize(
    "options",
    [{"tau": 0}, {"tau": 1.2}, {"tau": 0.704}, {"tau": 1e-9}, {"tau": np.nan}, {"null_draws": 0}]
    + [{"align": "procrustes"}, {"names": ["x", "x"]}]
    + [{"align": align, "activations": rows(90, 16, 2)} for align in ("cca", "", False, True)],
)
def test_bad_options_are_refused(options) -> None:
    with pytest.raises(SpecError):
        reseed.compare(sae(), sae(seed=1), **options)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"W_dec": 3 * rows(60, 16, 5)}, "swapped"),
        ({"W_dec": 3 * rows(60, 16, 5), "W_enc": 2 * rows(60, 16, 5)}, "not of length 1"),
        ({"about": {"site": "layers.3"}}, "site"),
        ({"W_dec": rows(60, 16, 5) * (np.arange(60) % 2)[:, None].astype("f4")}, "zero"),
    ],
)
def test_what_looks_wrong_is_said(changes, word: str) -> None:
    found = reseed.compare(sae(about={"site": "layers.6"}), sae(seed=1, **changes), null_draws=1)
    assert any(word in one for one in found.warnings), found.warnings


def test_names_are_told_apart() -> None:
    given = [sae(), sae(seed=1)]
    assert [one.name for one in dictionaries(given, None)] == ["A", "B"]
    with pytest.raises(SpecError, match="files are named"):
        dictionaries(given, ["a/b", "c"])


def test_folder_and_restart(tmp_path, monkeypatch) -> None:
    a, b, _ = planted(d=32)
    out = tmp_path / "out"
    first = reseed.compare(a, b, out=out)
    there = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    assert {"comparison.json", "latents.parquet", "curve.parquet", "report.html"} <= there.keys()
    assert json.loads(there["comparison.json"])["pairs"][0]["numbers"]["shared"]["a"] == 0.5
    assert pl.read_parquet(out / "latents.parquet").equals(first.latents)

    def refuse(*_, **__):
        raise AssertionError("measured again")

    monkeypatch.setattr("reseed.comparison.stage.measure_pair", refuse)
    again = reseed.compare(a, b, out=out)
    assert again.latents.equals(first.latents)
    assert (out / "report.html").read_bytes() == there["report.html"]
    with pytest.raises(AssertionError):
        reseed.compare(a, b, out=out, tau=0.9)


def test_a_tau_that_is_a_hundredth_but_for_rounding_is_one() -> None:
    a, b, _ = planted()
    found = [reseed.compare(a, b, tau=tau, null_draws=1) for tau in (0.7, 0.1 * 7, np.float32(0.7))]
    assert [one.summary["tau"] for one in found] == [0.7] * 3


def test_what_a_bare_decoder_gave_is_not_taken_for_an_encoder_like_it(tmp_path) -> None:
    a, b = rows(60, 64, 0), (rows(60, 64, 1), rows(60, 64, 0))
    assert reseed.compare(a, b, null_draws=1, out=tmp_path).shared == 1
    assert reseed.compare((a, a), b, null_draws=1, out=tmp_path).shared == 0


@pytest.mark.parametrize("kind", ["gaussian", "mirrored, raw", "mirrored, axes"])
def test_encoder_and_decoder_in_one_beside_two(monkeypatch, kind: str) -> None:
    monkeypatch.setattr("reseed.stability.decoys.Decoys.heaviest", lambda *_: kind)
    a, b = rows(60, 64, 0), rows(60, 64, 1)
    apart = (rows(60, 64, 2), a)
    same = reseed.compare((a, a.copy()), apart, null_draws=1)
    for given in [((a, a), apart), (apart, (a, a))]:
        found = reseed.compare(*given, null_draws=1)
        assert found.shared == same.shared == 0
        assert found.share_fdr == same.share_fdr
        for one, other in zip(found.null.values(), same.null.values(), strict=True):
            assert one["mean"] == pytest.approx(other["mean"], abs=0.05)
    assert reseed.compare((a, a), (b, b), null_draws=1).shared == 0


def test_a_folder_of_something_else_is_left_alone(tmp_path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(StoreError, match="not empty"):
        reseed.compare(sae(), sae(seed=1), out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("more", ["study.toml", "data.json", "report.html", "pairs data.json"])
def test_the_folder_of_a_study_is_left_alone(tmp_path, more: str) -> None:
    names = {"events.jsonl", ".lock", *more.split()}
    for name in names:
        (tmp_path / name).write_text("precious")
    with pytest.raises(StoreError, match="holds no comparison"):
        reseed.compare(sae(), sae(seed=1), out=tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        names, "precious"
    )


def test_a_comparison_stopped_before_its_first_pair_continues(tmp_path, monkeypatch) -> None:
    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("reseed.comparison.stage.measure_pair", stop)
        with pytest.raises(KeyboardInterrupt):
            reseed.compare(sae(), sae(seed=1), out=tmp_path)
    (tmp_path / "tokens").mkdir()
    reseed.compare(sae(), sae(seed=1), out=tmp_path, null_draws=1)
    assert (tmp_path / "comparison.json").exists()


def test_each_side_stands_beside_its_own_chance() -> None:
    """Of 64 rows chance finds most at tau, of 1,024 hardly any; the mean says neither."""
    a, b = (rows(n, 16, seed) / np.arange(1, 17) for n, seed in ((64, 1), (1024, 2)))
    number = reseed.compare(a, b, null_draws=2).pairs[0].numbers["shared"]
    for side in "ab":
        assert number[f"null_{side}"]["mean"] == pytest.approx(number[side], abs=0.06)
    assert number["a"] > 0.8
    assert number["b"] < 0.1
    assert number["null"]["mean"] == pytest.approx(number["value"], abs=0.06)


def test_rows_that_crowd_are_held_against_their_own_and_said() -> None:
    """Rows of two coordinates, turned so that no axes show it."""
    turn = np.linalg.qr(rows(16, 16, 9))[0]
    few = [rows(150, 16, seed) * (rows(150, 16, seed + 5).argsort(1) < 2) for seed in (1, 2)]
    found = reseed.compare(*(x @ turn for x in few), null_draws=1)
    assert any("among its own others" in warning for warning in found.warnings)
    assert found.pairs[0].numbers["match_at_fdr"]["itself"]["a"] > 0.05
    assert found.share_fdr <= 0.02
