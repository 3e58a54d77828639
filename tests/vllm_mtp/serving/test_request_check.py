"""Settings under which a request would end the engine, or drafting would end, are told when the drafter is built.

Catches: an engine that dies for everybody of the first request with prompt_embeds, a refusal where there is no need, a
drafter that accepts nothing after a night's sleep.
"""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.vllm


@pytest.fixture
def request_check() -> Any:
    pytest.importorskip("vllm", reason="needs vLLM")
    from vllm_mtp.serving import request_check

    return request_check


def engine(*, v2: bool = False, **fields: Any) -> Any:
    """vLLM's config, as far as it is read."""
    return SimpleNamespace(
        model_config=SimpleNamespace(**{"enable_prompt_embeds": False} | fields), use_v2_model_runner=v2
    )


def test_prompt_embeds(request_check: Any, target_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.engine.arg_utils import EngineArgs

    def configured(*, enable_prompt_embeds: bool) -> Any:
        arguments = EngineArgs(model=str(target_dir), max_model_len=512, enable_prompt_embeds=enable_prompt_embeds)
        return arguments.create_engine_config()

    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "0")
    request_check.check_requests(configured(enable_prompt_embeds=False))
    request_check.check_requests(engine(enable_prompt_embeds=True, v2=True))
    if request_check.prompt_embeds_have_next_tokens():
        pytest.skip("this vLLM's V1 model runner takes them")
    with pytest.raises(ValueError, match=r"enable_prompt_embeds: .* ends at the first request"):
        request_check.check_requests(configured(enable_prompt_embeds=True))


@pytest.mark.parametrize(
    ("fields", "advice"),
    [
        ({"sleep_preserve_parameter_names": []}, "Serve with --sleep-preserve-parameter-names 'draft.*'"),
        ({"sleep_preserve_parameter_names": ["draft.*"]}, None),
        ({"sleep_preserve_parameter_names": ["*"]}, None),
        ({}, "Use level 1."),
    ],
    ids=["not kept", "kept", "all kept", "vLLM without the setting"],
)
def test_sleep_mode(
    request_check: Any, caplog: pytest.LogCaptureFixture, fields: dict[str, Any], advice: str | None
) -> None:
    with caplog.at_level(logging.WARNING):
        request_check.check_requests(engine(enable_sleep_mode=False, **fields))
        assert not caplog.records
        request_check.check_requests(engine(enable_sleep_mode=True, **fields))
    assert [advice in record.getMessage() for record in caplog.records] == [True] * (advice is not None)
