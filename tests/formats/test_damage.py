"""Damaged SAEs of every format: a clear error or a whole SAE, never anything else."""

import shutil
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reseed.errors import SpecError, StoreError
from reseed.formats import reading
from reseed.records import SAEArrays

NAMES = reading.names()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """For each format, the files of an SAE that was written in it."""
    rng = np.random.default_rng(0)
    kinds = ({"kind": "topk", "k": 3}, {"kind": "relu"}, {"kind": "jumprelu"})
    files = {}
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
                reading.write(folder, sae, name)
            except SpecError:
                continue
            files[name] = {
                path.relative_to(folder): path.read_bytes()
                for path in folder.rglob("*")
                if path.is_file()
            }
            break
    return files


def damage(content: bytes, data) -> bytes:
    changed = bytearray(content)
    if data.draw(st.booleans(), label="cut"):
        changed = changed[: data.draw(st.integers(0, len(changed)))]
    for _ in range(data.draw(st.integers(0, 3), label="bytes changed")):
        if changed:
            at = data.draw(st.integers(0, min(len(changed), 600) - 1))
            changed[at] = data.draw(st.sampled_from(b'0159"{}[],:.eNI\x00\xff'))
    return bytes(changed)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None)
@given(data=st.data())
def test_damage_ends_in_a_clear_error(tmp_path_factory, whole, name, data) -> None:
    if name not in whole:
        pytest.skip("it writes none of these kinds")
    folder = tmp_path_factory.mktemp("damaged") / "sae-L0_3"
    victim = data.draw(st.sampled_from(sorted(whole[name])))
    for file, content in whole[name].items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(damage(content, data) if file == victim else content)
    tracemalloc.start()
    try:
        assert set(reading.recognise(folder)) <= set(NAMES)
        sae = reading.read(folder, format=name)
    except (SpecError, StoreError):
        pass
    else:
        assert sae.W_enc.shape == (12, 6)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        shutil.rmtree(folder.parent)
    assert peak < 50e6
