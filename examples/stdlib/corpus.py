"""The text behind the shipped target: the source of Python's standard library, split by file.

A file is held out when the hash of its path says so, so that every machine (and every Python version)
agrees on the split and neither the target nor a drafter ever trains on a prompt's file.

    python examples/stdlib/corpus.py --split train --output runs/demo/train.jsonl
"""

import argparse
import hashlib
import json
import sysconfig
from pathlib import Path

HELD_OUT_ONE_IN = 20
_SKIPPED_FOLDERS = {"site-packages", "dist-packages", "__pycache__", "encodings", "cjkencodings", "idlelib"}
_MAX_FILE_BYTES = 400_000  # larger ones are tables, not code


def stdlib_folder() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def path_hash(relative_path: str) -> int:
    return int(hashlib.sha256(relative_path.encode()).hexdigest(), 16)


def is_held_out(relative_path: str) -> bool:
    """Whether the file belongs to the held-out split, decided by its path alone."""
    return path_hash(relative_path) % HELD_OUT_ONE_IN == 0


def documents(split: str) -> list[tuple[str, str]]:
    """(path below the standard library, text) of every file of a split, sorted by path.

    Args:
        split: "train" or "held_out".
    """
    if split not in ("train", "held_out"):
        raise ValueError(f"split: expected 'train' or 'held_out', got {split!r}")
    folder, found = stdlib_folder(), []
    for path in sorted(folder.rglob("*.py")):
        relative = path.relative_to(folder)
        if _SKIPPED_FOLDERS.intersection(relative.parts) or path.stat().st_size > _MAX_FILE_BYTES:
            continue
        if is_held_out(relative.as_posix()) != (split == "held_out"):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # a few test files are in other encodings on purpose
            continue
        if text.strip():
            found.append((relative.as_posix(), text))
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=("train", "held_out"), required=True)
    parser.add_argument("--output", type=Path, required=True, help="JSONL, one document a line: path, text")
    args = parser.parse_args(argv)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    # Shuffled by the hash of the path, so that the file's beginning alone is a fair sample of it.
    found = sorted(documents(args.split), key=lambda document: path_hash(document[0]))
    with args.output.open("w", encoding="utf-8") as file:
        for path, text in found:
            file.write(json.dumps({"path": path, "text": text}) + "\n")
    print(f"{args.output}: {len(found)} documents, {sum(len(text) for _, text in found) / 1e6:.1f} M characters")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
