"""The switch for mixed processors reaches all that computes."""

import json
import os
import platform
import subprocess
import sys

import pytest

from reseed.cluster.engine import EngineSpec, variables

SEEN = """
import json
import numpy as np, torch
from numba import config
from reseed.sae.arithmetic import arithmetic
from threadpoolctl import threadpool_info
from numpy._core._multiarray_umath import __cpu_dispatch__ as loops, __cpu_features__ as there

print(json.dumps({
    "card": arithmetic(),
    "torch": torch.backends.cpu.get_cpu_capability(),
    "numba": config.CPU_NAME,
    "openblas": [i["architecture"] for i in threadpool_info() if i["internal_api"] == "openblas"],
    "numpy": [name for name in loops if there[name] and ("512" in name or name == "X86_V4")],
}))
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="AVX2 is of x86")
def test_every_library_keeps_to_avx2():
    pytest.importorskip("torch")
    pytest.importorskip("threadpoolctl")
    pinned = {**os.environ, **variables(EngineSpec(instructions="avx2"))}
    done = subprocess.run([sys.executable, "-c", SEEN], env=pinned, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["torch"] == seen["card"]["instructions"] == "AVX2"
    assert seen["numba"] == seen["card"]["processor"] == "haswell"
    assert set(seen["openblas"]) == {"Haswell"}
    assert seen["card"]["products"] == "Haswell"
    assert seen["numpy"] == []
    assert "without AVX512F" in seen["card"]["numpy"]
    assert pinned["ONEDNN_MAX_CPU_ISA"] == pinned["MKL_CBWR"] == "AVX2"


def test_what_the_user_says_goes_first():
    spec = EngineSpec(instructions="avx2", environment={"MKL_CBWR": "COMPATIBLE"})
    assert variables(spec)["MKL_CBWR"] == "COMPATIBLE"
    assert variables(EngineSpec()) == {}
