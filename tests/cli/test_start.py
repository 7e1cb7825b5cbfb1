"""Commands that people wait for load only what they need."""

import json

import pytest

CLI = """
import contextlib, io, json, sys
sys.argv = ["reseed", *{arguments!r}]
from reseed.cli import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main()
print(json.dumps(sorted(sys.modules)))
"""
SLOW = {"numpy", "polars", "scipy", "numba", "torch", "safetensors", "sklearn", "plotly"}


def loaded(python, *arguments):
    done = python("-c", CLI.format(arguments=arguments))
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]])
def test_help_reads_no_study(python, arguments):
    assert not loaded(python, *arguments) & (SLOW | {"reseed.study"})


def test_status_and_keys_need_settings_alone(python, finished):
    modules = loaded(python, "status", str(finished))
    assert "reseed.study" in modules
    assert not modules & SLOW
    assert not loaded(python, "keys") & SLOW


def test_importing_reseed_needs_nothing(python):
    done = python("-c", "import reseed, json, sys; print(json.dumps(list(sys.modules)))")
    assert not set(json.loads(done.stdout)) & (SLOW | {"pydantic", "rich"})
