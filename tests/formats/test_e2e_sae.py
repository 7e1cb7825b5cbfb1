"""Against what e2e_sae 2.1.1 wrote and computes (tests/peers/write_formats.py)."""

import numpy as np
import pytest

from reseed.errors import SpecError
from reseed.formats import read

POSITIONS = ["blocks-1-hook_resid_pre", "blocks-2-hook_resid_pre"]


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("at", [".", "samples_400.pt"])
def test_reconstructs_as_its_class(published, position, at) -> None:
    """The stored decoder has no unit rows: it is normalised when it runs."""
    sae = published("e2e_sae", position, at=at, inner=position)
    np.testing.assert_allclose(np.linalg.norm(sae.W_dec, axis=1), 1, rtol=1e-6)
    assert sae.about["site"] == position.replace("-", ".")


def test_positions_are_listed_and_not_guessed(published) -> None:
    folder = published.folder / "e2e_sae"
    with pytest.raises(SpecError, match=r"2 positions.*blocks-1.*blocks-2"):
        read.read(folder)
    with pytest.raises(SpecError, match="blocks-3"):
        read.read(folder, inner="blocks-3")


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("file", ["folder", "samples_7.pt"])
def test_round_trip(tmp_path, make, same, centred, file) -> None:
    sae = make("relu", centred=centred, about={"site": "layers.3"})
    read.write(tmp_path / file, sae, "e2e_sae")
    again = read.read(tmp_path / file)
    same(sae, again)
    assert again.about["site"] == "layers.3"


def test_a_decoder_row_of_zeros_stays(tmp_path, make, same) -> None:
    sae = make("relu")
    sae.W_dec[2] = 0
    read.write(tmp_path, sae, "e2e_sae")
    again = read.read(tmp_path)
    same(sae, again)
    assert not again.W_dec[2].any()


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"kind": "topk"}, "activation is topk"),
        ({"kind": "relu", "E": 5}, "reads 6 dimensions and writes 5"),
        ({"kind": "relu", "normalised": True}, "normalise"),
    ],
)
def test_what_it_cannot_express_is_refused(tmp_path, make, changes, word) -> None:
    with pytest.raises(SpecError, match=word):
        read.write(tmp_path / "new", make(**changes), "e2e_sae")
    assert not (tmp_path / "new").exists()
