"""What vLLM is started with."""

from pathlib import Path

import pytest

from tests.drafts import small_config, write_random_draft
from vllm_mtp.benchmarks.harness.engine_args import EngineArgs
from vllm_mtp.benchmarks.harness.method import NONE, mtp
from vllm_mtp.contract.lookup import Lookup


def args(folder: Path, **fields: int) -> EngineArgs:
    draft = write_random_draft(folder / "draft", small_config())
    return EngineArgs(
        target="t", draft=draft, variants=folder, dtype="float32", enforce_eager=True, max_model_len=300, **fields
    )


def test_a_method_adds_how_it_drafts_and_a_folder_if_it_needs_one(tmp_path: Path) -> None:
    """Catches engines to be compared that differ in more than in how they draft."""
    common = args(tmp_path)
    plain = common.of(NONE)
    assert "speculative_config" not in plain
    assert plain["enable_prefix_caching"] is False
    own, variant = common.of(mtp(2)), common.of(mtp(2, lookup=Lookup()))
    assert own["speculative_config"]["model"] == str(tmp_path / "draft")
    assert variant["speculative_config"]["model"] == str(tmp_path / "draft-mtp-k2-lookup-2-8-3-steps")
    assert own | {"speculative_config": None} == plain | {"speculative_config": None}


@pytest.mark.parametrize(("gpu", "num_engines"), [(False, 1), (True, 1), (True, 2), (True, 10)])
def test_engines_share_memory(gpu: bool, num_engines: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches engines that together want more than a GPU has, and a limit in blocks where memory is not shared so."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    found = args(tmp_path, num_engines=num_engines, kv_cache_tokens=300).of(NONE)
    assert ("num_gpu_blocks_override" in found) == (not gpu)
    assert found.get("num_gpu_blocks_override", 3) == 3
    assert num_engines * found.get("gpu_memory_utilization", 0) <= 0.9
