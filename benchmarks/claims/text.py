"""General text for the claims study: documentation of the Debian packages of this machine, under free licences.

A package counts if its copyright file is machine-readable and names free licences only. The text stays on the machine:
a drafter is trained on it, nothing of it is published.
"""

import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vllm_mtp.common.errors import InputError
from vllm_mtp.common.files import write_atomically

FOLDER = Path("/usr/share/doc")
_FREE = re.compile(
    r"expat|mit|x11|isc|zlib|libpng|curl|apache-2\.0|bsl-1\.0|fsfap|fsfullr|permissive|public-domain|artistic[-0-9.]*"
    r"|(bsd|cc0|psf|python|openldap|unicode)[-0-9a-z.]*|(gpl|lgpl)[-v0-9.]*\+?|mpl-[12]\.[01]",
    re.IGNORECASE,
)
_SUFFIXES = (".txt", ".md", ".rst")
_CHARACTERS = (500, 200_000)  # of a file: shorter ones are pointers to other files, of longer ones the beginning


def write_documentation(output: Path, folder: Path = FOLDER) -> dict[str, Any]:
    """Writes JSONL, one document a line with its "path" and "text", in the order of the hash of the path.

    Returns:
        Counts of packages, documents and characters, and the packages' names.

    Raises:
        ValueError: where there is no such documentation.
    """
    found = sorted(documents(folder), key=lambda document: hashlib.sha256(document[0].encode()).hexdigest())
    if not found:
        raise InputError(
            "general",
            f"expected documentation of Debian packages with free licences in {folder}, found none (this machine is "
            "no Debian, or was installed without documentation). Give text or JSONL files.",
        )
    lines = [json.dumps({"path": path, "text": text}) for path, text in found]
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, "\n".join(lines) + "\n")
    packages = sorted({path.split("/")[0] for path, _ in found})
    counts = {"num_packages": len(packages), "num_documents": len(found)}
    return counts | {"num_characters": sum(len(text) for _, text in found), "packages": packages}


def documents(folder: Path) -> Iterator[tuple[str, str]]:
    """(path below the folder, text) of every README, NEWS, text and Markdown file of a package with free licences."""
    for package in sorted(path for path in folder.glob("*") if path.is_dir() and not path.is_symlink()):
        copyright_file = package / "copyright"
        if not copyright_file.is_file() or not is_free(copyright_file.read_text(encoding="utf-8", errors="replace")):
            continue
        for path in sorted(package.rglob("*")):
            if path.is_file() and not path.is_symlink() and _is_documentation(path):
                text = _read(path)
                if len(text) >= _CHARACTERS[0]:
                    yield path.relative_to(folder).as_posix(), text[: _CHARACTERS[1]]


def is_free(copyright_text: str) -> bool:
    """Whether a machine-readable copyright file names licences, and free ones only."""
    first, _, rest = copyright_text.partition("\n")
    if "copyright-format" not in first:
        return False
    fields = [line.partition(":")[2] for line in rest.splitlines() if line.startswith("License:")]
    names = [name.strip() for text in fields for name in re.split(r"\s+(?:and/or|and|or)\s+|,", text)]
    return bool(names) and all(_FREE.fullmatch(name) for name in names)


def _is_documentation(path: Path) -> bool:
    name = path.name.removesuffix(".gz")
    return name.endswith(_SUFFIXES) or name.partition(".")[0] in ("README", "NEWS", "FAQ", "INTRO", "TUTORIAL")


def _read(path: Path) -> str:
    """A file's text; empty where it is none."""
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError):
        return ""
