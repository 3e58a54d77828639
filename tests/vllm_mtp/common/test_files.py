"""Text files that are written whole, and compact JSON.

Catches: half a file, a file that a power cut empties, JSON that other programs do not read, figures that change on the
way, a row that is spread over lines again.
"""

import errno
import json
import os
from pathlib import Path

import pytest

from tests.faults import files_of_at_most
from vllm_mtp.common.files import compact_json, read_json, remove_leftovers, replacing, write_atomically


def test_objects_of_a_list_have_a_line_each() -> None:
    value = {
        "made_with": 'a "command" of 5 µs',
        "rows": [{"k": 1, "speedup": [1.25, None]}, {"k": 2, "by": {"qa": 0.1 + 0.2}}],
        "nothing": [],
        "numbers": [1, 2.5],
        "mixed": [{"a": 1}, 2],
    }
    text = compact_json(value)
    assert json.loads(text) == value
    assert text.splitlines() == [
        "{",
        ' "made_with": "a \\"command\\" of 5 \\u00b5s",',
        ' "rows": [',
        '  {"k": 1, "speedup": [1.25, null]},',
        '  {"k": 2, "by": {"qa": 0.30000000000000004}}',
        " ],",
        ' "nothing": [],',
        ' "numbers": [1, 2.5],',
        ' "mixed": [{"a": 1}, 2]',
        "}",
    ]


def test_an_empty_object_is_valid() -> None:
    assert json.loads(compact_json({})) == {}


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text in ("first, longer", "zweite µ"):
        write_atomically(path, text)
    assert path.read_text(encoding="utf-8") == "zweite µ"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_on_disk_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a rename that reaches the disk before the content does: an empty file after a power cut."""
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor: int) -> None:
        done.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("replace"), replace(*paths)))
    write_atomically(tmp_path / "a.json", "{}")
    assert done == ["fsync a.json.tmp", "replace", f"fsync {tmp_path.name}"]


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, "old")
    with files_of_at_most(1000), pytest.raises(OSError, match=r"a\.json cannot be written: File too large"):
        write_atomically(path, "new" * 1000)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_a_shared_file_do_not_meet(tmp_path: Path) -> None:
    """Catches one that renames or deletes the file that the other one is still writing."""
    path = tmp_path / "a.json"
    with replacing(path, shared=True) as one:
        one.write_text("first")
        with replacing(path, shared=True) as other:
            other.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_leftovers_go_and_what_is_being_written_stays(tmp_path: Path) -> None:
    old, new, whole = (tmp_path / name for name in ("a.json.0a1b.tmp", "a.json.2c3d.tmp", "a.json"))
    for path in (old, new, whole):
        path.touch()
    for path in (old, whole):
        os.utime(path, (0, 0))
    remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == [whole, new]


def test_an_error_of_writing_keeps_its_number(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="cannot be written") as caught:
        write_atomically(tmp_path / "absent" / "a.json", "{}")
    assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize("text", ["", '{"a": 1', "[" * 100_000, "\udcff", "\0"])
def test_json_that_cannot_be_read_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"a\.json is not valid JSON: "):
        read_json(path)
