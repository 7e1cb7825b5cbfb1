"""SAEs that other libraries wrote with their own classes, and what those reconstruct."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from reseed.formats import read
from reseed.records import SAEArrays
from reseed.sae.model import from_arrays

PUBLISHED = Path(__file__).parent / "published"


def close(ours, theirs, tolerance=1e-6):
    """Equal to 1e-6 of the largest entry, or of 1."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= tolerance * max(1, np.abs(theirs).max())


@pytest.fixture
def published():
    """Reads a case of a peer, checks its reconstruction against the peer's, and gives the SAE."""

    def check(peer, case, *, at=None, **which):
        expected = load_file(PUBLISHED / peer / "expected.safetensors")
        path = PUBLISHED / peer / (case if at is None else at)
        arrays = read.read(path, **which)
        close(from_arrays(arrays).reconstruct(expected["x"]), expected[case])
        assert arrays.about["format"] == peer
        return arrays

    check.folder = PUBLISHED
    return check


@pytest.fixture
def make():
    """Makes an SAE with random weights, of a kind of rule."""

    def sae(kind, *, F=12, D=6, E=None, k=3, **changes):
        rng = np.random.default_rng(3)
        E = E or D

        def normal(*shape):
            return (0.4 * rng.normal(size=shape)).astype(np.float32)

        given = {
            "W_enc": normal(F, D),
            "b_enc": normal(F),
            "W_dec": normal(F, E),
            "b_dec": normal(E),
            "activation": {"kind": kind}
            if kind in ("relu", "jumprelu")
            else {"kind": kind, "k": k},
            "threshold": np.abs(normal(F)) if kind == "jumprelu" else None,
            "centred": D == E,
            "about": {},
        }
        return SAEArrays(**(given | changes))

    return sae


@pytest.fixture
def same():
    """Checks that two SAEs reconstruct the same, to 1e-6."""

    def check(a, b, tolerance=1e-6):
        x = np.random.default_rng(5).normal(size=(30, a.W_enc.shape[1])).astype(np.float32)
        close(from_arrays(b).reconstruct(x), from_arrays(a).reconstruct(x), tolerance)

    return check
