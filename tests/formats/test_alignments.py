"""Files of published alignments."""

import pickle

import numpy as np
import pytest

from reseed.errors import StoreError
from reseed.formats.published.alignments import read_alignments


def test_published_files_are_read(tmp_path) -> None:
    columns = np.random.default_rng(0).permutation(6)
    path = tmp_path / "alignments.pkl"
    path.write_bytes(pickle.dumps([{6: (np.arange(6), columns), "SAE 2": (columns, np.arange(6))}]))
    found = read_alignments(path)
    np.testing.assert_array_equal(found[0][6], columns)
    np.testing.assert_array_equal(found[0]["SAE 2"], np.argsort(columns))


def test_files_of_old_numpy_are_read(tmp_path) -> None:
    path = tmp_path / "old.pkl"
    new = pickle.dumps([{6: (np.arange(4), np.arange(4)[::-1].copy())}], protocol=3)
    path.write_bytes(new.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    np.testing.assert_array_equal(read_alignments(path)[0][6], [3, 2, 1, 0])


class Harm:
    def __reduce__(self):
        return (print, ("ran",))


@pytest.mark.parametrize(
    "content",
    [
        [{6: Harm()}],
        [{6: (np.arange(3), np.array([0, 0, 1]))}],
        [{6: (np.arange(3), np.arange(4))}],
        [{6: (np.arange(3.0), np.arange(3.0))}],
        [[1, 2]],
        {"a": 1},
        [{6: (np.array([Harm()], dtype=object), np.arange(1))}],
    ],
)
def test_anything_else_is_refused_and_not_run(tmp_path, capsys, content) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(StoreError, match="not a file of published alignments"):
        read_alignments(path)
    assert "ran" not in capsys.readouterr().out


def test_a_torn_file_is_refused(tmp_path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps([{6: (np.arange(9), np.arange(9))}])[:-30])
    with pytest.raises(StoreError, match="nothing in it was run"):
        read_alignments(path)
