"""Triton's kernels compile for GPUs, also where there is none; the interpreter checks no types."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed here")

SCRIPT = Path(__file__).parents[1] / "triton_targets.py"
SHARED = {80: 166_912, 90: 232_448}
"""Bytes of shared memory that a program can have at most (CUDA C++ Programming Guide)."""


@pytest.mark.parametrize("capability", [pytest.param(80, marks=pytest.mark.slow), 90])
def test_all_kernels_compile(capability, tmp_path):
    env = {n: v for n, v in os.environ.items() if n != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-W", "error", SCRIPT, str(capability)],
        capture_output=True,
        text=True,
        timeout=280,
        env={**env, "TRITON_CACHE_DIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert set(made) == {
        "screen", "candidates", "score", "all_scores", "decode", "norms",
        "update_encoder", "update_decoder",
    }  # fmt: skip
    for name, one in made.items():
        assert f"sm_{capability}" in one["target"], name
        assert one["shared"] <= SHARED[capability], name
        assert one["tensor_cores"] == (name == "screen"), name
        assert not one["atomics"], name
