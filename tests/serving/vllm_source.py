"""Reads a vLLM that is not installed: has it what this package imports, and which of the features that concern it?

A wheel (`pip download vllm==0.33.0 --no-deps`) or the folder of an installed package; nothing of it is run.
"""

import ast
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OURS = ("vllm_mtp", "training", "benchmarks/harness", "benchmarks/acceptance", "benchmarks/simulation")


@dataclass(frozen=True, kw_only=True, slots=True)
class Feature:
    """Something that a vLLM has or has not."""

    name: str
    """As docs/versions.md has it."""
    path: str
    pattern: str = ""
    """A regular expression that is found in the file; empty: that there is such a file is enough."""


_SPECULATIVE = "config/speculative.py"
FEATURES = (
    Feature(name="short flags (`--spec-model`)", path="engine/arg_utils.py", pattern=r"^    spec_model\b"),
    Feature(name="sampled drafts", path=_SPECULATIVE, pattern=r"^    draft_sample_method\b"),
    Feature(name="best draft token alone", path=_SPECULATIVE, pattern=r"^    use_local_argmax_reduction\b"),
    Feature(name="K by batch size", path=_SPECULATIVE, pattern=r"^    num_speculative_tokens_per_batch_size\b"),
    Feature(
        name="adaptive verification of any drafter",
        path="v1/worker/gpu/spec_decode/speculator.py",
        pattern=r"OnlineAcceptanceEstimator",
    ),
    Feature(name="acceptance in each response", path="engine/arg_utils.py", pattern=r"per_request_spec_decode_metrics"),
    Feature(name="hashes that look ahead", path=_SPECULATIVE, pattern=r"^    disable_lookahead_block_hashes\b"),
    Feature(name="vLLM's own 8-bit draft head", path=_SPECULATIVE, pattern=r"^    draft_lm_head_quantization\b"),
    Feature(
        name="draft context raised to the target's", path=_SPECULATIVE, pattern=r"def draft_shares_target_positions"
    ),
    Feature(name="MTP layers of Transformers", path="model_executor/models/transformers/mtp.py"),
)


class Source:
    """The Python files of a vLLM."""

    def __init__(self, path: Path) -> None:
        """Opens a wheel, or the folder `vllm` of an installed one."""
        self._folder = path if path.is_dir() else None
        self._wheel = None if path.is_dir() else zipfile.ZipFile(path)
        self._names = set() if self._wheel is None else set(self._wheel.namelist())

    def text(self, path: str) -> str | None:
        """A file's content, by its path inside `vllm`; None where there is none."""
        if self._folder is not None:
            file = self._folder / path
            return file.read_text("utf-8") if file.is_file() else None
        assert self._wheel is not None
        return self._wheel.read(f"vllm/{path}").decode() if f"vllm/{path}" in self._names else None

    def module(self, name: str) -> str | None:
        """A module's or package's source, by its dotted name."""
        inside = "/".join(name.split(".")[1:])
        found = self.text(f"{inside}.py") if inside else None
        return found if found is not None else self.text(f"{inside}/__init__.py".lstrip("/"))

    def features(self) -> list[str]:
        """The names of those FEATURES that it has."""
        found = []
        for feature in FEATURES:
            text = self.text(feature.path)
            if text is not None and re.search(feature.pattern, text, re.MULTILINE):
                found.append(feature.name)
        return found

    def missing(self, wanted: set[tuple[str, str]]) -> list[str]:
        """Those of (module, name) that it has not; a name may be a module itself."""
        return sorted(f"{module}.{name}" for module, name in wanted if not self._has(module, name))

    def _has(self, module: str, name: str) -> bool:
        source = self.module(module)
        if source is None:
            return False
        if name in set(_names(source)) or self.module(f"{module}.{name}") is not None:
            return True
        return any(self._has(star, name) for star in _stars(source, module))


def imported_by_us() -> set[tuple[str, str]]:
    """(module, name) of every `from vllm... import name` of ours, those left out for which there is another way."""
    found = set()
    for path in sorted(file for top in OURS for file in (ROOT / top).rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        tries = [node for node in ast.walk(tree) if isinstance(node, ast.Try)]
        optional = {id(child) for one in tries for child in ast.walk(one)}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vllm":
                found |= {(str(node.module), alias.name) for alias in node.names if id(node) not in optional}
    return found


def _stars(source: str, module: str) -> Iterator[str]:
    """The modules of which a package's source imports everything."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            yield f"{module}.{node.module}" if node.level == 1 else str(node.module)


def _names(source: str) -> Iterator[str]:
    """What a module's source defines, imports, or announces in a dictionary of lazy imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Dict):
            yield from (str(key.value) for key in node.keys if isinstance(key, ast.Constant))
