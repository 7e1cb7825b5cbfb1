"""What reads a study works where torch is not installed (`make test-core` runs it there)."""

import subprocess
import sys

import numpy as np
import pytest

import reseed

FORBID = """
import sys

class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "tokenizers", "gguf"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Forbidden())
"""


def without_torch(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", FORBID + code], capture_output=True, text=True, timeout=60
    )


def test_matching_works() -> None:
    A = np.random.default_rng(0).normal(size=(20, 5))
    assert reseed.match(A, A[::-1]).optimal


@pytest.mark.parametrize(
    "module",
    [
        "cli",
        "study",
        "pipeline.run",
        "pipeline.plan",
        "prediction.predict",
        "prediction.export",
        "consensus_sae.stage",
        "survival.stage",
        "stability.stage",
        "matching.stage",
        "report.study",
        "formats.own",
        "runs",
        "spec.analysis",
        "subjects.source",
        "pipeline.known_features",
        "calibration.stage",
        "subjects.toy",
        "evidence.delphi",
        "interpretation.examples",
    ],
)
def test_importing_needs_no_torch(module: str) -> None:
    done = without_torch(f"import reseed.{module}")
    assert done.returncode == 0, done.stderr


def test_what_needs_torch_names_the_extra() -> None:
    done = without_torch("import reseed\nreseed.train")
    assert "pip install 'reseed[train]" in done.stderr
