"""The machine code of the kernels of an MTP module's entry, for GPUs that are not there.

Catches: a tile or a row that spills, shared memory over the limit, a product without matrix instructions, rows and
tiles that come in pieces of less than 16 bytes.
"""

import pytest

from tests.kernels.ahead_of_time.compiler import compile_for, shipped
from vllm_mtp.kernels.common.tables import ARCHITECTURES, Launch
from vllm_mtp.kernels.embed_hidden_projection.kernel import (
    PROJECTION,
    norm_backward_kernel,
    norms_kernel,
    projection_kernel,
    row_launch,
)

SLOW = [pytest.mark.slow, pytest.mark.extended]
DTYPES = {"16 bits": ["bf16", "fp16"], "32 bits": ["fp32"]}
CASES = [
    pytest.param(
        target,
        dtype,
        folded,
        launch,
        id=f"{target}-{dtype}-{'folded' if folded else 'norms'}-{bucket}",
        marks=[] if bucket == 16 and dtype == "bf16" and not folded else SLOW,
    )
    for name, table in PROJECTION.items()
    for target, bucket, launch in shipped(table)
    for dtype in DTYPES[name]
    for folded in (False, True)
]


def types(dtype: str) -> dict[str, str]:
    tensors = ["embedding", "hidden", "weight", "embed_norm", "hidden_norm", "output", "normed"]
    tensors += ["gradient", "rows", "norm", "of_rows"]
    return {
        **{f"{name}_ptr": f"*{dtype}" for name in tensors},
        **dict.fromkeys(("ids_ptr", "positions_ptr"), "*i64"),
        **dict.fromkeys(("num_tokens", "num_outputs", "num_rows_each"), "i32"),
        **dict.fromkeys(("hidden_size", *(f"{x}_stride" for x in ("embedding", "hidden", "weight"))), "i32:16"),
        **dict.fromkeys(("gradient_stride", "rows_stride"), "i32:16"),
        "partial_ptr": "*fp32",
        "eps": "fp32",
    }


@pytest.mark.parametrize(("target", "dtype", "folded", "launch"), CASES)
def test_projection(target: str, dtype: str, folded: bool, launch: Launch) -> None:
    constants = {"EMBED_FIRST": True, "UNIT_OFFSET": not folded, "EVEN": False}
    if folded:
        constants |= dict.fromkeys(("embed_norm_ptr", "hidden_norm_ptr"), None)
    compiled = compile_for(target, projection_kernel, types(dtype), constants, launch)
    compiled.check(matrix=dtype != "fp32" or target == "gfx942")


@pytest.mark.parametrize("target", ARCHITECTURES)
def test_projection_as_served(target: str) -> None:
    """Norm weights folded, no mask, and a hidden size of whole blocks."""
    absent = dict.fromkeys(("embed_norm_ptr", "hidden_norm_ptr", "positions_ptr"))
    constants = {"EMBED_FIRST": True, "UNIT_OFFSET": False, "EVEN": True, **absent}
    launch = PROJECTION["16 bits"].get(target, PROJECTION["16 bits"]["default"])[16]
    compile_for(target, projection_kernel, types("bf16"), constants, launch).check(matrix=True)


@pytest.mark.parametrize("size", [4096, *(pytest.param(size, marks=SLOW) for size in (576, 2048, 8192))])
@pytest.mark.parametrize("target", ARCHITECTURES)
def test_rows(target: str, size: int) -> None:
    norms = {"EMBED_FIRST": True, "UNIT_OFFSET": True}
    compile_for(target, norms_kernel, types("bf16"), norms, row_launch(size)).check()
    compile_for(target, norm_backward_kernel, types("bf16"), {"UNIT_OFFSET": True}, row_launch(size)).check()
