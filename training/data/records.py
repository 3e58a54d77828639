"""What people bring: records of JSON, JSONL and Parquet files, of folders of them and of datasets on the Hub; text.

A record is one object of such a file, with where it stands. What its keys mean is not known here.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from vllm_mtp.common.errors import InputError
from vllm_mtp.training.data.record_formats import (
    PARQUET,
    Fields,
    check_readable,
    hub_rows,
    is_hub,
    json_rows,
    parquet_rows,
    shown,
)

_JSON = (".json", ".jsonl", ".ndjson", ".jsonlines", ".jl")
_PROSE = ("", ".txt", ".text", ".md", ".markdown", ".rst", ".tex", ".html", ".log")
_SOURCE_CODE = (
    *(".c", ".cc", ".cpp", ".cs", ".css", ".cu", ".go", ".h", ".hpp", ".java", ".js", ".jsx", ".kt", ".lua"),
    *(".php", ".pl", ".py", ".r", ".rb", ".rs", ".scala", ".sh", ".sql", ".swift", ".ts", ".tsx"),
)
_TEXT = (*_PROSE, *_SOURCE_CODE)
_IN_FOLDERS = (*_JSON, *PARQUET, ".txt")
_NOT_DATA = ("readme", "license", "dataset_info.json", "dataset_infos.json", "run_info.json")
_MOST_KEPT = 5
FORMATS = "text (.txt), JSON, JSONL or Parquet files, folders of them, or hf://OWNER/NAME of the Hub"


class Record(NamedTuple):
    """One object of a file."""

    fields: Fields
    """Its keys and values."""
    where: str
    """File and line, as a reader finds it: "chats.jsonl:12"."""


class BadRecords:
    """What becomes of a record that cannot be used: an error, or, where bad ones are left out, one more of a count.

    Args:
        skip: leave bad records out.
    """

    def __init__(self, *, skip: bool = False) -> None:
        self.skip = skip
        self.num = 0
        """How many were left out."""
        self.errors: list[InputError] = []
        """What was wrong with the first of them."""

    def add(self, error: InputError) -> None:
        """Takes note of a bad record.

        Raises:
            InputError: the error itself, unless bad records are left out.
        """
        if not self.skip:
            raise error
        self.num += 1
        if len(self.errors) < _MOST_KEPT:
            self.errors.append(error)

    @property
    def first(self) -> str:
        """What was wrong with the first of all; empty where nothing was."""
        return self.errors[0].message if self.errors else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenRecords:
    """The records of one path, to be read once."""

    name: str
    records: Iterator[Record]
    bad: BadRecords
    """Those of them that could not be used so far."""
    unread: list[Path]
    """Files of which nothing was read so far, in order."""


def open_records(path: Path, files: Sequence[Path], field: str, *, skip_bad: bool = False) -> OpenRecords:
    """The records of a path's files, one file after another; nothing is read yet.

    Args:
        path: what the user gave.
        files: what `data_files` found there, without text.
        field: what errors are about.
        skip_bad: leave out and count what cannot be used.
    """
    bad, unread = BadRecords(skip=skip_bad), [*files]

    def of_all() -> Iterator[Record]:
        while unread:
            yield from read_records(unread.pop(0), field, bad)

    return OpenRecords(name=shown(path), records=of_all(), bad=bad, unread=unread)


def data_files(paths: Sequence[Path], field: str) -> list[Path]:
    """Every file of the paths in order, folders opened; a dataset of the Hub stands for itself.

    Raises:
        InputError: for a path that is not there, of a format that is not read or whose library is missing, or a folder
            without data.
    """
    found = [file for path in paths for file in _files_of(path, field)]
    for file in found:
        check_readable(file, field)
    return found


def _files_of(path: Path, field: str) -> list[Path]:
    if is_hub(path):
        return [path]
    if path.is_dir():
        return _files_in(path, field)
    if path.is_file():
        return [_of_known_format(path, field)]
    raise InputError(field, f"expected {FORMATS}, got {path}, which is no file")


def is_text(path: Path) -> bool:
    """Whether a file holds text, not records, by its name."""
    return not is_hub(path) and _ending(path) not in (*_JSON, *PARQUET)


def read_records(path: Path, field: str, bad: BadRecords | None = None) -> Iterator[Record]:
    """Every record of a file or of a dataset of the Hub, in order, read as it is asked for.

    Args:
        path: of `data_files`, and not text.
        field: what errors are about.
        bad: what becomes of lines that are no objects; None: the first is an error.

    Raises:
        InputError: for a file that cannot be read, holds no record, or has a bad one.
    """
    bad = bad or BadRecords()
    rows = _rows(path, field)
    first = next(rows, None)
    if first is None:
        bad.add(InputError(field, f"{shown(path)} holds no record: it is empty"))
        return
    for fields, where in itertools.chain([first], rows):
        if isinstance(fields, InputError):
            bad.add(fields)
        else:
            yield Record(fields, where)


def _rows(path: Path, field: str) -> Iterator[tuple[Fields | InputError, str]]:
    if is_hub(path):
        return hub_rows(path, field)
    if _ending(path) in PARQUET:
        return parquet_rows(path, field)
    return json_rows(path, field, is_document=_ending(path) == ".json")


def _ending(path: Path) -> str:
    """The last suffix in small letters, that before .gz where the file is compressed."""
    suffix = path.suffix.lower()
    return path.with_suffix("").suffix.lower() if suffix == ".gz" else suffix


def _of_known_format(path: Path, field: str) -> Path:
    ending = _ending(path)
    if ending not in (*_JSON, *PARQUET, *_TEXT) or (ending in PARQUET and path.suffix.lower() == ".gz"):
        raise InputError(field, f"expected {FORMATS}, got {path}: give plain text a name in .txt, convert the rest")
    return path


def _files_in(folder: Path, field: str) -> list[Path]:
    """Data in a folder and below it, by name; what a repository has beside its data is passed over."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not _is_beside_data(path, folder)]
    unknown = [path for path in files if _ending(path) not in _IN_FOLDERS]
    if unknown or not files:
        what = f"{unknown[0]} in it" if unknown else "no such file in it"
        kinds = "JSON, JSONL, Parquet or .txt files"
        raise InputError(field, f"expected a folder of {kinds}, or of `vllm-mtp generate`, got {folder}, {what}")
    return files


def _is_beside_data(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)
    return hidden or path.name.lower().startswith(_NOT_DATA)
