"""Who may import whom. Imports for type checking count too: a reader follows them as well."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import reseed

HOME = Path(reseed.__file__).parent

FLOORS = (
    {"errors", "seeds", "loops", "screen", "notebook"},
    {"records"},
    {"store", "events", "sae"},
    {"formats", "spec"},
    {"study"},
    {"subjects", "matching"},
    {"training", "evidence", "stability", "report"},
    {"interpretation", "comparison", "calibration", "prediction", "consensus_sae"}
    | {"cluster", "survival"},
    {"pipeline", "explore", "publish"},
    {"cli", "__init__"},
)
"""From the ground up: what stands on a floor imports only what stands below it."""
ONE_PART = {"runs": "study"}
"""Modules that count as a part of another: the runs of a study."""
FLOOR_OF = {part: floor for floor, parts in enumerate(FLOORS) for part in parts}

FILES = sorted(HOME.rglob("*.py"), key=lambda path: path.as_posix())


def part_of(path):
    """The room of a file, or the name of a file outside all rooms."""
    first = path.relative_to(HOME).parts[0].removesuffix(".py")
    return ONE_PART.get(first, first)


def imported(path):
    """Full names of what a file imports from reseed, inside functions too."""
    out = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            out |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            out |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in out if name.split(".")[0] == "reseed"}


def parts_imported(path):
    names = {name.split(".")[1] if "." in name else "__init__" for name in imported(path)}
    return {ONE_PART.get(name, name) for name in names}


def test_every_room_is_on_the_plan():
    assert {part_of(path) for path in FILES} == set(FLOOR_OF)
    assert len(FLOORS) <= 10


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(HOME).as_posix())
def test_imports_lead_down(path):
    part = part_of(path)
    up = {name for name in parts_imported(path) - {part} if FLOOR_OF[name] >= FLOOR_OF[part]}
    assert not up, f"{part} stands on floor {FLOOR_OF[part] + 1} and imports {up}"


def test_files_have_no_cycle():
    """Imports for type checking left out: they never run."""
    names = {".".join(["reseed", *path.relative_to(HOME).with_suffix("").parts]) for path in FILES}
    graph = {}
    for path in FILES:
        own = ".".join(["reseed", *path.relative_to(HOME).with_suffix("").parts])
        targets = {n if n in names else n.rpartition(".")[0] for n in imported(path)}
        graph[own] = (targets & names) - {own}
    list(TopologicalSorter(graph).static_order())


FORBID = """
import importlib.abc, sys
class Forbid(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "tokenizers", "gguf"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])
sys.meta_path.insert(0, Forbid())
"""


def test_reading_needs_no_torch(python, finished):
    code = (
        FORBID
        + f"""
import reseed, reseed.cli, reseed.pipeline.plan, reseed.pipeline.run
import reseed.pipeline.known_features, reseed.prediction.predict, reseed.prediction.export
import reseed.consensus_sae.stage
import reseed.stability.stage, reseed.matching.stage, reseed.formats.own, reseed.report.study
import reseed.calibration.stage
import numpy as np
study = reseed.Study.load({str(finished)!r})
assert len(study.latents) == 2 * (16 + 8)
assert len(study.matches) == 2 and study.matches[0].table().height == 2 * 16
assert study.matches[0].certificates()
assert len(study.summary["groups"]) == 2
assert all(run.state.state == "done" and run.metrics().height == 40 for run in study.runs)
assert reseed.match(np.eye(3), np.eye(3)).optimal
assert not {{"torch", "transformers"}} & set(sys.modules)
"""
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["status", "report", "run"])
def test_commands_on_a_finished_study_need_no_torch(python, finished, command):
    code = FORBID + f"sys.argv = ['reseed', {command!r}, {str(finished)!r}]\n"
    done = python("-c", code + "from reseed.cli import main; main()")
    assert done.returncode == 0, done.stderr


def test_training_without_torch_names_the_extra(python, write_study):
    code = (
        FORBID
        + """
import reseed
for name in ("train", "SAE"):
    try:
        getattr(reseed, name)
    except ImportError as error:
        assert "reseed[train]" in str(error) and name in str(error), error
    else:
        raise AssertionError(name)
"""
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    path = write_study()
    run = f"sys.argv = ['reseed', 'run', {str(path)!r}]\nfrom reseed.cli import main; main()"
    done = python("-c", FORBID + run)
    assert done.returncode == 2
    assert "reseed[train]" in done.stderr
