"""The acceptance benchmark's engine and settings. Catches an engine option that changes figures and leaves no trace."""

from pathlib import Path
from typing import Any

from vllm_mtp.benchmarks.acceptance.config import AcceptanceConfig
from vllm_mtp.benchmarks.acceptance.setup import Setup
from vllm_mtp.benchmarks.harness.conversations import Conversations
from vllm_mtp.benchmarks.harness.engine_args import EngineArgs
from vllm_mtp.benchmarks.harness.method import NONE
from vllm_mtp.common.engine_options import EngineOptions
from vllm_mtp.training.data.chat.template import ChatTemplate


def setup_of(options: EngineOptions, **fields: Any) -> Setup:
    engine = EngineArgs(
        target="t",
        draft=Path("d"),
        variants=Path("o"),
        dtype="float32",
        enforce_eager=True,
        max_model_len=64,
        options=options,
    )
    return Setup(
        config=AcceptanceConfig(engine_options=options, speed_prompts_per_task=2, **fields),
        engine=engine,
        prompt_file=Path("p"),
        conversations=Conversations(dialogs=(), template=ChatTemplate(None, plain=True)),
        limit=64,
        room=32,
        kv_bytes_per_token={"target": 1, "drafter": 1},
        identity={},
    )


def test_engine_options_go_to_the_engine_and_into_the_settings() -> None:
    given = EngineOptions(quantization="fp8", gpu_memory_utilization=0.3, trust_remote_code=True)
    plain, with_options = setup_of(EngineOptions()), setup_of(given)
    before, after = plain.engine.of(NONE), with_options.engine.of(NONE)
    assert after == before | {"quantization": "fp8", "gpu_memory_utilization": 0.3, "trust_remote_code": True}
    for kind in ("acceptance", "speed"):
        assert "engine_options" not in plain.settings()[kind], "as rows are that were stored before there were any"
        assert with_options.settings()[kind]["engine_options"] == {"quantization": "fp8", "gpu_memory_utilization": 0.3}


def test_how_tokens_are_sampled_is_a_setting() -> None:
    """Catches rows of a nucleus beside rows of all tokens, and rows of before that are refused."""
    plain, nucleus = setup_of(EngineOptions()), setup_of(EngineOptions(), top_p=0.95, top_k=20)
    for kind in ("acceptance", "speed"):
        assert nucleus.settings()[kind] == plain.settings()[kind] | {"top_p": 0.95, "top_k": 20}
        assert "top_p" not in plain.settings()[kind]
