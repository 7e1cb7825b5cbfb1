"""A damaged study says what is damaged and what to do; doing that mends it.

A copy of a finished study is harmed and run; what the message says is done, until there is none.
Then every byte is as before.
"""

import errno
import json
import os
import re
import shutil
from pathlib import Path

import pytest

import reseed
from reseed.study import Study

PATH = r"(/\S+?)(?= is damaged| cannot be read)"


@pytest.fixture
def study(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "tiny")
    return Study.load(tmp_path / "tiny")


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


HARMS = {
    "flipped": flip,
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "missing": lambda path: path.unlink(),
}


def obey(message, root):
    """Delete what the message says."""
    named = re.search(PATH, message)
    assert named, message
    target = Path(named[1])
    assert root in target.parents, message
    assert re.search(r"Delete (that folder|it|its folder)", message), message
    shutil.rmtree(target) if target.is_dir() else target.unlink()


def mend(study, attempts=4):
    """Run and do as told until it ends well; the messages."""
    messages = []
    for _ in range(attempts):
        try:
            reseed.run(study, progress=False)
        except reseed.StoreError as error:
            messages.append(str(error))
            obey(messages[-1], study.folder)
        else:
            return messages
    raise AssertionError(messages)


def forget(study, *rooms):
    for room in rooms:
        shutil.rmtree(study.folder / room)


def some(study, pattern):
    return sorted(study.folder.glob(pattern))[0]


CASES = {
    "weights of a run": ("runs/*/sae.safetensors", ["evidence"]),
    "settings of a run": ("runs/*/cfg.json", ["evidence"]),
    "snapshot": ("runs/*/snapshots/00000020/sae.safetensors", ["matches"]),
    "settings of a snapshot": ("runs/*/snapshots/00000020/cfg.json", ["matches"]),
    "metrics": ("runs/*/metrics.parquet", []),
    "match": ("matches/*/00000040.parquet", ["stability"]),
    "certificate": ("matches/*/certificates.json", ["stability"]),
    "weights table": ("weights/*/latents.parquet", ["stability"]),
    "firing": ("evidence/*/firing.parquet", ["stability"]),
    "reconstruction": ("evidence/*/reconstruction.json", []),
    "shard": ("activations/shard-00004/rows.safetensors", ["runs", "evidence"]),
    "index": ("activations/index/index.json", ["runs"]),
    "latents": ("stability/*/latents.parquet", []),
    "summary of a group": ("stability/*/summary.json", []),
    "subject": ("subject/subject.json", []),
}


ATTACKS = [(case, "flipped") for case in CASES]
ATTACKS += [(case, harm) for case in ("snapshot", "shard") for harm in ("truncated", "missing")]


@pytest.mark.parametrize(("case", "harm"), ATTACKS)
def test_doing_as_told_mends(study, tree, case, harm):
    before = tree(study.folder)
    pattern, rooms = CASES[case]
    HARMS[harm](some(study, pattern))
    forget(study, *rooms)
    assert mend(study)
    assert tree(study.folder) == before


PIECES = ("runs/*", "matches/*", "weights/*", "evidence/*", "stability/*", "subject",
          "activations/index", "activations/shard-00004")  # fmt: skip


@pytest.mark.parametrize("pattern", PIECES)
def test_a_card_that_is_gone_or_garbage(study, tree, pattern):
    before = tree(study.folder)
    piece = some(study, pattern)
    needed = ["runs"] if "activations" in pattern else []
    (piece / "piece.json").unlink()
    forget(study, *needed)
    assert mend(study) == []
    assert tree(study.folder) == before
    (piece / "piece.json").write_text("{")
    forget(study, *needed)
    assert mend(study)
    assert tree(study.folder) == before


ROOMS = ("runs", "matches", "weights", "evidence", "stability", "activations", "subject")


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_that_was_deleted_is_made_again(study, tree, room):
    before = tree(study.folder)
    forget(study, room)
    assert mend(study) == []
    after = tree(study.folder)
    if room == "activations":  # nothing needed them
        before = {name: value for name, value in before.items() if "activations" not in name}
    assert after == before


@pytest.mark.parametrize("file", ["data.json", "summary.json", "study.toml", "report.html"])
@pytest.mark.parametrize("harm", [*HARMS, "garbage"])
def test_single_files(finished, study, tree, file, harm, tmp_path):
    """`study.toml` in the folder is a copy; the study is given by its own file."""
    own = tmp_path / "tiny.toml"
    shutil.copy(finished / "study.toml", own)
    before = tree(study.folder, skip=(".lock", "events.jsonl"))
    path = study.folder / file
    path.write_text("{") if harm == "garbage" else HARMS[harm](path)
    messages = mend(Study.load(own))
    assert file == "data.json" or messages == []
    assert tree(study.folder, skip=(".lock", "events.jsonl")) == before


def test_a_damaged_spec_in_the_folder(study):
    (study.folder / "study.toml").write_text("[[[")
    with pytest.raises(reseed.SpecError, match="study.toml is not TOML"):
        Study.load(study.folder)


def test_readers_name_the_damage(study):
    flip(some(study, "stability/*/latents.parquet"))
    with pytest.raises(reseed.StoreError, match="stability/.* is damaged: the checksum"):
        _ = study.latents
    match = study.matches[0]
    for path in study.folder.glob("matches/*/*"):
        if path.name != "piece.json":
            flip(path)
    with pytest.raises(reseed.StoreError, match="is damaged"):
        match.table()
    with pytest.raises(reseed.StoreError, match="is damaged"):
        match.certificates()
    run = study.runs[0]
    flip(study.folder / "runs" / run.id / "sae.safetensors")
    with pytest.raises(reseed.StoreError, match="is damaged"):
        run.sae()
    (study.folder / "summary.json").write_text("{")
    with pytest.raises(reseed.StoreError, match=r"summary.json cannot be read"):
        _ = study.summary


def test_load_names_the_damage(study, tmp_path):
    folder = study.folder / "runs" / study.runs[0].id
    with pytest.raises(reseed.SpecError, match="no SAE in a format that is known"):
        reseed.load(tmp_path)
    os.truncate(folder / "sae.safetensors", 100)
    with pytest.raises(reseed.StoreError, match="sae.safetensors"):
        reseed.load(folder)
    (folder / "cfg.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(reseed.SpecError, match="does not say format 'reseed'"):
        reseed.load(folder, format="reseed")


def test_a_stopped_harvest_is_not_taken_for_another(study, tree, tmp_path, faults):
    """Shards of another size lie over some of the old ones; then the old size is back."""
    before = tree(study.folder)

    def full(_name, _args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    text = (study.folder / "study.toml").read_text()
    own = tmp_path / "tiny.toml"
    own.write_text(text.replace("shard_blocks = 4", "shard_blocks = 2"))
    forget(study, "runs")
    with (
        faults.at_call(30, full, onwards=True),
        pytest.raises(reseed.StoreError, match="no space left"),
    ):
        reseed.run(Study.load(own), progress=False)
    parts = {p.name: json.loads((p / "piece.json").read_text())["made_from"]
             for p in (study.folder / "activations").iterdir()}  # fmt: skip
    assert len(set(parts.values())) == 2
    own.write_text(text)
    reseed.run(Study.load(own), progress=False)
    assert tree(study.folder) == before
