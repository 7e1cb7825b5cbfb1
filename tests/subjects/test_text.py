import json

import polars as pl
import pytest

from reseed.errors import SpecError, SubjectError
from reseed.spec.subject import TextSpec
from reseed.subjects.language.documents import Document, read_documents

RECORDS = [{"title": "A", "body": "one", "topic": 1}, {"title": "B", "body": "zwei", "topic": None}]


def read(source, **more):
    return list(read_documents(TextSpec(source=str(source), **more)))


@pytest.mark.parametrize("name", ["r.jsonl", "r.json", "r.parquet"])
def test_records_become_documents(tmp_path, name):
    path = tmp_path / name
    if name == "r.jsonl":
        path.write_text("\n\n".join(map(json.dumps, RECORDS)) + "\n")
    elif name == "r.json":
        path.write_text(json.dumps(RECORDS))
    else:
        pl.DataFrame(RECORDS).write_parquet(path)
    got = read(path, template="{title}: {body}", label="topic")
    assert [(d.text, d.label) for d in got] == [("A: one", "1"), ("B: zwei", None)]
    assert all(d.origin.startswith(name + ":") for d in got)


def test_mapping_and_plain_texts(tmp_path):
    (tmp_path / "m.json").write_text(json.dumps({"x": RECORDS[0]}))
    assert read(tmp_path / "m.json", template="{body}") == [Document("one", None, "m.json#x")]
    (tmp_path / "l.json").write_text('["a", "b"]')
    assert [d.text for d in read(tmp_path / "l.json")] == ["a", "b"]


def test_folders_and_globs_are_read_in_the_order_of_names(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ["b.txt", "a.md", "sub/a.txt", "ignored.csv", "sub/empty.txt"]:
        (tmp_path / name).write_text("" if "empty" in name else name)
    assert [d.origin for d in read(tmp_path)] == ["a.md", "b.txt", "sub/a.txt"]
    assert [d.text for d in read(tmp_path / "**" / "*.txt")] == ["b.txt", "sub/a.txt"]
    with pytest.raises(SpecError, match=r"ignored\.csv is none of"):
        read(tmp_path / "*.*")


def test_missing_fields_teach(tmp_path):
    (tmp_path / "r.json").write_text(json.dumps(RECORDS))
    with pytest.raises(SpecError, match=r"r.json:0 has no field 'titel'; did you mean 'title'"):
        read(tmp_path / "r.json", template="{titel}")
    with pytest.raises(SpecError, match=r"text\.label.*'tropic'; did you mean 'topic'"):
        read(tmp_path / "r.json", template="{title}", label="tropic")
    for bad in ["{", "nothing", "{title.__class__}", "{}"]:
        with pytest.raises(SpecError, match=r"text\.template"):
            read(tmp_path / "r.json", template=bad)


def test_damage_is_named_with_file_and_line(tmp_path):
    (tmp_path / "r.jsonl").write_text('{"text": "a"}\n{"text": ')
    with pytest.raises(SubjectError, match=r"r\.jsonl, line 2 is not JSON"):
        read(tmp_path / "r.jsonl")
    (tmp_path / "n.jsonl").write_text('{"text": "a"}\n7\n')
    with pytest.raises(SubjectError, match=r"n\.jsonl, line 2 holds int"):
        read(tmp_path / "n.jsonl")
    (tmp_path / "r.json").write_text("[")
    with pytest.raises(SubjectError, match=r"r\.json is not JSON"):
        read(tmp_path / "r.json")
    (tmp_path / "latin.txt").write_bytes("Bär".encode("latin-1"))
    with pytest.raises(SubjectError, match=r"latin\.txt is not UTF-8 \(byte 1"):
        read(tmp_path / "latin.txt")
    (tmp_path / "p.parquet").write_bytes(b"PAR1")
    with pytest.raises(SubjectError, match="Parquet"):
        read(tmp_path / "p.parquet")
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(SubjectError, match="every document is empty"):
        read(tmp_path / "empty.txt")
    with pytest.raises(SubjectError, match="no such file"):
        read(tmp_path / "missing.txt")


def test_datasets_without_the_extra_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(SpecError, match=r"reseed\[datasets\]"):
        read("datasets:some/thing:train")
