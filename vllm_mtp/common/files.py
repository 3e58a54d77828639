"""Files that are complete or not there at all."""

import os
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file so that a reader never sees half of it."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
