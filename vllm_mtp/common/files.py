"""Files that are complete or not there at all, and JSON that is short and can be compared line by line."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file so that a reader never sees half of it."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def compact_json(value: Mapping[str, Any]) -> str:
    """JSON with a line for each key, and one for each object of a key's list of objects; ends in a newline."""
    lines = [f" {json.dumps(key)}: {_with_a_line_for_each_object(item)}" for key, item in value.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _with_a_line_for_each_object(value: Any) -> str:
    if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
        return json.dumps(value)
    return "[\n" + ",\n".join(f"  {json.dumps(item)}" for item in value) + "\n ]"
