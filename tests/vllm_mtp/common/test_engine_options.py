"""Options that go through to vLLM. Catches one that overrules what a command decides, or is not stored with figures."""

from typing import Any

import pytest

from vllm_mtp.common.engine_options import EngineOptions
from vllm_mtp.common.errors import InputError


def test_only_what_was_given_goes_through() -> None:
    assert EngineOptions().engine_args() == {}
    given = EngineOptions(quantization="fp8", trust_remote_code=True, vllm_args='{"block_size": 32}')
    assert given.engine_args() == {"quantization": "fp8", "trust_remote_code": True, "block_size": 32}
    assert given.stored() == {"quantization": "fp8", "block_size": 32}


def test_how_much_memory_there_is_decides_no_text() -> None:
    """Catches a run that ended for want of memory and is refused with less; figures may be speeds, and keep it."""
    given = EngineOptions(quantization="fp8", gpu_memory_utilization=0.5, vllm_args='{"cpu_offload_gb": 4}')
    assert given.stored() == {"quantization": "fp8"}
    assert given.settings()["engine_options"].keys() == {"quantization", "gpu_memory_utilization", "cpu_offload_gb"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vllm_args": "block_size=32"}, "vllm_args: expected a JSON object, got block_size=32"),
        ({"vllm_args": "[1]"}, r"vllm_args: expected a JSON object, got \[1\]"),
        ({"vllm_args": '{"dtype": "half"}'}, "vllm_args: .* than dtype, which is decided by the command"),
        ({"vllm_args": '{"revision": "x"}'}, "vllm_args: .* than revision, which has a flag of its own"),
        ({"tensor_parallel_size": 0}, "tensor_parallel_size: expected at least 1, got 0"),
        ({"gpu_memory_utilization": 90.0}, "gpu_memory_utilization: expected more than 0 and at most 1, got 90.0"),
    ],
)
def test_what_cannot_be(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        EngineOptions(**fields)
