"""The layout is law: who may import whom, and where the heavy libraries may appear.

Catches the import that turns a light plugin into one that loads torch in every process of vLLM, the cycle that makes
serving depend on training, and the `__init__.py` that would shadow another package called `kernels`.
"""

import ast
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LINKED = ("kernels", "training", "benchmarks")

# A file imports from rooms on lower floors, and from its own.
FLOORS = (
    ("kernels",),
    ("vllm_mtp/common",),
    ("vllm_mtp/contract",),
    ("vllm_mtp/module",),
    ("vllm_mtp/serving", "training"),
    ("benchmarks/harness", "vllm_mtp/doctor"),
    ("benchmarks/acceptance", "benchmarks/serving", "benchmarks/simulation", "benchmarks/training", "vllm_mtp/monitor"),
    (
        *("benchmarks/claims", "benchmarks/demo", "benchmarks/finetune"),
        *("benchmarks/kernels", "benchmarks/rounds", "benchmarks/tune"),
    ),
    ("benchmarks/report",),
    ("vllm_mtp/cli", "vllm_mtp"),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# Besides the standard library, the kernels need nothing else.
LIBRARIES_OF_KERNELS = {"torch", "triton"}
# Library -> files that may import it at module level; a pattern that ends in "/" is a folder.
TOP_LEVEL = {
    "ray": (),
    "triton": ("kernels/",),
    "vllm": ("vllm_mtp/serving/",),
    "transformers": ("vllm_mtp/contract/config.py", "training/", "benchmarks/"),
    "datasets": ("training/", "benchmarks/"),
}
# Library -> files that may import it inside functions; a library that is not named: all files.
IN_FUNCTIONS = {
    "ray": ("training/cluster.py",),
    "triton": ("kernels/",),
    "vllm": ("vllm_mtp/", "training/", "benchmarks/"),
}
# Run where there is no Triton: the dispatcher asks for it inside functions, the plain twins never.
_OPERATORS = ("draft_head", "embed_hidden_projection", "linear_kl", "lookup")
NEVER_TRITON = (
    "kernels/reference.py",
    "kernels/linear_kl/objectives.py",
    "kernels/common/precision.py",
    *(f"kernels/{name}/reference.py" for name in _OPERATORS),
)
NO_TRITON_AT_TOP = (
    *("kernels/ops.py", "kernels/common/registration.py", "kernels/common/tables.py", *NEVER_TRITON),
    *(f"kernels/{name}/op.py" for name in _OPERATORS),
)


def imports(source: str, path: str) -> Iterator[tuple[str, bool, bool]]:
    """(module, inside a function, for type checkers only) of every import in a source; `path` resolves relative ones.

    `from vllm_mtp import training` yields vllm_mtp.training beside vllm_mtp, since the name may be a module.
    """
    package = ["vllm_mtp", *Path(path).parts[:-1]] if path.startswith(LINKED) else list(Path(path).parts[:-1])

    def walk(node: ast.AST, in_function: bool, typing_only: bool) -> Iterator[tuple[str, bool, bool]]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, in_function, typing_only) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module, in_function, typing_only
            yield from ((f"{module}.{alias.name}", in_function, typing_only) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            yield from (
                (str(word.value), in_function, typing_only) for word in node.args if isinstance(word, ast.Constant)
            )
        in_function = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from (found for child in node.body for found in walk(child, in_function, True))
            yield from (found for child in node.orelse for found in walk(child, in_function, typing_only))
            return
        for child in ast.iter_child_nodes(node):
            yield from walk(child, in_function, typing_only)

    yield from walk(ast.parse(source), False, False)


def room_of(path: str) -> str:
    """The room that a file or folder of ours is in; kernels and training are one room each."""
    return max((room for room in FLOOR_OF if f"{path}/".startswith(f"{room}/")), key=len, default=path)


def path_of(module: str) -> str | None:
    """A module of ours as a path without its ending; None for another's."""
    package, *parts = module.split(".")
    if package != "vllm_mtp":
        return None
    return "/".join(parts if parts and parts[0] in LINKED else (package, *parts))


def allowed(path: str, patterns: tuple[str, ...]) -> bool:
    return any(path.startswith(pattern) if pattern.endswith("/") else path == pattern for pattern in patterns)


def violations(source: str, path: str) -> list[str]:
    """What a source breaks of the tables above; `path` is relative to the repository."""
    own = path.split("/")[0]
    room, found = room_of(path), []
    if room not in FLOOR_OF:
        return [f"{path} is in no room: {', '.join(FLOOR_OF)}"]
    for module, in_function, typing_only in imports(source, path):
        library, target = module.split(".")[0], path_of(module)
        if target in ("vllm_mtp", "benchmarks"):
            continue  # nothing by itself: which of its modules is meant is told beside it
        if target is not None:
            other = room_of(target)
            if other != room and FLOOR_OF.get(other, len(FLOORS)) >= FLOOR_OF[room]:
                found.append(f"{path} imports {module}: {room} may import only from floors below its own")
            continue
        if library in LINKED:
            found.append(f"{path} imports {module}: write vllm_mtp.{module}")
        if own == "kernels" and library not in LIBRARIES_OF_KERNELS | sys.stdlib_module_names:
            found.append(f"{path} imports {module}: kernels need only {', '.join(sorted(LIBRARIES_OF_KERNELS))}")
        if library == "triton" and allowed(path, NEVER_TRITON if in_function else NO_TRITON_AT_TOP):
            found.append(f"{path} imports {module}: must load without Triton")
        if typing_only:
            continue
        table = IN_FUNCTIONS if in_function else TOP_LEVEL
        if library in table and not allowed(path, table[library]):
            where = "inside a function" if in_function else "at module level"
            found.append(f"{path} imports {module} {where}: only {', '.join(table[library])} may")
    return found


def sources() -> list[str]:
    """Every Python file of the four packages once, links not followed."""
    found = []
    for top in ("vllm_mtp", *LINKED):
        for folder, folders, files in os.walk(ROOT / top):
            folders[:] = [name for name in folders if name != "__pycache__"]
            found += [(Path(folder) / name).relative_to(ROOT).as_posix() for name in files if name.endswith(".py")]
    return sorted(found)


def test_the_tree_keeps_the_law() -> None:
    assert "vllm_mtp/__init__.py" in sources()
    assert not [fault for path in sources() for fault in violations((ROOT / path).read_text("utf-8"), path)]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("kernels/ops.py", "import vllm_mtp.module.mtp"),
        ("kernels/ops.py", "def f():\n    from vllm_mtp.module import mtp"),
        ("kernels/ops.py", "import transformers"),
        ("kernels/ops.py", "import triton"),
        ("kernels/reference.py", "def f():\n    import triton"),
        ("vllm_mtp/contract/config.py", "from vllm_mtp.module.mtp import MTPModule"),
        ("vllm_mtp/module/mtp.py", "from vllm_mtp.training import loop"),
        ("vllm_mtp/module/mtp.py", "from vllm_mtp import training"),
        ("vllm_mtp/module/mtp.py", "def f():\n    import vllm_mtp.training.loop"),
        ("vllm_mtp/module/mtp.py", "from .. import training"),
        ("vllm_mtp/module/mtp.py", "from ..benchmarks.harness.engine import EngineProcess"),
        ("vllm_mtp/module/mtp.py", "import vllm"),
        ("vllm_mtp/module/mtp.py", "if True:\n    from vllm.config import VllmConfig"),
        ("vllm_mtp/module/mtp.py", "class A:\n    import vllm"),
        ("vllm_mtp/module/mtp.py", "import triton"),
        ("vllm_mtp/module/mtp.py", "def f():\n    import triton.language as tl"),
        ("vllm_mtp/module/mtp.py", "import transformers"),
        (
            "vllm_mtp/module/mtp.py",
            "if TYPE_CHECKING:\n    import vllm_mtp.training.loop",
        ),
        (
            "vllm_mtp/module/mtp.py",
            "if TYPE_CHECKING:\n    pass\nelse:\n    import vllm",
        ),
        ("vllm_mtp/contract/checkpoint.py", "from datasets import load_dataset"),
        ("vllm_mtp/serving/draft_model.py", "from vllm_mtp.training import loop"),
        ("vllm_mtp/serving/draft_model.py", "import importlib\nimportlib.import_module('vllm_mtp.cli.train')"),
        ("training/loop.py", "from vllm_mtp.benchmarks.harness import engine"),
        ("training/loop.py", "from ..benchmarks.harness import engine"),
        ("training/loop.py", "from vllm_mtp.serving import target_check"),
        ("training/loop.py", "import vllm"),
        ("training/loop.py", "def f():\n    import ray"),
        ("training/cluster.py", "import ray"),
        ("training/loop.py", "import kernels"),
        ("benchmarks/latency.py", "import json"),
        ("benchmarks/harness/engine.py", "from vllm import LLM"),
        ("benchmarks/harness/engine.py", "from vllm_mtp.benchmarks.demo import report"),
        ("benchmarks/acceptance/bench.py", "from vllm_mtp.benchmarks.simulation import simulate"),
        ("benchmarks/claims/study.py", "from vllm_mtp.benchmarks.demo import stdlib"),
    ],
)
def test_the_checker_finds_a_violation(path: str, source: str) -> None:
    assert violations(source, path)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("kernels/ops.py", "import torch\nfrom vllm_mtp.kernels import reference\ndef f():\n    import triton"),
        ("kernels/cross_entropy/kernel.py", "import triton\nimport triton.language as tl"),
        ("vllm_mtp/serving/draft_model.py", "from vllm.config import VllmConfig\nfrom vllm_mtp.kernels import ops"),
        ("vllm_mtp/plugin.py", "def register():\n    from vllm import ModelRegistry"),
        ("vllm_mtp/cli/train.py", "from vllm_mtp.training import loop"),
        (
            "vllm_mtp/module/mtp.py",
            "if TYPE_CHECKING:\n    from vllm.config import X",
        ),
        ("training/loop.py", "import transformers\nfrom vllm_mtp.module.mtp import MTPModule\nfrom . import data"),
        ("benchmarks/harness/engine.py", "from vllm_mtp.training import data\ndef f():\n    from vllm import LLM"),
        ("benchmarks/demo/smollm2.py", "from vllm_mtp.benchmarks.harness import engine"),
    ],
)
def test_the_checker_passes_what_is_allowed(path: str, source: str) -> None:
    assert violations(source, path) == []


