"""Measured rows on disk, one file each: what an interrupted benchmark has done is not done again."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vllm_mtp.common.errors import InputError
from vllm_mtp.common.files import write_atomically
from vllm_mtp.training.config import differences
from vllm_mtp.training.frozen.target import serving_dtype


class RowStore:
    """A folder of rows that were made with the same settings.

    Args:
        folder: created if it is missing.
        settings: everything that decides the figures, for each kind of row. A folder with rows of other settings is
            refused, since a table of both would compare what cannot be compared.

    Raises:
        ValueError: naming every setting that differs, with its value then and now.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Mapping[str, Any]]) -> None:
        if folder.exists() and not folder.is_dir():
            raise InputError("output", f"expected a folder, got {folder}, which is a file")
        self._rows = folder / "rows"
        self._settings = settings
        self._rows.mkdir(parents=True, exist_ok=True)
        for path in sorted(self._rows.glob("*.json")):
            stored = _read(path)
            if stored["kind"] in settings:
                _check_same(stored["settings"], settings[stored["kind"]], path)

    def __contains__(self, name: str) -> bool:
        return self._path(name).exists()

    def load(self, name: str) -> dict[str, Any]:
        """The content of a row, as it was saved."""
        return _content(_read(self._path(name)))

    def save(self, name: str, kind: str, content: Mapping[str, Any]) -> None:
        """Writes a row, complete or not at all, with the settings of its kind."""
        stored = {"kind": kind, "settings": self._settings[kind], **content}
        write_atomically(self._path(name), json.dumps(stored) + "\n")

    def all(self) -> list[tuple[str, dict[str, Any]]]:
        """(kind, content) of all rows in the folder, also those that were not asked for this time."""
        paths = sorted(self._rows.glob("*.json"), key=lambda path: path.stem)
        return [(stored["kind"], _content(stored)) for stored in map(_read, paths)]

    def _path(self, name: str) -> Path:
        return self._rows / f"{name}.json"


def serving_dtype_of(folder: Path, dtype: str, target: str, **source: Any) -> str:
    """What "auto" stands for: the dtype of the rows in a folder, or the faster one by a probe.

    A probe that comes out otherwise the second time must not make the rows of the first time useless.
    """
    for path in sorted((folder / "rows").glob("*.json")) if dtype == "auto" else ():
        if stored := _read(path)["settings"].get("dtype"):
            return str(stored)
    return serving_dtype(target, dtype, **source)


def origins_of(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Where rows come from, each origin once: those of a folder may be of several commands or commits."""
    found: list[dict[str, Any]] = []
    for row in rows:
        if row["made_with"] not in found:
            found.append(row["made_with"])
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        content["kind"], content["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); remove it to have it measured again") from error
    return content


def _content(stored: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in stored.items() if key not in ("kind", "settings")}


def _check_same(stored: Mapping[str, Any], settings: Mapping[str, Any], path: Path) -> None:
    now = json.loads(json.dumps(settings))
    differing = differences(sorted({*stored, *now}), stored, now)
    if differing:
        raise InputError(
            "output",
            f"{path.parent.parent} holds rows of other settings ({'; '.join(differing)}). "
            "Give another folder, or the same settings.",
        )
