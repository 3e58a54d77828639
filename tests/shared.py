"""What is made once for all processes of a run of the tests: by the first that wants it, while the others wait."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def shared(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The path of that name, a file or a folder, which `make` is given a path to write at the first time."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    path = root / name
    with FileLock(root / f"{name}.lock"):
        if not path.exists():
            unfinished = Path(tempfile.mkdtemp(dir=root)) / name
            make(unfinished)
            unfinished.rename(path)
    return path
