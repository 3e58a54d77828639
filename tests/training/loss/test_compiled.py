"""Eager or compiled: the faster one, and a compiler that fails costs nothing but its time."""

import re
import time
from typing import Any

import pytest
import torch

from vllm_mtp.training.loss import compiled
from vllm_mtp.training.loss.compiled import faster_of_eager_and_compiled


def double(x: torch.Tensor) -> torch.Tensor:
    time.sleep(0.002)
    return 2 * x


def fast(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


def slow(x: torch.Tensor) -> torch.Tensor:
    time.sleep(0.02)
    return 2 * x


def fails(x: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("no backend")


@pytest.mark.parametrize(
    ("result", "num_calls", "expected", "note"),
    [
        (fast, 10**6, fast, "^compiled, .* ms, eager "),
        (slow, 10**6, double, "^eager, .* ms, compiled "),
        (fails, 10**6, double, "torch.compile failed .RuntimeError."),
        (fails, 10, double, "^eager, [0-9.]+ ms$"),  # not worth a try
    ],
)
def test_the_faster_one(result: Any, num_calls: int, expected: Any, note: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled.torch, "compile", lambda function, dynamic: result)
    monkeypatch.setattr(compiled.shutil, "which", lambda name: "/usr/bin/g++")
    found, why = faster_of_eager_and_compiled(double, (torch.ones(1),), num_calls)
    assert found is expected
    assert re.search(note, why), why


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    found, why = faster_of_eager_and_compiled(double, (torch.ones(1),), 10**6)
    assert found is double
    assert "needs a C++ compiler, found none" in why
