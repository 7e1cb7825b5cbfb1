"""`summary.json` as records: read back as it was written, refused with other keys."""

import json

import pytest

from reseed.errors import StoreError
from reseed.spec.summary import SCHEMA_VERSION, Summary, document_of, read_record


def test_a_summary_is_read_as_it_was_written(finished) -> None:
    written = (finished / "summary.json").read_text("utf-8")
    document = json.loads(written)
    assert document["schema_version"] == SCHEMA_VERSION
    summary = read_record(Summary, document, "summary.json")
    assert document_of(summary) == document
    assert summary.groups[0].headline.shared["all"].value is not None


def test_another_key_names_its_place(finished) -> None:
    document = json.loads((finished / "summary.json").read_text("utf-8"))
    document["groups"][0]["headline"]["median"] = 0.5
    with pytest.raises(StoreError, match=r"summary.json .*groups\.0\.headline\.median.*writes it"):
        read_record(Summary, document, "summary.json")
