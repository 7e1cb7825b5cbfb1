"""Strongest places in pictures, and coherence on maps, against plain loops over rows."""

import base64
import re

import numpy as np
import polars as pl
import pytest

from reseed.errors import StoreError
from reseed.evidence.display.coherence import Coherence
from reseed.evidence.display.crops import Crops
from reseed.report.html import Html
from reseed.report.latents.crops import crop_shown, pictures_once
from reseed.store.png import png_bytes, png_pixels
from reseed.subjects.networks.pictures import Pictures

BLOCKS, SAMPLES, SIDE, F, MOST = 6, 3, 5, 7, 4


def places_of(block, site=None):
    """All places of maps of 5 x 5, but two at random that are no rows."""
    rng = np.random.default_rng(block)
    sample, y, x = np.indices((SAMPLES, SIDE, SIDE)).reshape(3, -1)
    every = np.stack([block * SAMPLES + sample, y, x], axis=1).astype(np.int32)
    return np.delete(every, rng.choice(len(every), 2, replace=False), axis=0)


def picture(sample):
    return np.full((10, 10, 3), sample, np.uint8) + np.arange(10, dtype=np.uint8)[:, None]


@pytest.fixture(scope="module")
def world():
    """Dense codes of all rows, their places and blocks; latent 6 is silent."""
    rng = np.random.default_rng(0)
    places = [places_of(block) for block in range(BLOCKS)]
    rows = sum(map(len, places))
    codes = rng.integers(1, 40, (rows, F)) * (rng.random((rows, F)) < 0.2)  # with ties
    codes[:, 6] = 0
    return codes.astype(np.float32), places


def pictures():
    rows = np.array([len(places_of(block)) for block in range(BLOCKS)])
    return Pictures(places_of, rows, picture, [f"word {n % 2}" for n in range(BLOCKS * SAMPLES)])


def gathered(world, size):
    """Files and coherence, taken in `size` blocks at a time."""
    codes, places = world
    crops, coherence, first = Crops(F, pictures(), "s", MOST), Coherence(F), 0
    for low in range(0, BLOCKS, size):
        part = np.concatenate(places[low : low + size])
        block = np.repeat(np.arange(low, low + size), [len(p) for p in places[low : low + size]])
        row, latent = np.nonzero(codes[first : first + len(part)])
        value = codes[first : first + len(part)][row, latent]
        crops.add(row, latent, value, part, block)
        coherence.add(row, latent, part)
        first += len(part)
    return crops.files(), coherence.table()


def test_crops_are_the_strongest_places(world):
    codes, places = world
    files, _ = gathered(world, 2)
    at = np.concatenate(places)
    for latent in range(F):
        best = []
        for sample in range(BLOCKS * SAMPLES):
            inside = np.flatnonzero((at[:, 0] == sample) & (codes[:, latent] > 0))
            if len(inside):
                row = inside[codes[inside, latent].argmax()]
                best.append((-codes[row, latent], sample, *at[row, 1:]))
        expected = [(sample, y, x, -value) for value, sample, y, x in sorted(best)[:MOST]]
        found = files["crops.parquet"].filter(latent=latent)
        assert found.select("sample", "y", "x", "activation").rows() == expected
        for row in found.iter_rows(named=True):
            around = np.full((SIDE, SIDE), np.nan)
            own = at[:, 0] == row["sample"]
            around[at[own, 1], at[own, 2]] = codes[own, latent]
            values = np.array(row["activations"], np.float64).reshape(SIDE, SIDE)
            np.testing.assert_array_equal(values, around)
            assert row["label"] == f"word {row['sample'] % 2}"


def test_chunks_do_not_matter(world):
    (files, table), (others, other) = gathered(world, 1), gathered(world, 6)
    assert all(files[name].equals(others[name]) for name in files)
    np.testing.assert_allclose(table, other, rtol=1e-12)


