"""docs/suites.md: a file in the suite's format, where the reference points, is read as that."""

import fnmatch
import re
import sys
import types
from pathlib import Path

import pytest

from reseed.formats import read
from reseed.formats.hub import resolve

PAGE = (Path(__file__).parent.parent.parent / "docs" / "suites.md").read_text("utf-8")
SUITES = re.findall(r"^\| .+ \| `(\w+)` \| `(hf:[^`]+)` \|$", PAGE, re.MULTILINE)


def test_every_format_is_on_the_page():
    assert set(re.findall(r"\| `(\w+)` \|", PAGE)) == set(read.names())
    assert len(SUITES) == PAGE.count("| `hf:")


@pytest.mark.parametrize(("format", "reference"), SUITES, ids=[name for _, name in SUITES])
def test_a_reference_leads_to_its_suite(format, reference, make, monkeypatch, tmp_path):
    owner, repo, *inner = reference.removeprefix("hf:").split("/")
    snapshot = tmp_path / f"models--{owner}--{repo}" / "snapshots" / ("0" * 40)
    place = snapshot.joinpath(*inner)
    place.parent.mkdir(parents=True)
    kinds = {one.name: one.kinds for one in read.FORMATS}[format]
    k = re.search(r"-L0_(\d+)", repo)
    sae = make("topk" if "topk" in kinds else "relu", F=64, k=int(k[1]) if k else 3)
    read.write(place, sae, format)
    files = [path for path in snapshot.rglob("*") if path.is_file()]
    written = {path.relative_to(snapshot).as_posix() for path in files}

    def snapshot_download(name, *, allow_patterns, ignore_patterns, revision):
        assert (name, revision) == (f"{owner}/{repo}", None)
        assert {path for one in allow_patterns for path in fnmatch.filter(written, one)} == written
        assert not [path for one in ignore_patterns for path in fnmatch.filter(written, one)]
        return str(snapshot)

    hub = types.ModuleType("huggingface_hub")
    hub.snapshot_download = snapshot_download
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert read.recognise(resolve(reference).path) == [format]
    assert read.read(reference).about["source"] == reference
