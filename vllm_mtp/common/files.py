"""Files that are complete and on disk, or as they were, and JSON that is short and can be compared line by line."""

import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vllm_mtp.common.errors import InputError

_SECONDS_UNTIL_LEFT = 3600


def write_atomically(path: Path, content: str | bytes, *, shared: bool = False) -> None:
    """Writes a file so that neither a reader, a killed process nor a power cut leaves half of it.

    Args:
        path: of the file.
        content: all of it.
        shared: several processes may write this file at a time; the last one's stays.

    Raises:
        OSError: naming the file, which is as it was; for a full disk or a read-only folder.
    """
    with replacing(path, shared=shared) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """A path to write to, whose file takes the place of another one when it is whole and on disk.

    Args:
        path: of the file.
        shared: several processes may write this file at a time: each writes to a path of its own.

    Raises:
        OSError: naming the file, which is as it was; with the errno of what went wrong.
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp" if shared else f"{path.name}.tmp")
    try:
        yield temporary
        _to_disk(temporary)
        os.replace(temporary, path)
        with suppress(OSError):  # not every file system can do that with a folder
            _to_disk(path.parent)
    except OSError as error:
        named = OSError(f"{path} cannot be written: {error.strerror or error}")
        named.errno = error.errno
        raise named from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Deletes what killed writers of shared files left in a folder: temporary files that nobody wrote to for long."""
    for path in folder.glob("*.tmp"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _SECONDS_UNTIL_LEFT:
                path.unlink()


def _to_disk(path: Path) -> None:
    """Waits until a file's content, or a folder's names, would outlive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_own_file(path: Path, is_own: Callable[[], bool], what: str) -> None:
    """Refuses an output that is there already and is not what is written there, such as a target's own file.

    Args:
        path: the output.
        is_own: looks into the file.
        what: is written there.

    Raises:
        InputError: naming the file.
    """
    if path.is_dir():
        raise InputError("output", f"expected a file, got {path}, which is a folder")
    if not path.exists():
        return
    try:
        found = is_own()
    except (OSError, ValueError, TypeError):
        found = False
    if not found:
        raise InputError("output", f"{path} is something else than {what}: give another file")


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: naming the file, if it is cut or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def compact_json(value: Mapping[str, Any]) -> str:
    """JSON with a line for each key, and one for each object of a key's list of objects; ends in a newline."""
    lines = [f" {json.dumps(key)}: {_with_a_line_for_each_object(item)}" for key, item in value.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _with_a_line_for_each_object(value: Any) -> str:
    if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
        return json.dumps(value)
    return "[\n" + ",\n".join(f"  {json.dumps(item)}" for item in value) + "\n ]"
