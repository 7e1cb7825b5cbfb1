"""References to the hub, against a stand-in for huggingface_hub; nothing here uses a network."""

import sys
import types

import pytest

from reseed.errors import SpecError
from reseed.formats import read
from reseed.formats.hub import resolve

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A stand-in whose cache holds one snapshot; records what it was asked for."""
    snapshot = tmp_path / "models--me--saes" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    module = types.ModuleType("huggingface_hub")
    module.asked, module.error = [], None

    def snapshot_download(repo, **options):
        module.asked.append((repo, options))
        if module.error:
            raise module.error
        return str(snapshot)

    module.snapshot_download, module.folder = snapshot_download, snapshot
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return module


def test_a_place_in_a_repository(hub, make) -> None:
    read.write(hub.folder / "layers.6.mlp", make("topk"), "sparsify")
    sae = read.read("hf:me/saes/layers.6.mlp@v1")
    assert sae.about["source"] == "hf:me/saes/layers.6.mlp@v1"
    assert sae.about["revision"] == COMMIT
    ((repo, options),) = hub.asked
    assert (repo, options["revision"]) == ("me/saes", "v1")
    assert "layers.6.mlp/*" in options["allow_patterns"]
    assert "*optimizer*" in options["ignore_patterns"]


def test_a_file_comes_with_the_settings_beside_it(hub, make) -> None:
    read.write(hub.folder / "trainer_0", make("topk"), "dictionary_learning")
    read.read("hf:me/saes/trainer_0/ae.pt")
    assert "trainer_0/config.json" in hub.asked[0][1]["allow_patterns"]
    assert hub.asked[0][1]["revision"] is None


def test_a_whole_repository_is_not_fetched(hub, make) -> None:
    read.write(hub.folder, make("topk"), "sparsify")
    read.read("hf:me/saes")
    assert not any("*" in pattern for pattern in hub.asked[0][1]["allow_patterns"])


@pytest.mark.parametrize("error", [FileNotFoundError("offline"), ValueError("gone"), OSError("x")])
def test_what_cannot_be_fetched_says_what_to_download(hub, error) -> None:
    hub.error = error
    with pytest.raises(SpecError, match=r"https://huggingface\.co/me/saes/tree/v1/a/b.*cache"):
        resolve("hf:me/saes/a/b@v1")


def test_a_path_that_the_repository_lacks(hub) -> None:
    with pytest.raises(SpecError, match="has no layers.7"):
        resolve("hf:me/saes/layers.7")


@pytest.mark.parametrize("name", ["hf:", "hf:me", "hf:me/saes@", "hf:me/saes/../x", "hf:/a/b"])
def test_malformed_references(hub, name) -> None:
    with pytest.raises(SpecError, match="hf:OWNER/REPO"):
        resolve(name)
    assert hub.asked == []


def test_without_the_library_it_says_so(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(SpecError, match=r"pip install huggingface_hub.*tree/main/a"):
        resolve("hf:me/saes/a")


def test_the_real_library_offline_and_with_an_empty_cache(python, tmp_path) -> None:
    pytest.importorskip("huggingface_hub")
    code = f"""
import os
os.environ |= {{"HF_HUB_OFFLINE": "1", "HF_HOME": {str(tmp_path)!r}}}
from reseed.errors import SpecError
from reseed.formats.hub import resolve
try:
    resolve("hf:me/saes/a@v1")
except SpecError as error:
    print(error)
"""
    done = python("-c", code)
    assert "tree/v1/a" in done.stdout, done.stderr


def test_local_paths_stay_as_they_are(tmp_path) -> None:
    place = resolve(tmp_path)
    assert (place.path, place.revision) == (tmp_path, None)
