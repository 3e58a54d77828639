"""Which implementation of an operator runs, and what importing the folder costs.

Catches: an environment variable that is ignored or misspelt without a word, a fallback without a reason or with one at
every call, a package that imports Triton before a kernel runs, autocast that rounds what is promised in float32.
"""

import subprocess
import sys
import warnings
from collections.abc import Iterator

import pytest
import torch

from tests.kernels import embed_hidden_projection_cases, linear_kl_cases
from vllm_mtp.kernels.common import registration
from vllm_mtp.kernels.common.registration import CHOICE, uses_triton
from vllm_mtp.kernels.ops import HeadRows, draft_head_part, embed_hidden_projection, linear_kl, mean_embedding


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


def test_autocast_rounds_nothing() -> None:
    """Float32 states and heads: the same bits and dtypes, also of what backward makes."""

    def results() -> list[torch.Tensor]:
        output_TN = embed_hidden_projection(**embed_hidden_projection_cases.case((5, 16, 8)))
        h_s, h_t, w, _ = linear_kl_cases.case()
        teacher = mean_embedding(h_t, w)
        losses = [linear_kl(h_s.requires_grad_(), given, w) for given in (h_t, teacher)]
        torch.stack([found.loss for found in losses]).sum().backward()
        found = [output_TN, *teacher, h_s.grad, *draft_head_part(h_t, HeadRows(w))]
        return [*found, *(loss.per_token for loss in losses)]

    expected = results()
    with torch.autocast("cpu", torch.bfloat16):
        found = results()
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16, "it is as it was"
    for ours, exact in zip(found, expected, strict=True):
        assert ours.dtype == exact.dtype
        assert torch.equal(ours, exact)


def test_a_launch_is_on_the_device_of_the_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the first argument that is one."""
    monkeypatch.setattr(torch.cuda, "device", lambda device: device)
    tensor = torch.empty(1, device="meta")
    assert registration._on_their_device("cuda", (None, tensor, 1.0)) == tensor.device


def test_importing_the_operators_imports_no_triton() -> None:
    modules = "vllm_mtp.kernels.ops, vllm_mtp.kernels.reference, vllm_mtp.kernels.common.registration"
    code = f"import sys, {modules}; assert 'torch' in sys.modules; assert 'triton' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
