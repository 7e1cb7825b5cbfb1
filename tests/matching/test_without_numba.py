"""Small dictionaries are matched where numba is not installed."""

import subprocess
import sys

CODE = """
import importlib.util, sys
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "numba" else find_spec(name, *rest)
sys.modules["numba"] = None
import numpy as np, reseed
from reseed.matching.match import Views, compare
A = np.eye(3)
assert reseed.match(A, A[[2, 0, 1]]).pairs.tolist() == [[0, 1], [1, 2], [2, 0]]
assert compare(Views(A, A), Views(A, A)).decoder.optimal
"""


def test_matching_needs_numba_only_above_the_dense_limit() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