@pytest.mark.parametrize("folder", LINKED)
def test_folder_is_a_package_only_below_vllm_mtp(folder: str) -> None:
    assert (ROOT / folder).is_dir()
    assert not (ROOT / folder / "__init__.py").exists(), "would overwrite another top-level package of this name"
    link = ROOT / "vllm_mtp" / folder
    assert link.is_symlink(), "serves editable installs, type checkers and a checkout that is not installed"
    assert os.readlink(link) == f"../{folder}"


# How kernels are run, not whose they are; their common ones and their tuning are tested in the same ways.
_WAYS = ("interpreter", "gpu", "ahead_of_time")
_WHERE_KERNELS_ARE = ("kernels", "kernels/common", "benchmarks/kernels")
# Of a whole server, of the examples' scripts, and of the tree itself.
_OF_THE_WHOLE = ("serving", "examples")


def subjects_of(path: Path) -> list[Path]:
    """What a test file is named after; `path` is relative to tests/."""
    parts, name = path.parts[:-1], path.stem.removeprefix("test_")
    folders = ["/".join(parts)]
    if parts[:1] == ("kernels",) and parts[1:] and parts[1] in _WAYS:
        folders = [*_WHERE_KERNELS_ARE]
    return [ROOT / folder / ending for folder in folders for ending in (f"{name}.py", name)]


def test_tests_mirror_the_tree() -> None:
    """Catches a test left where its subject was before it moved."""
    paths = [path.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")]
    rooms = [path for path in paths if len(path.parts) > 1 and path.parts[0] not in _OF_THE_WHOLE]
    assert len(rooms) > 50
    assert [str(path) for path in rooms if not any(one.exists() for one in subjects_of(path))] == []
