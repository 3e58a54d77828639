"""Files of records in every format and spelling, and what is said of those that cannot be read.

Catches: a record that is lost or read twice, JSON taken for text, a file refused for how its name is spelled, a
traceback or silence for one that cannot be read.
"""

import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vllm_mtp.training.data.records import BadRecords, Record, data_files, is_text, read_records

RECORDS: list[dict[str, Any]] = [{"text": "one\u2028two"}, {"messages": [{"role": "user", "content": "ä"}]}]


def lines_of(records: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def fields(path: Path, bad: BadRecords | None = None) -> list[dict[str, Any]]:
    return [record.fields for record in read_records(path, "data", bad)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", lines_of(RECORDS)),
        ("a.JSONL", lines_of(RECORDS)),
        ("a.ndjson", b"\n" + lines_of(RECORDS).replace(b"\n", b"\r\n\r\n")),
        ("a.jsonl", b"\xef\xbb\xbf" + lines_of(RECORDS)),
        ("a.jsonl.gz", gzip.compress(lines_of(RECORDS), mtime=0)),
        ("a.json", json.dumps(RECORDS).encode()),
        ("a.Json", b"\xef\xbb\xbf" + json.dumps(RECORDS, indent=1).encode()),
        ("a.json.gz", gzip.compress(json.dumps({"version": 1, "data": RECORDS}).encode())),
        ("a.json", lines_of(RECORDS)),
        ("a.jsonl", json.dumps(RECORDS, indent=1).encode()),
    ],
)
def test_every_spelling_of_json(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert data_files([path], "data") == [path]
    assert not is_text(path)
    assert fields(path) == RECORDS


def test_one_record_is_not_taken_for_its_list(tmp_path: Path) -> None:
    """Catches the messages of one conversation taken for records of their own."""
    for record in (RECORDS[1], {"conversations": [{"from": "human", "value": "x"}], "tools": [{"name": "f"}]}):
        (tmp_path / "one.json").write_text(json.dumps(record, indent=2))
        assert fields(tmp_path / "one.json") == [record]


@pytest.mark.parametrize("key", ["prompt", "instruction", "question", "text"])
def test_tools_beside_a_question_are_no_records(tmp_path: Path, key: str) -> None:
    """Catches one record taken for a list of its tools."""
    record = {key: "x", "tools": [{"name": "f"}, {"name": "g"}]}
    (tmp_path / "one.json").write_text(json.dumps(record))
    assert fields(tmp_path / "one.json") == [record]


def test_records_say_where_they_stand(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\n" + lines_of(RECORDS))
    (tmp_path / "b.json").write_text(json.dumps(RECORDS))
    found = [*read_records(tmp_path / "a.jsonl", "data"), *read_records(tmp_path / "b.json", "data")]
    places = ["a.jsonl:2", "a.jsonl:3", "b.json, record 1", "b.json, record 2"]
    assert [record.where for record in found] == [f"{tmp_path}/{place}" for place in places]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "holds no record"),
        ("a.json", b" \n", "is empty"),
        ("a.json", b"[]", "holds no record"),
        ("a.json", b'[{"text": "a"},\n {"text": ]', r"a\.json:2 is not valid JSON"),
        ("a.json", b'"text"', "record 1: expected an object, got"),
        ("a.json", b'["text"]', "record 1: expected an object, got"),
        ("a.json", b"[" * 200_000, "is not valid JSON"),
        ("a.jsonl", b'{"text": ' + b"[" * 200_000 + b"\n", r"a\.jsonl:1 is not valid JSON"),
        ("a.jsonl", b'{"n": ' + b"9" * 5000 + b"}\n", r"a\.jsonl:1 is not valid JSON"),
        ("a.jsonl", '{"text": "a"}\n'.encode("utf-16"), "is not UTF-8 text"),
        ("a.json", '{"text": "ä"}'.encode("latin-1"), "is not UTF-8 text"),
        ("a.jsonl.gz", b"text", "cannot be read"),
        ("a.jsonl.gz", gzip.compress(lines_of(RECORDS) * 99, mtime=0)[:-20], "cannot be read"),
        ("a.jsonl", b"PK\x03\x04\xff\xfe", r"a\.jsonl:1 is not"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"^data: .*{message}") as caught:
        fields(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_bad_lines_are_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\n{"text"\n[]\n{"text": "\xff"}\n{"text": "b"}\n')
    bad = BadRecords(skip=True)
    assert fields(path, bad) == [{"text": "a"}, {"text": "b"}]
    assert bad.num == 3
    places = [f"{path}:{number}" in error.message for number, error in zip((2, 3, 4), bad.errors, strict=True)]
    assert places == [True] * 3


@pytest.mark.parametrize("name", ["a.csv", "a.xyz", "a.zip", "a.arrow", "a.yaml", "a.jsonl.zst", "a.parquet.gz"])
def test_a_format_that_is_not_read_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("text")
    with pytest.raises(ValueError, match=rf"^data: expected text .* Parquet files, .* got .*{name}"):
        data_files([tmp_path / name], "data")


def test_a_folder_is_its_files(tmp_path: Path) -> None:
    """Catches a README, a cache or a hidden file trained on as data."""
    names = ["b.jsonl", "a.json", "data/c.jsonl.gz", "d.txt"]
    others = ["README.md", ".gitattributes", ".cache/e.json", "LICENSE", "dataset_info.json"]
    for name in (*names, *others):
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = data_files([tmp_path / "set"], "data")
    assert [path.relative_to(tmp_path / "set").as_posix() for path in found] == sorted(names)
    (tmp_path / "set" / "e.csv").touch()
    (tmp_path / "empty").mkdir()
    for name, message in (("set", r"e\.csv in it"), ("empty", "no such file in it"), ("absent", "is no file")):
        with pytest.raises(ValueError, match=message):
            data_files([tmp_path / name], "data")


def test_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    records = [{"messages": [{"role": "user", "content": str(number)}]} for number in range(600)]
    path = tmp_path / "a.parquet"
    write_table(pyarrow.Table.from_pylist(records), path)
    found = list(read_records(path, "data"))
    assert [record.fields for record in found] == records
    assert found[-1].where == f"{path}, row 600"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"^data: expected a Parquet file, got .*a\.parquet"):
        fields(path)


@pytest.mark.parametrize(("name", "library"), [("a.parquet", "pyarrow"), ("hf://owner/name", "datasets")])
def test_a_library_that_is_not_there_is_named(
    tmp_path: Path, name: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.parquet").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ValueError, match=rf"^data: expected {library} to read .*pip install 'vllm-mtp\[data\]'"):
        data_files([Path(name)], "data")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[Record]]:
    """Reads what the `datasets` library finds under owner/name: a folder of the working directory, as on the Hub."""
    pytest.importorskip("datasets")
    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    for split, number in (("train", 3), ("test", 2)):
        (folder / f"{split}.jsonl").write_text("".join(f'{{"text": "{split} {i}"}}\n' for i in range(number)))
    monkeypatch.chdir(tmp_path)
    return lambda name: list(read_records(Path(name), "data"))


def test_a_dataset_of_the_hub(hub: Callable[[str], list[Record]]) -> None:
    path = Path("hf://owner/name")
    assert data_files([path], "data") == [path]
    assert not is_text(path)
    train = hub("hf://owner/name")
    assert [record.fields for record in train] == [{"text": f"train {i}"} for i in range(3)]
    assert train[2].where == "hf://owner/name, row 3"
    assert [record.fields["text"] for record in hub("hf://owner/name:test")] == ["test 0", "test 1"]
    assert len(hub("hf://owner/name:default:test")) == 2
    for name in ("hf://owner/absent", "hf://owner/name:absent", "hf://owner/name:a:b:c", "hf://"):
        with pytest.raises(ValueError, match=rf"^data: .*{name}"):
            hub(name)
