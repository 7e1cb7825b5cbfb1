import json
from types import SimpleNamespace

import polars as pl
import pytest

from reseed.errors import SpecError, SubjectError
from reseed.spec.subject import TextSpec
from reseed.subjects.language.documents import (
    Document,
    check_text,
    read_documents,
    shuffled_documents,
)

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


def test_a_missing_text_is_no_document(tmp_path):
    lines = ['{"text": NaN}', '{"text": null}', '{"text": "real"}', '{"text": 7.5}']
    (tmp_path / "r.jsonl").write_text("\n".join(lines))
    assert [d.text for d in read(tmp_path / "r.jsonl")] == ["real", "7.5"]
    pl.DataFrame({"text": [None, "real"], "x": [float("nan"), 1.0]}).write_parquet(
        tmp_path / "r.parquet"
    )
    assert [d.text for d in read(tmp_path / "r.parquet")] == ["real"]
    assert [d.text for d in read(tmp_path / "r.parquet", template="{x}")] == ["1.0"]
    # a template's own words make no document of nothing
    assert [d.text for d in read(tmp_path / "r.parquet", template="Q: {text}")] == ["Q: real"]
    (tmp_path / "l.json").write_text('[{"text": "a", "topic": NaN}]')
    assert read(tmp_path / "l.json", label="topic")[0].label is None


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([{"role": "user", "content": "hi"}], "special_tokens = 'parse'"),
        ([{"from": "human", "value": "hi"}], r"\{role, content\}"),
        ([1, 2], "text.ids = 'text'"),
        ({"a": 1}, "holds dict"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path, value, says):
    (tmp_path / "r.jsonl").write_text(json.dumps({"text": value}))
    with pytest.raises(SubjectError, match=rf"r\.jsonl:1.*{says}"):
        read(tmp_path / "r.jsonl")
    (tmp_path / "l.json").write_text(json.dumps([{"text": "a", "l": value}]))
    with pytest.raises(SubjectError, match=r"text\.label: field 'l' of record l\.json:0 holds"):
        read(tmp_path / "l.json", label="l")
    pl.DataFrame({"text": [b"bytes"]}).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(SubjectError, match="holds bytes"):
        read(tmp_path / "b.parquet")


@pytest.mark.parametrize("folder", ["exp[1]", "what?", "a*b", "#1 [x]"])
@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet", "txt"])
def test_names_that_look_like_globs_are_read_as_they_are(tmp_path, folder, ending):
    for name, text in ((folder, "right"), ("exp1", "wrong"), ("what1", "wrong"), ("aab", "wrong")):
        path = tmp_path / name / f"t[1].{ending}"
        path.parent.mkdir()
        for there, content in ((path, text), (path.with_name(f"t1.{ending}"), "wrong")):
            if ending == "parquet":
                pl.DataFrame({"text": [content]}).write_parquet(there)
            else:
                there.write_text(content if ending == "txt" else json.dumps([content])[1:-1])
    source = tmp_path / folder / f"t[1].{ending}"
    if ending == "json":
        source.write_text('["right"]')
    for way in (source, source.parent / f"t[1].*{ending[-1]}", source.parent / f"?[1].{ending}"):
        assert [d.text for d in read(way)] == ["right"]
    with pytest.raises(SubjectError, match="no such file"):
        read(tmp_path / folder / f"t[1-9].{ending}")


def test_paths_may_begin_with_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "t.txt").write_text("at home")
    assert [d.text for d in read("~/t.txt")] == ["at home"]
    assert [d.text for d in read("~/*.txt")] == ["at home"]
    with pytest.raises(SubjectError, match="no such file"):
        read("~nobody-of-this-name/t.txt")


def test_halves_of_surrogate_pairs_are_replaced(tmp_path):
    (tmp_path / "r.jsonl").write_text(
        '{"text": "cut \\ud83d here", "l": "\\ud83d"}\n{"text": "a \\ud83d\\ude00"}'
    )
    got = read(tmp_path / "r.jsonl", label=None)
    assert [(d.text, d.mended) for d in got] == [("cut \ufffd here", True), ("a \U0001f600", False)]
    (tmp_path / "r.json").write_text('{"\\ud83d": {"text": "a", "l": "\\udead"}}')
    assert read(tmp_path / "r.json", label="l") == [Document("a", "\ufffd", "r.json#\ufffd")]


