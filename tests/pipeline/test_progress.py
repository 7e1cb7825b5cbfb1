"""`plan` and `status` know every stage, with what is left of it."""

import json
import shutil
import threading
import time

import pytest

import reseed
from reseed import events as events_module
from reseed.events import Events, JsonlSink, read_events
from reseed.pipeline.progress import names_of, run_states, stages
from reseed.pipeline.run import run

STAGES = [
    "open", "train", "match", "evidence", "co-firing", "structure", "stability", "across", "report",
]  # fmt: skip


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "tiny")
    return reseed.Study.load(tmp_path / "tiny")


def by_name(study):
    return {stage.name: stage for stage in stages(study)}


def test_before_anything_all_stages_are_missing(write_study):
    sae = [{"latents": 16, "k": 2}, {"latents": 8, "k": 2}]
    study = reseed.Study.load(write_study(sae=sae))
    assert [stage.name for stage in stages(study)] == STAGES
    assert {stage.state for stage in stages(study)} == {"missing"}
    assert all(stage.done == 0 and stage.left is None for stage in stages(study))


def test_a_finished_study_has_made_every_piece_that_its_stages_name(finished):
    """So a stage that a later version adds is seen to be missing here."""
    study = reseed.Study.load(finished)
    assert {stage.state for stage in stages(study)} == {"done"}
    named = {name for names in names_of(study).values() for name in names}
    there = {path.parent.relative_to(finished).as_posix() for path in finished.rglob("piece.json")}
    apart = {name for name in there - named if not name.startswith(("activations/", "scale/"))}
    assert apart <= {"stability/factors"}
    assert named <= there
    assert by_name(study)["train"].seconds > 0


def test_a_plan_has_a_line_for_every_stage_and_status_says_its_estimates(write_study):
    study = reseed.Study.load(write_study())
    planned = {stage.name: stage for stage in reseed.plan(study).stages}
    assert set(planned) == {*STAGES, "harvest"} - {"across"}
    assert all(planned[name].seconds > 0 for name in ("train", "match", "structure", "stability"))
    left = by_name(study)
    assert left["structure"].left == pytest.approx(planned["structure"].seconds, abs=0.1)


def test_what_is_done_is_not_planned_again(copy):
    shutil.rmtree(copy.folder / "structure")
    planned = {stage.name: stage for stage in reseed.plan(copy).stages}
    assert planned["structure"].seconds > 0
    assert planned["match"].what == planned["stability"].what == "done"
    assert by_name(copy)["structure"].state == "missing"


def test_pieces_that_are_lost_are_seen(copy):
    some = next((copy.folder / "matches").iterdir())
    shutil.rmtree(some)
    states = by_name(copy)
    assert states["match"].state == "stopped"
    assert states["match"].done == states["match"].of - 1
    assert states["report"].state == "missing"


def test_what_is_under_way_is_said_with_its_rate(copy, monkeypatch):
    monkeypatch.setattr(events_module, "_PROGRESS_EVERY_SECONDS", 0.0)
    shutil.rmtree(copy.folder / "structure")
    events = Events(JsonlSink(copy.folder / "events.jsonl"))
    with copy.store.lock("reseed run"):
        events.emit("session", command="reseed run")
        with events.task("structure", 4, "pairs") as task:
            time.sleep(0.01)
            task.advance(1)
            seen = by_name(copy)
            assert seen["structure"].state == "under way"
            assert seen["structure"].rate_unit == "pairs"
            assert seen["structure"].left == pytest.approx(3 / seen["structure"].rate, rel=0.01)
            assert seen["report"].state == "waiting"
        assert by_name(copy)["structure"].state == "waiting"
    assert by_name(copy)["structure"].state == "missing"


def test_runs_are_under_way_while_they_train(write_study):
    study = reseed.Study.load(write_study(training={"tokens": 128_000, "checkpoint_tokens": 6400}))
    seen = []

    class Look:
        def emit(self, kind, fields):
            if kind == "metrics" and not seen:
                seen.extend(words for _, words in run_states(study))

    run(study, progress=False, sinks=[Look()])
    assert seen == ["under way", "under way"]
    assert [words for _, words in run_states(study)] == ["done", "done"]


def test_status_shows_stages_and_who_works(cli, copy):
    done = cli("status", copy.folder)
    for name in STAGES:
        assert name in done.stdout
    assert "working now: nobody" in done.stdout
    with copy.store.lock("reseed run in a test"):
        assert "working now: `reseed run in a test` (process" in cli("status", copy.folder).stdout


def test_a_line_that_is_cut_is_no_event(tmp_path):
    lines = [{"time": 1, "event": "started", "task": "a"}, {"time": 2, "event": "other"}]
    text = "\n".join(map(json.dumps, lines)) + '\n{"time": 3, "event": "started", "ta'
    (tmp_path / "events.jsonl").write_text(text)
    assert read_events(tmp_path, "started") == lines[:1]
    assert read_events(tmp_path / "none", "started") == []


def test_the_lock_holds_without_its_file(copy):
    """A person may delete it while somebody works."""
    ends = []
    with copy.store.lock("first"):
        (copy.folder / ".lock").unlink()

        def second():
            try:
                with reseed.Study.load(copy.folder).store.lock("second"):
                    ends.append("in")
            except reseed.BusyError as error:
                ends.append(str(error))

        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert len(ends) == 1
    assert "is in use by" in ends[0]
    with copy.store.lock("third"):
        assert copy.store.holder().startswith("`third`")
    assert copy.store.holder() is None
