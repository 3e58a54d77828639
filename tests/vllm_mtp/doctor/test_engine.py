"""What vLLM itself says of a pair, asked of the real one: it makes its config, and loads nothing."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.drafts import config_for, write_random_draft
from tests.vllm_mtp.doctor.cases import case_of, said
from vllm_mtp.common.engine_options import EngineOptions
from vllm_mtp.doctor.engine import context_is_trained, default_requests_pass, options_go_together, vllm_accepts_it
from vllm_mtp.doctor.examine import examine
from vllm_mtp.doctor.finding import ERROR, OK, WARNING

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def draft(target_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_draft(tmp_path_factory.mktemp("d") / "draft", config_for(target_dir, trained_length=80))


def test_a_pair_that_serves(target_dir: Path, draft: Path) -> None:
    found = examine(case_of(target_dir, draft, max_model_len=64))
    assert [(name, one) for name, one in found if one.status == ERROR] == []
    assert said(found, "engine") == [(OK, "method mtp, 3 draft tokens, max_model_len 64")]
    assert said(found, "context") == [(OK, "trained on up to 80 tokens")]
    [(status, memory)] = said(found, "memory")
    assert status == OK
    assert "bytes of KV cache per token" in memory


def test_what_is_broken_is_named_and_the_rest_is_examined(target_dir: Path, draft: Path, tmp_path: Path) -> None:
    """Catches a traceback, and lines that follow from another line."""
    found = examine(case_of(tmp_path / "no-target", draft))
    assert [status for status, _ in said(found, "target")] == [ERROR]
    assert [status for status, _ in said(found, "drafter")] == [OK]
    assert said(found, "engine") == said(found, "pair") == []


def test_contexts_beyond_the_training(target_dir: Path, draft: Path) -> None:
    [found] = context_is_trained(case_of(target_dir, draft, max_model_len=512))
    assert found.status == WARNING
    assert "up to 80 tokens and may meet 512" in found.message
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024, "rope_theta": 1e4}
    extended = json.dumps({"rope_parameters": rope})
    case = case_of(target_dir, draft, hf_overrides=extended, speculative_config='{"max_model_len": 128}')
    messages = " ".join(one.message for one in context_is_trained(case))
    assert "change the target's RoPE" in messages
    assert "max_model_len 128" in messages


@pytest.mark.parametrize(
    ("min_p", "options", "status"),
    [
        (0.05, {}, ERROR),
        (0.0, {}, OK),
        (0.05, {"vllm_args": '{"override_generation_config": {"min_p": 0}}'}, OK),
        (0.05, {"vllm_args": '{"generation_config": "vllm"}'}, OK),
    ],
)
def test_default_sampling_that_vllm_refuses(
    target_dir: Path, draft: Path, tmp_path: Path, min_p: float, options: dict[str, Any], status: str
) -> None:
    """Catches a server on which every plain request fails."""
    target = shutil.copytree(target_dir, tmp_path / "target", copy_function=shutil.copyfile)
    (target / "generation_config.json").write_text(json.dumps({"do_sample": True, "min_p": min_p}))
    [found] = default_requests_pass(case_of(target, draft, engine_options=EngineOptions(**options)))
    assert found.status == status


def test_what_vllm_refuses_is_one_line(target_dir: Path, draft: Path) -> None:
    [found] = vllm_accepts_it(case_of(target_dir, draft, max_model_len=10**6))
    assert found.status == ERROR
    assert "User-specified max_model_len (1000000)" in found.message
    assert "\n" not in found.message
    [found] = vllm_accepts_it(case_of(target_dir, draft, engine_options=EngineOptions(vllm_args='{"no_such": 1}')))
    assert "no_such" in found.message


def test_options_that_exclude_a_drafter(target_dir: Path, draft: Path) -> None:
    further = '{"use_local_argmax_reduction": true, "draft_sample_method": "probabilistic"}'
    options = EngineOptions(vllm_args='{"enable_prompt_embeds": true}')
    found = list(options_go_together(case_of(target_dir, draft, speculative_config=further, engine_options=options)))
    assert [one.status for one in found] == [ERROR, ERROR]
    assert "enable_prompt_embeds" in found[0].message
    assert "drafts greedily" in found[1].message
