"""Which implementation of an operator runs, and what importing the folder costs.

Catches: an environment variable that is ignored or misspelt without a word, a fallback without a reason or with one at
every call, a package that imports Triton before a kernel runs.
"""

import subprocess
import sys
import warnings
from collections.abc import Iterator

import pytest

from vllm_mtp.kernels import registration
from vllm_mtp.kernels.registration import CHOICE, uses_triton


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(CHOICE, raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    registration.forget_choice()
    yield
    registration.forget_choice()


def without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)


@pytest.mark.parametrize(
    ("choice", "interpret", "device", "expected"),
    [
        ("", "", "cpu", False),
        ("", "1", "cpu", True),
        ("", "", "cuda", True),
        ("triton", "1", "cpu", True),
        ("triton", "", "cuda", True),
        ("reference", "1", "cpu", False),
        ("reference", "", "cuda", False),
    ],
)
def test_choice(choice: str, interpret: str, device: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv(CHOICE, choice)
    monkeypatch.setenv("TRITON_INTERPRET", interpret)
    assert uses_triton(device) is expected


def test_falling_back_says_why_once(monkeypatch: pytest.MonkeyPatch) -> None:
    without_triton(monkeypatch)
    with pytest.warns(UserWarning, match=r"plain PyTorch twins.*triton"):
        assert not uses_triton("cuda")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not uses_triton("cuda")
        assert not uses_triton("cpu")


@pytest.mark.parametrize(
    ("choice", "device", "has_triton", "message"),
    [
        ("Triton", "cuda", True, "expected reference or triton, or nothing, got 'Triton'"),
        ("triton", "cuda", False, "expected Triton, got .*Install it, or unset"),
        ("triton", "cpu", True, "expected tensors on a GPU, got tensors on the CPU.*TRITON_INTERPRET=1"),
    ],
)
def test_what_cannot_be(
    choice: str, device: str, has_triton: bool, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CHOICE, choice)
    if not has_triton:
        without_triton(monkeypatch)
    with pytest.raises(ValueError, match=f"{CHOICE}.*{message}"):
        uses_triton(device)


def test_importing_the_operators_imports_no_triton() -> None:
    modules = "vllm_mtp.kernels.ops, vllm_mtp.kernels.reference, vllm_mtp.kernels.registration"
    code = f"import sys, {modules}; assert 'torch' in sys.modules; assert 'triton' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
