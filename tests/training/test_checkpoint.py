"""What a stopped training left is gone on from as it was written, or refused by name."""

import hashlib
import random
import shutil

import numpy as np
import pytest

from reseed.errors import Interrupted, StoreError
from reseed.events import Events
from reseed.spec.training import RunSpec, TrainingSpec
from reseed.store import Store, read_sealed, write_sealed
from reseed.subjects.arrays import MemorySource
from reseed.subjects.source import Stream
from reseed.training.scale import BatchStream
from reseed.training.stage import train_missing
from reseed.training.work import CHECKPOINT, Work

X = np.random.default_rng(0).standard_normal((400, 6)).astype(np.float32)
TRAINING = TrainingSpec(tokens=640, batch=32, checkpoint_tokens=160, snapshots=(0.3,))
RUNS = [
    RunSpec(
        data="", site="x", sae={"latents": 8, "k": 2}, training=TRAINING, init_seed=seed,
        data_seed=0,
    )
    for seed in (0, 1)
]  # fmt: skip


def stream_of(seed: int) -> BatchStream:
    source = MemorySource({"x": X})
    return BatchStream(Stream(source, np.arange(2), data_seed=seed, batch=32, mix=2), {"x": 0.4})


def train(folder) -> dict[str, str]:
    """All files of the runs, with their digests."""
    store = Store(folder)
    train_missing(RUNS, stream_of, store, Events())
    for run in RUNS:
        for file in ("cfg.json", "sae.safetensors", "metrics.parquet"):
            store.checked(f"runs/{run.id}", file)
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """The folder of a training that was stopped at its second checkpoint, after a snapshot."""
    folder, made = tmp_path / "stopped", []
    checkpoint = Work.checkpoint

    def stop(self) -> None:
        checkpoint(self)
        made.append(self)
        if len(made) == 4:
            raise Interrupted(15)

    monkeypatch.setattr(Work, "checkpoint", stop)
    with pytest.raises(Interrupted):
        train(folder)
    monkeypatch.undo()
    return folder


def test_a_flipped_bit_changes_nothing_or_is_named(stopped, tmp_path) -> None:
    whole, draw = train(tmp_path / "whole"), random.Random(0)
    shutil.copytree(stopped, tmp_path / "again")
    assert train(tmp_path / "again") == whole
    files = sorted(p for p in stopped.rglob("*") if p.is_file() and p.name != "progress.json")
    assert len(files) > 8
    refused = 0
    for number in range(40):
        folder = tmp_path / f"harmed{number}"
        shutil.copytree(stopped, folder)
        file = folder / files[number % len(files)].relative_to(stopped)
        content = bytearray(file.read_bytes())
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        file.write_bytes(content)
        try:
            assert train(folder) == whole
        except StoreError as error:
            refused += 1
            assert file.name in str(error)  # noqa: PT017
            assert "Delete" in str(error)  # noqa: PT017
    assert refused > 30


def test_the_checkpoint_of_another_run_is_refused(stopped) -> None:
    one, other = (next((stopped / "runs" / f"{run.id}.part").iterdir()) for run in RUNS)
    shutil.copy(one / CHECKPOINT, other / CHECKPOINT)
    with pytest.raises(StoreError, match=f"is of {RUNS[0].id}, and was put in the place of"):
        train(stopped)


def test_the_folder_of_another_run_is_refused(tmp_path) -> None:
    train(tmp_path)
    one, other = (tmp_path / "runs" / run.id for run in RUNS)
    shutil.rmtree(other)
    shutil.copytree(one, other)
    with pytest.raises(StoreError, match="put in this place"):
        train(tmp_path)


def test_arrays_come_back_with_what_they_belong_to(tmp_path) -> None:
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.array(3), "none": np.zeros((0, 2))}
    write_sealed(tmp_path / "x.safetensors", arrays, {"run": ["ä", 1]})
    back, about = read_sealed(tmp_path / "x.safetensors")
    assert about == {"run": ["ä", 1]}
    assert all(np.array_equal(back[name], array) for name, array in arrays.items())
    (tmp_path / "plain.safetensors").write_bytes(b"no")
    with pytest.raises(StoreError, match=r"plain\.safetensors cannot be read"):
        read_sealed(tmp_path / "plain.safetensors")
