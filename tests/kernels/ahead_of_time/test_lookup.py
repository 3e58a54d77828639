"""The machine code of prompt lookup's kernel, for GPUs that are not there.

Catches: registers that spill, a maximum of 64-bit keys that an architecture does not have as one instruction, a
division at each position where blocks have a size of 2^n.
"""

import re

import pytest

from tests.kernels.ahead_of_time.compiler import compile_for
from vllm_mtp.kernels.lookup import LAUNCH, longest_match_kernel
from vllm_mtp.kernels.tables import ARCHITECTURES

TYPES = {
    **dict.fromkeys(("table_ptr", "block_table_ptr"), "*i32"),
    **dict.fromkeys(("positions_ptr", "key_ptr"), "*i64"),
    **dict.fromkeys(("num_slots", "num_blocks", "block_table_stride"), "i32"),
}


@pytest.mark.parametrize(("block_size", "max_match"), [(16, 5), (528, 32)])
@pytest.mark.parametrize("target", ARCHITECTURES)
def test_longest_match(target: str, block_size: int, max_match: int) -> None:
    constants = {"block_size": block_size, "min_match": 2, "max_match": max_match}
    compiled = compile_for(target, longest_match_kernel, TYPES, constants, LAUNCH)
    compiled.check(widest_load_bits=32)
    print(target, compiled.num_registers, compiled.shared_bytes, compiled.load_bits)
    open(f"/tmp/asm_{target}_{block_size}.txt", "w").write(compiled.text)
