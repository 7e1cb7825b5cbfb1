"""Damaged SAEs of every format: a clear error or a whole SAE, never anything else."""

import shutil
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reseed.errors import SpecError, StoreError
from reseed.formats import read
from reseed.records import SAEArrays

NAMES = read.names()


class Whole(dict):
    """Files by name; short when a failing test prints it."""

    def __repr__(self) -> str:
        return f"Whole({sorted(self)})"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """For each format, the files of an SAE that was written in it."""
    rng = np.random.default_rng(0)
    kinds = ({"kind": "topk", "k": 3}, {"kind": "relu"}, {"kind": "jumprelu"})
    files = Whole()
    for name in NAMES:
        for activation in kinds:
            # one format keeps k in the name of the folder
            folder = tmp_path_factory.mktemp("whole") / "sae-L0_3"
            sae = SAEArrays(
                W_enc=rng.normal(size=(12, 6)).astype(np.float32),
                b_enc=np.zeros(12, np.float32),
                W_dec=rng.normal(size=(12, 6)).astype(np.float32),
                b_dec=np.zeros(6, np.float32),
                activation=activation,
                threshold=np.ones(12, np.float32) if activation["kind"] == "jumprelu" else None,
                about={},
            )
            try:
                read.write(folder, sae, name)
            except SpecError:
                continue
            files[name] = {
                path.relative_to(folder): path.read_bytes()
                for path in folder.rglob("*")
                if path.is_file()
            }
            break
    return files


SHARE = st.floats(0, 1, exclude_max=True)
DAMAGE = st.tuples(
    st.none() | SHARE,
    st.lists(st.tuples(SHARE, st.sampled_from(list(b'0159"{}[],:.eNI\x00\xff'))), max_size=3),
)
"""Where to cut, as a share of the length, and bytes to change near the start, where headers are."""


def damaged(content: bytes, where) -> bytes:
    cut, changes = where
    changed = bytearray(content if cut is None else content[: int(cut * len(content))])
    for share, byte in changes:
        if changed:
            changed[int(share * min(len(changed), 600))] = byte
    return bytes(changed)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None)
@given(victim=SHARE, where=DAMAGE)
def test_damage_ends_in_a_clear_error(tmp_path_factory, whole, name, victim, where) -> None:
    if name not in whole:
        pytest.skip("it writes none of these kinds")
    folder = tmp_path_factory.mktemp("damaged") / "sae-L0_3"
    chosen = sorted(whole[name])[int(victim * len(whole[name]))]
    for file, content in whole[name].items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(damaged(content, where) if file == chosen else content)
    tracemalloc.start()
    try:
        assert set(read.recognise(folder)) <= set(NAMES)
        sae = read.read(folder, format=name)
    except (SpecError, StoreError):
        pass
    else:
        assert sae.W_enc.shape == (12, 6)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        shutil.rmtree(folder.parent)
    assert peak < 50e6
