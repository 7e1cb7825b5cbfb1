"""Comparing, sampling and choosing work on tables, where torch and scikit-learn are missing."""

import pytest

FORBID = """
import sys
class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "transformers", "tokenizers", "sklearn", "httpx"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Forbidden())
"""


def test_importing_needs_neither(python):
    modules = [
        "interpretation.orphans",
        "interpretation.strata",
        "interpretation.similarity",
        "interpretation.refine",
        "interpretation.select.by_data",
        "interpretation.controls",
        "interpretation.costs",
        "interpretation.scorers.classify",
        "interpretation.scorers.embedding",
        "interpretation.explain",
        "interpretation.models.asker",
        "interpretation.scorers.likelihood",
        "interpretation.scorers.intruder",
        "interpretation.scorers.simulation",
        "evidence.features",
        "evidence.equal_mass",
        "interpretation.select.stage",
    ]
    done = python("-c", FORBID + "".join(f"import reseed.{name}\n" for name in modules))
    assert done.returncode == 0, done.stderr


def test_choosing_without_scikit_learn_names_the_extra(python):
    code = """
import numpy as np
from reseed.interpretation.select import make_task
from reseed.interpretation.select.stage import _evaluated
x = np.random.default_rng(0).normal(size=(40, 3))
task = make_task(x, ["a", "b"] * 20, ["training"] * 20 + ["held_out"] * 20, range(3))
try:
    _evaluated(task, 2, ["lasso"], None, None, 0)
except ImportError as error:
    assert "reseed[llm]" in str(error), error
else:
    raise AssertionError
"""
    done = python("-c", FORBID + code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["evidence.function"])
def test_what_encodes_says_torch(python, module):
    code = f"""
try:
    import reseed.{module}
except ModuleNotFoundError as error:
    assert error.name == "torch"
"""
    assert python("-c", FORBID + code).returncode == 0
