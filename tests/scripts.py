"""Scripts of the repository that are no part of the package, as modules."""

import importlib.util
from pathlib import Path
from types import ModuleType

_ROOT = Path(__file__).resolve().parent.parent


def load_script(path: str) -> ModuleType:
    """A new module from a script, by its path from the repository's root."""
    spec = importlib.util.spec_from_file_location(path.removesuffix(".py").replace("/", "_"), _ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