def test_coherence_counts_neighbours_and_its_null_shuffles(world):
    codes, places = world
    _, table = gathered(world, 3)
    rng = np.random.default_rng(0)
    at = np.concatenate(places)

    def counted(latent, fires):
        maps = np.full((BLOCKS * SAMPLES, SIDE + 2, SIDE + 2), np.nan)
        maps[at[:, 0], at[:, 1] + 1, at[:, 2] + 1] = fires
        near = [np.roll(maps, step, axis) for step in (1, -1) for axis in (1, 2)]
        beside = np.stack(near)[:, maps == 1]
        return np.nansum(beside), np.isfinite(beside).sum()

    for latent in range(F - 1):
        fires = (codes[:, latent] > 0).astype(float)
        together, ends = counted(latent, fires)
        assert table["coherence"][latent] == pytest.approx(together / ends)
        draws = []
        for _ in range(200):
            mixed = fires.copy()
            for sample in np.unique(at[:, 0]):
                mixed[at[:, 0] == sample] = rng.permutation(fires[at[:, 0] == sample])
            draws.append(counted(latent, mixed)[0] / ends)
        error = np.std(draws) / 200**0.5
        assert abs(table["coherence_null"][latent] - np.mean(draws)) < 4 * error
    assert table["coherence"][6] is None


def test_what_stands_in_no_map_has_no_neighbours(world):
    codes, _ = world
    coherence = Coherence(F)
    row, latent = np.nonzero(codes[:9])
    coherence.add(row, latent, np.array([[n, -1, -1] for n in range(9)], np.int32))
    assert coherence.table()["coherence"].null_count() == F
    crops = Crops(F, pictures(), "s", MOST)
    places = np.array([[n // 2, -1, -1] for n in range(9)], np.int32)
    crops.add(row, latent, codes[row, latent], places, np.zeros(9, np.int64))
    files = crops.files()
    assert files["crops.parquet"]["width"].sum() == 0
    shown = crop_shown(files["crops.parquet"].join(files["pictures.parquet"], on="sample").row(
        0, named=True), 40.0)  # fmt: skip
    assert shown.count("<img") == 1


def test_a_picture_is_cut_where_its_map_is():
    """Maps of 30 x 30 over 60 x 60 pixels: 24 x 24 places are shown, and what they cover."""
    rng = np.random.default_rng(0)
    seen = rng.integers(0, 255, (60, 60, 3)).astype(np.uint8)

    def whole(block, site=None):
        sample, y, x = np.indices((1, 30, 30)).reshape(3, -1)
        return np.stack([sample, y, x], axis=1).astype(np.int32)

    crops = Crops(1, Pictures(whole, np.array([900]), lambda sample: seen, None), "s", 2)
    zero = np.zeros(1, np.int64)
    crops.add(
        np.array([29 * 30 + 3]),
        zero,
        np.array([2.0], np.float32),
        whole(0),
        np.zeros(900, np.int64),
    )
    files = crops.files()
    row = files["crops.parquet"].join(files["pictures.parquet"], on="sample").row(0, named=True)
    assert (row["first_y"], row["first_x"], row["width"]) == (6, 0, 24)
    images = re.findall(r"base64,([^\"]+)", crop_shown(row, 2.0))
    cut, heat = (png_pixels(base64.b64decode(image)) for image in images)
    np.testing.assert_array_equal(cut, seen[12:, :48])
    assert np.argwhere(heat[..., 3] == 0).tolist() == [[23, 3]]


def test_labels_of_samples_are_those_of_documents():
    documents = pictures().documents
    assert documents["document"].to_list() == list(range(BLOCKS * SAMPLES))
    assert documents.schema["label"] == pl.String
    np.testing.assert_array_equal(
        pictures().row_documents(np.array([2])), places_of(2)[:, 0].astype(np.int64)
    )


def test_png_is_read_again_and_nothing_else():
    rng = np.random.default_rng(0)
    for channels in (1, 3, 4):
        pixels = rng.integers(0, 255, (5, 9, channels)).astype(np.uint8)
        np.testing.assert_array_equal(png_pixels(png_bytes(pixels)), pixels)
    for broken in (b"", png_bytes(pixels)[:50], b"GIF" + png_bytes(pixels)[3:]):
        with pytest.raises(StoreError, match="cannot be read"):
            png_pixels(broken)


def test_a_page_has_each_picture_once():
    image = '<img src="data:image/png;base64,{}" alt="a">'.format
    body, pictures = pictures_once(Html("".join(map(image, ("AA==", "BB==", "AA==")))))
    assert [picture.rpartition(",")[2] for picture in pictures] == ["AA==", "BB=="]
    assert body.count('data-picture="0" alt') == 2
    assert "base64" not in body
