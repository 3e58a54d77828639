"""The machine code of the kernel of an MTP module's entry, for GPUs that are not there.

Catches: a row that spills, rows that come in pieces of less than 16 bytes.
"""

import pytest

from tests.kernels.ahead_of_time.compiler import compile_for
from vllm_mtp.kernels.common.tables import ARCHITECTURES
from vllm_mtp.kernels.embed_hidden_projection.kernel import norms_kernel, row_launch

SLOW = [pytest.mark.slow, pytest.mark.extended]
TYPES = {
    **{f"{name}_ptr": "*bf16" for name in ("embedding", "hidden", "embed_norm", "hidden_norm", "normed")},
    "ids_ptr": "*i64",
    **dict.fromkeys(("hidden_size", "embedding_stride", "hidden_stride"), "i32:16"),
    "eps": "fp32",
}


@pytest.mark.parametrize("size", [4096, *(pytest.param(size, marks=SLOW) for size in (576, 2048, 8192))])
@pytest.mark.parametrize("target", ARCHITECTURES)
def test_norms(target: str, size: int) -> None:
    compile_for(target, norms_kernel, TYPES, {}, row_launch(size)).check()
