"""Catches: requests too few for the load, a bound that vLLM does not get."""

import pytest

from vllm_mtp.benchmarks.serving.config import ServingConfig
from vllm_mtp.common.errors import InputError


def test_requests_grow_with_the_load() -> None:
    config = ServingConfig(requests_per_client=4, min_requests=16)
    assert [config.num_requests(concurrency) for concurrency in (1, 4, 64)] == [16, 16, 256]


def test_bounds_and_methods() -> None:
    config = ServingConfig(max_ttft_ms=200.0, max_tpot_ms=12.5, num_speculative_tokens=(2, 4), baselines=("ngram",))
    assert config.bounds() == ["ttft:200", "tpot:12.5"]
    assert ServingConfig().bounds() == []
    names = [str(method) for method in config.methods]
    assert names == ["none", "mtp, local argmax k = 2", "mtp, local argmax k = 4", "ngram k = 5"]
    assert [str(method) for method in ServingConfig(temperature=1.0).methods] == ["none", "mtp k = 3"]


def test_no_client_at_all_is_refused() -> None:
    with pytest.raises(InputError, match="concurrency"):
        ServingConfig(concurrency=(0,))
