"""The formats that records come in, one function each: JSON and JSONL, Parquet, datasets of the Hub; and plain text.

Each yields (fields, where), or (error, where) for a row that is no object, so that a reader may go on behind it.
"""

import gzip
import itertools
import json
import zlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, cast

from vllm_mtp.common.errors import InputError
from vllm_mtp.training.data.chat.layouts import LAYOUTS

Fields = dict[str, Any]
Row = tuple[Fields | InputError, str]
_HUB = "hf:"
PARQUET = (".parquet", ".pq")
_EXTRA = "pip install 'vllm-mtp[data]'"
_OTHER_ENCODINGS = (b"\xff\xfe", b"\xfe\xff")
_UNREADABLE = (OSError, EOFError, zlib.error)
_BATCH = 256
"""Rows of a Parquet file in memory at a time."""
_SNIFFED_LINES = 3
_TEXTS = ("text", "question", "query")
"""Keys of a record, besides those of a layout's."""


def is_hub(path: Path) -> bool:
    """Whether a path is hf://OWNER/NAME[:[CONFIG:]SPLIT]; `Path` leaves one slash of two."""
    return str(path) == _HUB or str(path).startswith(f"{_HUB}/")


def shown(path: Path) -> str:
    """A path as it was typed."""
    return f"{_HUB}//{_hub_words(path)}" if is_hub(path) else str(path)


def _hub_words(path: Path) -> str:
    return str(path).removeprefix(_HUB).lstrip("/")


def opened(path: Path) -> IO[bytes]:
    """The bytes of a file, unpacked where its name ends in .gz."""
    return cast(IO[bytes], gzip.open(path)) if path.suffix.lower() == ".gz" else path.open("rb")


def content(path: Path, field: str) -> str:
    """The whole text of a file, without a byte order mark.

    Raises:
        InputError: if it cannot be read, is no UTF-8, or nothing is in it.
    """
    try:
        with opened(path) as file:
            text = file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(field, f"{path} is not UTF-8 text ({error.reason}): convert it") from error
    except _UNREADABLE as error:
        raise InputError(field, f"{path} cannot be read: {error}") from error
    if not text.strip():
        raise InputError(field, f"{path} is empty")
    return text


def read_text(path: Path, field: str) -> str:
    """`content` of a text file, with the line ends of any system made \\n.

    Raises:
        InputError: as `content`, and if JSON or binary data lie under the name of text.
    """
    text = content(path, field).replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in text:
        raise InputError(field, f"expected text in {path}, got binary data")
    if _is_json(text):
        raise InputError(field, f"expected text in {path}, got JSON: name it .jsonl (an object a line) or .json")
    return text


def _is_json(text: str) -> bool:
    """Whether a text is JSON as a whole, or its first lines are an object each."""
    if text.lstrip()[0] not in "[{":
        return False
    first = list(itertools.islice((line for line in text.split("\n") if line.strip()), _SNIFFED_LINES))
    return all(isinstance(_value(line), dict) for line in first) or isinstance(_value(text), dict | list)