@pytest.mark.parametrize("bad", ["{text:d}", "{text!x}", "{text!r}", "{text:{text}}", "{text:>99}"])
def test_templates_are_fields_in_braces(tmp_path, bad):
    (tmp_path / "t.json").write_text('["a"]')
    with pytest.raises(SpecError, match=r"text\.template"):
        check_text(TextSpec(source=str(tmp_path / "t.json"), template=bad))


def test_deep_nesting_is_refused(tmp_path):
    deep = "[" * 100_000 + "]" * 100_000
    (tmp_path / "d.jsonl").write_text(f'{{"text": "a"}}\n{{"text": {deep}}}')
    with pytest.raises(SubjectError, match=r"d\.jsonl, line 2 is nested too deeply"):
        read(tmp_path / "d.jsonl")
    (tmp_path / "d.json").write_text(deep)
    with pytest.raises(SubjectError, match=r"d\.json is nested too deeply"):
        read(tmp_path / "d.json")


@pytest.mark.parametrize("part", [1, 2, 7, 1 << 20])
def test_json_in_parts_is_what_it_is_as_a_whole(tmp_path, monkeypatch, part):
    monkeypatch.setattr("reseed.subjects.language.corpus._READ_CHARACTERS", part)
    texts = ["a", 'Bär\n\\"', "[1, {", ""]
    path = tmp_path / "r.json"
    for indent in (None, 3):
        path.write_text(
            json.dumps({t: {"text": f"{t}!", "n": [-1.5e3]} for t in texts}, indent=indent)
        )
        assert [d.text for d in read(path)] == [t + "!" for t in texts]
        path.write_text(json.dumps([{"text": t + "!"} for t in texts], indent=indent) + "\n")
        assert [d.text for d in read(path)] == [t + "!" for t in texts]
    for broken in ('["a"', '["a" "b"]', '["a",]', '{"a": ["b"}', '["a"] x', '{1: "a"}', "", "["):
        path.write_text(broken)
        with pytest.raises(SubjectError, match="is not JSON"):
            read(path)
    for lone in ("12", '"a"', "true"):
        path.write_text(lone)
        with pytest.raises(SubjectError, match="not a list or mapping"):
            read(path)
    path.write_text("[12345]")
    with pytest.raises(SubjectError, match="holds int"):
        read(path)


def test_a_large_text_is_in_the_order_of_a_small_one(tmp_path):
    (tmp_path / "t.json").write_text(json.dumps([f"{i} " * (1 + i % 7) for i in range(200)]))
    spec = TextSpec(source=str(tmp_path / "t.json"), seed=3)
    plain = list(shuffled_documents(spec, 100))
    assert list(shuffled_documents(spec, 100, held=64)) == plain
    assert list(shuffled_documents(spec, 1, held=1)) == plain


def test_a_text_is_checked_by_its_beginning(tmp_path):
    (tmp_path / "r.jsonl").write_text('{"body": "a"}\nnot JSON')
    check_text(TextSpec(source=str(tmp_path / "r.jsonl"), template="{body}"))
    with pytest.raises(SpecError, match="no field 'text'"):
        check_text(TextSpec(source=str(tmp_path / "r.jsonl")))
    with pytest.raises(SubjectError, match="no such file"):
        check_text(TextSpec(source=str(tmp_path / "missing.jsonl")))


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("a/b", ("a/b", None, "train")),
        ("a/b:test", ("a/b", None, "test")),
        ("a/b:raw:test", ("a/b", "raw", "test")),
        ("a/b:raw:", ("a/b", "raw", "train")),
    ],
)
def test_data_sets_have_configurations(monkeypatch, name, asked):
    calls = []

    def load_dataset(path, configuration, *, split, streaming):
        calls.append((path, configuration, split))
        return [{"text": "a"}]

    library = SimpleNamespace(load_dataset=load_dataset)
    monkeypatch.setitem(__import__("sys").modules, "datasets", library)
    assert [d.origin for d in read(f"datasets:{name}")] == ["a/b:0"]
    assert calls == [asked]
    with pytest.raises(SpecError, match="CONFIGURATION"):
        read("datasets:a:b:c:d")
