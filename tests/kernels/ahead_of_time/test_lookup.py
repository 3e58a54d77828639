"""The machine code of prompt lookup's kernel, for GPUs that are not there.

Catches: registers that spill, a maximum of 64-bit keys that is not one instruction, divisions by a block size that
was not known when the kernel was compiled.
"""

import re

import pytest

from tests.kernels.ahead_of_time.compiler import compile_for
from vllm_mtp.kernels.common.tables import ARCHITECTURES
from vllm_mtp.kernels.lookup.kernel import LAUNCH, longest_match_kernel

TYPES = {
    **dict.fromkeys(("table_ptr", "block_table_ptr"), "*i32"),
    **dict.fromkeys(("positions_ptr", "key_ptr"), "*i64"),
    **dict.fromkeys(("num_slots", "num_blocks", "block_table_stride"), "i32"),
}


@pytest.mark.parametrize(
    ("target", "block_size", "max_match"), [*((target, 16, 5) for target in ARCHITECTURES), ("sm_90", 528, 32)]
)
def test_longest_match(target: str, block_size: int, max_match: int) -> None:
    constants = {"block_size": block_size, "min_match": 2, "max_match": max_match}
    compiled = compile_for(target, longest_match_kernel, TYPES, constants, LAUNCH)
    compiled.check(widest_load_bits=32)
    assert re.search(r"\bREDG?\S*\.MAX\.S64|\bglobal_atomic_smax_x2", compiled.text), "a loop in place of the maximum"
    assert not re.search(r"\bMUFU\.RCP|\bI2F|\bv_rcp", compiled.text), "a division by what is not a constant"