def _value(text: str) -> Any:
    """What a JSON text says; an error where it says nothing."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        return error
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, brackets nested too deep
        return json.JSONDecodeError(str(error).partition(";")[0], text, 0)


def json_rows(path: Path, field: str, *, is_document: bool) -> Iterator[Row]:
    """Objects of a JSON file: one a line, or those of a list.

    JSON lines under the name of a document, and a list under the name of lines, are read as what they are.

    Args:
        path: of the file.
        field: what errors are about.
        is_document: what its name says: a list, or an object with one list; otherwise an object a line.

    Raises:
        InputError: for a file that cannot be read, or a document that is no JSON.
    """
    if is_document or _begins_with_list(path, field):
        text = content(path, field)
        value = _value(text)
        if not isinstance(value, json.JSONDecodeError):
            yield from _items(value, str(path), field)
            return
        if isinstance(_value(text.lstrip().partition("\n")[0]), json.JSONDecodeError):
            raise InputError(field, f"{path}:{value.lineno} is not valid JSON ({value.msg})")
    yield from _lines(path, field)


def _begins_with_list(path: Path, field: str) -> bool:
    try:
        with opened(path) as file:
            return file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["
    except _UNREADABLE as error:
        raise InputError(field, f"{path} cannot be read: {error}") from error


def _items(value: Any, where: str, field: str) -> Iterator[Row]:
    """The records of a document: its list's, those of the one list that its object has, or the object itself.

    An object that has text or a question of its own is a record, whatever list stands beside it.
    """
    for number, item in enumerate(_list_in(value), start=1):
        yield _checked(item, f"{where}, record {number}", field)


def _list_in(value: Any) -> list[Any]:
    if isinstance(value, dict):
        lists = [item for item in value.values() if _is_list_of_objects(item)]
        is_record = len(lists) != 1 or _are_messages(lists[0])
        return [value] if is_record or _says_something_beside(value, lists[0]) else list(lists[0])
    return value if isinstance(value, list) else [value]


def _says_something_beside(value: Fields, items: list[Any]) -> bool:
    return any(value.get(name) is not None and value[name] is not items for name in (*LAYOUTS, *_TEXTS))


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _are_messages(items: list[Any]) -> bool:
    """Whether objects are the messages of one conversation, which is a record itself."""
    return any(key in item for item in items for key in ("role", "from"))


def _lines(path: Path, field: str) -> Iterator[Row]:
    try:
        with opened(path) as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _line(line, f"{path}:{number}", field)
    except _UNREADABLE as error:
        raise InputError(field, f"{path} cannot be read: {error}") from error


def _line(line: bytes, where: str, field: str) -> Row:
    if line.startswith(_OTHER_ENCODINGS):
        raise InputError(field, f"{where} is not UTF-8 text (UTF-16 by its first bytes): convert the file")
    try:
        value = _value(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return InputError(field, f"{where} is not UTF-8 text ({error.reason})"), where
    if isinstance(value, json.JSONDecodeError):
        return InputError(field, f"{where} is not valid JSON ({value.msg})"), where
    return _checked(value, where, field)


def _checked(value: Any, where: str, field: str) -> Row:
    if isinstance(value, dict):
        return value, where
    return InputError(field, f"{where}: expected an object, got {json.dumps(value)[:60]}"), where


def check_readable(path: Path, field: str) -> None:
    """Finds a library that is missing, and a dataset that is spelled wrong, before anything is read.

    Raises:
        InputError: saying what to do.
    """
    library = "datasets" if is_hub(path) else "pyarrow" if path.suffix.lower() in PARQUET else None
    if is_hub(path):
        _hub_parts(path, field)
    if library is not None and find_spec(library) is None:
        raise InputError(field, f"expected {library} to read {shown(path)}, found none: {_EXTRA}")


def parquet_rows(path: Path, field: str) -> Iterator[Row]:
    """Rows of a Parquet file.

    Raises:
        InputError: for a file that is none or is damaged.
    """
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH):
                for fields in batch.to_pylist():
                    number += 1
                    yield fields, f"{path}, row {number}"
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(field, f"expected a Parquet file, got {path}, row {number + 1}: {reason}") from error


def hub_rows(path: Path, field: str) -> Iterator[Row]:
    """Rows of a dataset of the Hub, streamed: no more is fetched than is asked for.

    Args:
        path: hf://OWNER/NAME, with :SPLIT or :CONFIG:SPLIT behind it; without, the split is "train".
        field: what errors are about.

    Raises:
        InputError: for a dataset that the library does not give.
    """
    from datasets import load_dataset

    name, config, split = _hub_parts(path, field)
    number = 0
    try:
        for fields in load_dataset(name, config, split=split, streaming=True):
            number += 1
            yield dict(fields), f"{shown(path)}, row {number}"
    except Exception as error:  # its own, the Hub's, and those of what it downloads with have no common class
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(field, f"{shown(path)} cannot be read, row {number + 1}: {reason}") from error


def _hub_parts(path: Path, field: str) -> tuple[str, str | None, str]:
    """Name, config and split of hf://OWNER/NAME[:[CONFIG:]SPLIT]."""
    name, *more = _hub_words(path).split(":")
    if not name or len(more) > 2 or not all(more):
        raise InputError(field, f"expected hf://OWNER/NAME, :SPLIT or :CONFIG:SPLIT behind it, got {shown(path)}")
    return name, more[0] if len(more) == 2 else None, more[-1] if more else "train"
