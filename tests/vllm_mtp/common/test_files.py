"""Text files that are written whole, and compact JSON.

Catches: JSON that other programs do not read, figures that change on the way, a row that is spread over lines again.
"""

import json
from pathlib import Path

from vllm_mtp.common.files import compact_json, write_atomically


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
