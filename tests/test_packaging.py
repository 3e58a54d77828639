"""What an installation is: light to import, complete in a wheel, and harmless beside an installed vLLM."""

import configparser
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("vllm_mtp", "kernels", "training", "benchmarks")
STUDIES = tuple(f"benchmarks/{name}/" for name in ("claims", "demo", "finetune", "kernels"))  # need a checkout
LINKS = tuple(f"vllm_mtp/{name}/" for name in FOLDERS[1:])
VERSION = "0.1.0+test"  # not the installed one, or pip would look at that one's dependencies


def run(*arguments: str, cwd: Path = ROOT) -> str:
    result = subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True)
    assert result.returncode == 0, f"{' '.join(arguments)}\n{result.stdout}{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the tree: a build leaves files behind, and would pick up those of an earlier one."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    for name in FOLDERS:
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    init = tree / "vllm_mtp" / "__init__.py"
    init.write_text(re.sub(r'__version__ = "[^"]+"', f'__version__ = "{VERSION}"', init.read_text()))
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet")
    run("-m", "pip", "wheel", *options, "--wheel-dir", str(folder), str(tree))
    (built,) = folder.glob("*.whl")
    return built


def test_importing_the_plugin_is_light() -> None:
    """vLLM imports the plugin in every process, before it decides on devices and start methods."""
    heavy = ("torch", "vllm", "transformers", "triton", "numpy", "safetensors")
    code = f"import sys, vllm_mtp, vllm_mtp.plugin; print(*(m for m in {heavy} if m in sys.modules))"
    assert run("-c", code).split() == []


def test_wheel_holds_every_module(wheel: Path) -> None:
    """A folder that setuptools does not find is missing only in the wheel, never in the checkout."""
    expected = {"vllm_mtp/py.typed", "vllm_mtp/benchmarks/report/page.html"}
    for name in FOLDERS:
        paths = (path.relative_to(ROOT).as_posix() for path in (ROOT / name).rglob("*.py"))
        below = "" if name == "vllm_mtp" else "vllm_mtp/"
        expected |= {f"{below}{path}" for path in paths if not path.startswith((*STUDIES, *LINKS))}
    found = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert found == expected


def test_the_command_works_without_the_studies(wheel: Path, tmp_path: Path) -> None:
    """Catches a command that imports, or offers, what is in no wheel."""
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from vllm_mtp.cli import main; main(['bench', '--help'])"
    )
    offered = run("-c", code, cwd=tmp_path)
    assert "acceptance" in offered
    assert "claims" not in offered


def test_wheel_registers_plugin_and_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt"))
        entry_points = configparser.ConfigParser()
        entry_points.read_string(archive.read(name).decode())
    assert dict(entry_points["vllm.general_plugins"]) == {"vllm_mtp": "vllm_mtp.plugin:register"}
    assert dict(entry_points["console_scripts"]) == {"vllm-mtp": "vllm_mtp.cli:main"}


def test_core_dependencies_are_few_and_open(wheel: Path) -> None:
    """No vLLM and no upper bound: either could move the vLLM or the torch that a user has."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    required = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    core = [requirement for requirement in required if "extra ==" not in requirement]
    assert {re.split(r"[^\w-]", requirement)[0] for requirement in core} <= {
        "accelerate",
        "jinja2",
        "numpy",
        "safetensors",
        "torch",
        "tqdm",
        "transformers",
    }
    assert all(re.fullmatch(r"[\w-]+(>=[\d.]+)?", requirement) for requirement in core)


def test_installing_leaves_the_environment_alone(wheel: Path) -> None:
    """pip's own answer, with no index to fetch from: beside this torch (and vLLM) it would install vllm-mtp alone."""
    options = ("--dry-run", "--no-index", "--quiet", "--report", "-")
    report = json.loads(run("-m", "pip", "install", *options, str(wheel)))
    names = [item["metadata"]["name"] for item in report["install"]]
    assert names == ["vllm-mtp"]
