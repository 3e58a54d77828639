"""The machine code of the draft head's kernels, for GPUs that are not there.

Catches: a tile that spills with every option on, shared memory over the limit, a product without matrix instructions,
rows of the head that come in pieces of less than 16 bytes.
"""

import re
from typing import Any

import pytest

from tests.kernels.ahead_of_time.compiler import compile_for, shipped
from vllm_mtp.kernels.common.tables import ARCHITECTURES, Launch
from vllm_mtp.kernels.draft_head.kernel import TABLES, best_kernel, candidates_kernel, quantize_rows_kernel

SLOW = [pytest.mark.slow, pytest.mark.extended]
PAIRS = {
    "16 bits": [("bf16", "bf16"), ("fp16", "fp16")],
    "8 bits": [("i8", "i8"), ("fp8e4nv", "fp8e4nv")],
    "8 bits, hidden states wider": [("bf16", "i8"), ("bf16", "fp8e4nv")],
    "32 bits": [("fp32", "fp32"), ("fp32", "i8")],
}
"""Types of hidden states and rows, by table. Without --extended the first of each but float32, at the first bucket, and
float8 on both sides as an H100 is served."""
# A100 and MI300X have no matrix instructions for this float8; int8 is theirs.
UNSUPPORTED = {("sm_80", "fp8e4nv"), ("gfx942", "fp8e4nv")}
FLOAT8 = ("sm_90", "fp8e4nv", "fp8e4nv")
CASES = [
    pytest.param(
        target,
        hidden,
        weight,
        launch,
        id=f"{target}-{hidden}x{weight}-{bucket}",
        marks=[] if fast else SLOW,
    )
    for name, table in TABLES.items()
    for target, bucket, launch in shipped(table)
    for i, (hidden, weight) in enumerate(PAIRS[name])
    if (target, weight) not in UNSUPPORTED
    for fast in [bucket == 16 and (i == 0 or (target, hidden, weight) == FLOAT8) and name != "32 bits"]
]
INTEGERS = ["num_tokens", "num_rows", "first_id", "num_tiles"]
MULTIPLES_OF_16 = ["hidden_size", "hidden_stride", "weight_stride"]


def types(hidden: str = "bf16", weight: str = "bf16") -> dict[str, str]:
    float_32 = ["scale", "hidden_scale", "logit", "tile_logit"]
    return {
        "hidden_ptr": f"*{hidden}",
        "weight_ptr": f"*{weight}",
        "bias_ptr": "*bf16",
        **dict.fromkeys(("d2t_ptr", "id_ptr"), "*i64"),
        **dict.fromkeys(("row_ptr", "tile_row_ptr"), "*i32"),
        **{f"{name}_ptr": "*fp32" for name in float_32},
        **dict.fromkeys(INTEGERS, "i32"),
        **dict.fromkeys(MULTIPLES_OF_16, "i32:16"),
    }


@pytest.mark.parametrize(("target", "hidden", "weight", "launch"), CASES)
def test_candidates(target: str, hidden: str, weight: str, launch: Launch) -> None:
    """A bias, and a hidden size that no block divides."""
    constants: dict[str, Any] = {"EVEN": False}
    if weight not in ("i8", "fp8e4nv"):
        constants["scale_ptr"] = None
    if hidden not in ("i8", "fp8e4nv"):
        constants["hidden_scale_ptr"] = None
    compiled = compile_for(target, candidates_kernel, types(hidden, weight), constants, launch)
    exact = hidden == "fp32" and target != "gfx942"  # float32 that is not rounded to TF32 has none on these
    compiled.check(matrix=not exact)
    # What is copied asynchronously are the tiles, and nothing else is.
    assert not re.search(r"LDGSTS\S*\.64\b|LDGSTS\S*BYPASS\s", compiled.text), "tiles in pieces of less than 16 bytes"


@pytest.mark.parametrize(
    ("target", "hidden", "weight"), [*((target, "bf16", "bf16") for target in ARCHITECTURES), FLOAT8]
)
def test_candidates_as_served(target: str, hidden: str, weight: str) -> None:
    """No option, and a hidden size of whole blocks."""
    table = TABLES["8 bits" if weight == "fp8e4nv" else "16 bits"]
    absent = ["bias_ptr", *([] if weight == "fp8e4nv" else ["scale_ptr", "hidden_scale_ptr"])]
    constants = {"EVEN": True, **dict.fromkeys(absent)}
    launch = table.get(target, table["default"])[16]
    compiled = compile_for(target, candidates_kernel, types(hidden, weight), constants, launch)
    compiled.check(matrix=True)
    assert not re.search(r"LDGSTS\S*\.64\b|LDGSTS\S*BYPASS\s", compiled.text), "tiles in pieces of less than 16 bytes"
    if weight == "fp8e4nv":
        assert compiled.matrix_instructions == {"QGMMA"}
        # An addition in float32 to each of the tile's sums, after each of the instructions of 32 products.
        sums_each = launch.tiles["BLOCK_V"] * launch.tiles["BLOCK_T"] // (32 * launch.num_warps)
        num_additions = len(re.findall(r"\bFADD", compiled.text))
        assert num_additions >= sums_each * launch.tiles["BLOCK_D"] // 32, "sums in the tensor core's 14 bits"


@pytest.mark.parametrize("target", ARCHITECTURES)
def test_best(target: str) -> None:
    constants = {"d2t_ptr": None}
    compile_for(target, best_kernel, types(), constants, Launch({"BLOCK_N": 1024}, 4)).check(widest_load_bits=32)


@pytest.mark.parametrize("size", [2048, pytest.param(8192, marks=SLOW)])
@pytest.mark.parametrize("dtype", ["i8", pytest.param("fp8e4nv", marks=SLOW)])
@pytest.mark.parametrize("target", ARCHITECTURES)
def test_quantize_rows(target: str, dtype: str, size: int) -> None:
    if (target, dtype) in UNSUPPORTED:
        pytest.skip("no such float8 there")
    kinds = {"x_ptr": "*bf16", "quantized_ptr": f"*{dtype}", "scale_ptr": "*fp32", "size": "i32:16", "stride": "i32:16"}
    compile_for(target, quantize_rows_kernel, kinds, {"largest": 127.0, "BLOCK_D": size}, Launch({}, 4)).check()
