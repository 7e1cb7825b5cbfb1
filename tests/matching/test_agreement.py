"""Agreement and closure on a case worked out by hand, and files of published alignments."""

import pickle

import numpy as np
import pytest

from reseed.errors import StoreError
from reseed.formats.published.alignments import read_alignments
from reseed.matching.agreement import equal_share, triangle_closure


def test_three_runs_by_hand() -> None:
    """a-b swaps 0 and 1, b-c swaps 1 and 2; a-c agrees on latents 0 and 3 only."""
    ab, bc = np.array([1, 0, 2, 3]), np.array([0, 2, 1, 3])
    ac = np.array([2, 1, 0, 3])  # by way of b: 2, 0, 1, 3
    found = triangle_closure({("a", "b"): ab, ("b", "c"): bc, ("a", "c"): ac})
    assert (found.closed, found.possible, found.latents, found.triangles) == (2, 4, 4, 1)
    assert found.share == 0.5
    # the same from edges given in the other direction
    back = {("b", "a"): np.argsort(ab), ("c", "b"): np.argsort(bc), ("a", "c"): ac}
    assert triangle_closure(back) == found
    # where only some edges count
    counts = {("a", "b"): np.array([True, True, False, True])}
    some = triangle_closure({("a", "b"): ab, ("b", "c"): bc, ("a", "c"): ac}, counts)
    assert (some.closed, some.possible, some.coverage) == (2, 3, 0.75)


def test_missing_pairs_make_no_triangle() -> None:
    found = triangle_closure({("a", "b"): np.arange(3), ("b", "c"): np.arange(3)})
    assert found.triangles == 0
    assert np.isnan(found.share)


def test_equal_share_counts_only_those_with_a_counterpart() -> None:
    assert equal_share(np.array([0, 1, 2, -1]), np.array([0, 2, 1, -1])) == 0.25


def test_published_files_are_read(tmp_path) -> None:
    columns = np.random.default_rng(0).permutation(6)
    path = tmp_path / "alignments.pkl"
    path.write_bytes(pickle.dumps([{6: (np.arange(6), columns), "SAE 2": (columns, np.arange(6))}]))
    found = read_alignments(path)
    np.testing.assert_array_equal(found[0][6], columns)
    np.testing.assert_array_equal(found[0]["SAE 2"], np.argsort(columns))
    assert equal_share(found[0][6], found[0][6]) == 1.0


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
