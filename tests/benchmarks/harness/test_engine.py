"""The parent's side of an engine, without vLLM: its environment, its death, its end."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.records import prompt
from vllm_mtp.benchmarks.harness import engine
from vllm_mtp.benchmarks.harness.engine import EngineError, EngineProcess
from vllm_mtp.benchmarks.harness.record import Record, Request


def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str) -> EngineProcess:
    """An engine whose child runs some other program."""
    popen = subprocess.Popen

    def run_source(command: list[str], **options: Any) -> "subprocess.Popen[str]":
        return popen([sys.executable, "-c", source], **options)

    monkeypatch.setattr(engine.subprocess, "Popen", run_source)
    return EngineProcess({"model": "m"}, tmp_path / "log")


def test_every_method_gets_the_same_threads_and_only_our_plugin(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The package for suffix decoding has a plugin that patches vLLM; numba would give n-gram drafting more threads."""
    for name in ("HF_HUB_OFFLINE", "NUMBA_NUM_THREADS", "VLLM_CPU_KVCACHE_SPACE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = engine._environment({"model": str(tmp_path)})
    assert (found["VLLM_PLUGINS"], found["NUMBA_NUM_THREADS"]) == ("vllm_mtp", "1")
    assert found["HF_HUB_OFFLINE"] == "1"
    monkeypatch.delenv("OMP_NUM_THREADS")
    found = engine._environment({"model": "an/id-of-the-hub"})
    assert "NUMBA_NUM_THREADS" not in found
    assert "HF_HUB_OFFLINE" not in found, "a model of the Hub may have to be downloaded"


def test_progress_comes_before_the_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = r"""
import sys
sys.stdin.readline()
print('{"seconds_to_start": 1.5, "per_request_metrics": true}', flush=True)
sys.stdin.readline()
print('{"progress": 1}\n{"progress": 2}', flush=True)
print('{"results": [{"token_ids": [5], "seconds": 2.0}], "peak_memory_mib": 7}', flush=True)
sys.stdin.readline()
"""
    finished: list[int] = []
    with start(monkeypatch, tmp_path, source) as one:
        assert one.per_request_metrics
        assert one.measure(Request(prompts=[prompt(1)], max_tokens=1), finished.append) == [
            Record(token_ids=[5], seconds=2.0)
        ]
        assert one.peak_memory_mib == 7
    assert finished == [1, 2]


def test_a_dead_engine_tells_the_end_of_its_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    one = start(monkeypatch, tmp_path, "import sys; sys.exit('out of memory')")
    with pytest.raises(EngineError, match=r"(?s)exit status 1.*out of memory"), one:
        pass


def test_an_interrupted_engine_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ctrl-C in a row of half an hour must not wait for the row."""
    one = start(monkeypatch, tmp_path, "import time; time.sleep(60)")
    begin = time.monotonic()
    one.close()
    assert time.monotonic() - begin < 10
