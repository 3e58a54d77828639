"""The row kernels of `linear_kl` as compiled for GPUs: no spills, and 16 bytes by each load of logits.

By default the form that trains, KL on a bfloat16 head, for every architecture; --extended adds every other one.
"""

from typing import Any

import pytest

from tests.kernels.ahead_of_time.compiler import compile_for, shipped
from vllm_mtp.kernels.common.tables import Launch
from vllm_mtp.kernels.linear_kl import kernel as linear_kl
from vllm_mtp.kernels.linear_kl.objectives import OBJECTIVES

POINTERS = {"top_ptr": "*i64", "labels_ptr": "*i64"}
ABSENT = {"bias_ptr": None, "labels_ptr": None}


def types(kernel: Any, half: str, **others: str) -> dict[str, str]:
    """float32 for what is not otherwise: the gradient and probabilities are in the head's dtype."""
    named = POINTERS | {"bias_ptr": half, "gradient_ptr": half, "p_ptr": half, "V": "i32:16"} | others
    scalars = {"scale": "fp32", "soft_cap": "fp32"}
    return {name: named.get(name) or scalars.get(name) or "*fp32" for name in kernel.arg_names}


@pytest.mark.parametrize(("target", "bucket", "launch"), shipped(linear_kl.DIVERGENCE))
def test_divergence(target: str, bucket: int, launch: Launch) -> None:
    constants = ABSENT | {"OBJECTIVE": "kl", "HAS_CAP": False}
    kernel = linear_kl.divergence_kernel
    compile_for(target, kernel, types(kernel, "*bf16"), constants, launch).check()


@pytest.mark.parametrize(("target", "bucket", "launch"), shipped(linear_kl.SOFTMAX))
def test_softmax(target: str, bucket: int, launch: Launch) -> None:
    kernel = linear_kl.softmax_kernel
    constants = {"bias_ptr": None, "HAS_CAP": False}
    compile_for(target, kernel, types(kernel, "*bf16"), constants, launch).check()


@pytest.mark.extended
@pytest.mark.slow
@pytest.mark.parametrize("half", ["*bf16", "*fp16", "*fp32"])
@pytest.mark.parametrize("has_cap", [False, True])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(("target", "bucket", "launch"), shipped(linear_kl.DIVERGENCE))
def test_every_divergence(target: str, bucket: int, launch: Launch, objective: str, has_cap: bool, half: str) -> None:
    constants: dict[str, Any] = {"OBJECTIVE": objective, "HAS_CAP": has_cap}
    if objective != "lm":
        constants["labels_ptr"] = None
    kernel = linear_kl.divergence_kernel
    compile_for(target, kernel, types(kernel, half), constants, launch).check()


def test_the_check_finds_what_it_looks_for() -> None:
    """A block four times as large spills on an H100; rows of any length are read by 4 bytes."""
    kernel = linear_kl.divergence_kernel
    constants = ABSENT | {"OBJECTIVE": "tv", "HAS_CAP": False}
    spilling = compile_for("sm_90", kernel, types(kernel, "*bf16"), constants, Launch({"BLOCK": 16384}, num_warps=4))
    with pytest.raises(AssertionError, match=r"sm_90: .* spills"):
        spilling.check()
    launch = linear_kl.DIVERGENCE["default"][0]
    narrow = compile_for("sm_90", kernel, types(kernel, "*bf16", V="i32"), constants, launch)
    with pytest.raises(AssertionError, match="the widest load has 32 bits"):
        narrow.check()
