"""The demos' command lines. Catches a demo that ends in a traceback, or writes where nobody asked it to."""

import os
from pathlib import Path
from typing import Any

import pytest

from vllm_mtp.benchmarks.demo import smollm2, stdlib
from vllm_mtp.benchmarks.demo.command import run_demo
from vllm_mtp.benchmarks.harness.checkout import ROOT


@pytest.mark.parametrize("demo", [stdlib, smollm2])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpu-memory-utilization", "3"], "--gpu-memory-utilization: expected more than 0 and at most 1, got 3.0"),
        (["--vllm-args", "[]"], "--vllm-args: expected a JSON object, got []"),
        (["--max-num-seqs", "0"], "--max-num-seqs: expected at least 1, got 0"),
    ],
)
def test_a_bad_option_is_one_line(
    demo: Any, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.main(words) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.partition(": ")[2] == message


def test_paths_are_those_of_whoever_typed_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo runs in the repository's root; what was meant from elsewhere stays elsewhere."""
    monkeypatch.chdir(tmp_path)
    seen: list[stdlib.DemoConfig] = []
    assert run_demo("demo", stdlib.DemoConfig, stdlib.make_parser(), seen.append, ["--output", "here"]) == 0
    assert run_demo("demo", stdlib.DemoConfig, stdlib.make_parser(), seen.append, []) == 0
    assert [config.output for config in seen] == [tmp_path / "here", Path("runs/demo")]
    assert Path(os.getcwd()) == ROOT
