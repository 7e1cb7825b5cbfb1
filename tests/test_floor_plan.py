"""Who may import whom. Imports for type checking count too: a reader follows them as well."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import reseed

HOME = Path(reseed.__file__).parent

GROUND = {"compiled", "errors", "events", "files", "interrupts", "records", "seeds", "store"}
ALLOWED = {
    "activations": {"subjects"},
    "sae": set(),
    "subjects": set(),
    "formats": set(),
    "matching": {"formats"},
    "training": {"activations", "formats", "sae", "subjects"},
    "evidence": {"formats", "sae", "subjects"},
    "stability": {"evidence", "matching"},
    "comparison": {"evidence", "formats", "matching", "sae", "stability", "subjects"},
    "calibration": {"evidence", "matching", "stability", "subjects"},
    "interpretation": {"evidence", "formats", "sae", "subjects"},
    "report": set(),
}
"""Room to the rooms it may import; the ground floor is open to all."""

STUDY = {"study", "study_spec"}
"""Knows the specs and results of all rooms, but runs nothing."""
DOORS = {
    "calibrating",
    "comparing",
    "dropping",
    "foreseeing",
    "inputs",
    "interpretation_commands",
    "interpreted",
    "interpreting",
    "pipeline",
    "planning",
    "pooling",
    "products",
    "same_subject",
    "selecting",
} | {
    "__init__",
    "api",
    "cli",
    "product_commands",
    "sae_commands",
}
"""Call the rooms; only they may import the study."""

FILES = sorted(HOME.rglob("*.py"), key=lambda path: path.as_posix())


def part_of(path):
    """The room of a file, or the name of a file outside all rooms."""
    first = path.relative_to(HOME).parts[0]
    return first.removesuffix(".py")


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
    return {name.split(".")[1] if "." in name else "__init__" for name in imported(path)}


def test_every_room_is_on_the_plan():
    assert {part_of(path) for path in FILES} == GROUND | set(ALLOWED) | STUDY | DOORS


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(HOME).as_posix())
def test_imports_follow_the_plan(path):
    part, found = part_of(path), parts_imported(path)
    if part in GROUND:
        assert found <= GROUND
    elif part in ALLOWED:
        assert found - GROUND - {part} <= ALLOWED[part]
    elif part in STUDY:
        assert found <= GROUND | set(ALLOWED) | STUDY
    else:
        assert found <= GROUND | set(ALLOWED) | STUDY | DOORS


def test_the_plan_has_no_cycle():
    list(TopologicalSorter(ALLOWED).static_order())


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
import reseed, reseed.cli, reseed.api, reseed.planning, reseed.pipeline
import reseed.calibrating, reseed.products, reseed.pooling, reseed.product_commands
import reseed.stability.stage, reseed.matching.stage, reseed.formats.own, reseed.report.page
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
