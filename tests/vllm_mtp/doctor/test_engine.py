"""What vLLM itself says of a pair, asked of the real one: it makes its config, and loads nothing."""

import importlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.drafts import change_config, config_for, write_random_draft
from tests.vllm_mtp.doctor.cases import case_of, said
from vllm_mtp.common.errors import InputError
from vllm_mtp.doctor import engine
from vllm_mtp.doctor.config import ServingOptions
from vllm_mtp.doctor.drafter import memory_of_a_rank
from vllm_mtp.doctor.engine import (
    context_is_trained,
    default_requests_pass,
    embedding_is_shared,
    lookup_is_on,
    options_go_together,
    vllm_accepts_it,
)
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
    assert "max_model_len 128: as soon as one request of a batch is longer" in messages


def test_a_length_of_the_drafters_own_is_passed_over_by_the_v2_runner(
    target_dir: Path, draft: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = case_of(target_dir, draft, speculative_config='{"max_model_len": 128}')
    assert case.engine_config.speculative_config is not None
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "1")  # which vLLM refuses where there is no Triton
    messages = [one.message for one in context_is_trained(case)]
    assert any("max_model_len 128: vLLM's V2 model runner passes it over" in message for message in messages)


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
    [found] = default_requests_pass(case_of(target, draft, engine_options=ServingOptions(**options)))
    assert found.status == status


def test_what_vllm_refuses_is_one_line(target_dir: Path, draft: Path) -> None:
    [found] = vllm_accepts_it(case_of(target_dir, draft, max_model_len=10**6))
    assert found.status == ERROR
    assert "User-specified max_model_len (1000000)" in found.message
    assert "\n" not in found.message
    [found] = vllm_accepts_it(case_of(target_dir, draft, engine_options=ServingOptions(vllm_args='{"no_such": 1}')))
    assert "no_such" in found.message


@pytest.mark.parametrize(
    ("options", "further"),
    [
        ({"tensor_parallel_size": 2}, '{"draft_tensor_parallel_size": 2}'),
        ({"tensor_parallel_size": 2, "vllm_args": '{"decode_context_parallel_size": 2}'}, None),
        ({"vllm_args": '{"enforce_eager": true, "max_num_seqs": 4, "seed": 1, "enable_prefix_caching": false}'}, None),
    ],
    ids=["drafter as wide", "context parallelism", "what other commands decide"],
)
def test_options_that_vllm_takes(
    target_dir: Path, tmp_path: Path, options: dict[str, Any], further: str | None
) -> None:
    """Catches a refusal of what is served, on a machine with fewer GPUs than the one that serves."""
    draft = write_random_draft(tmp_path / "draft", config_for(target_dir, lookup={}))
    case = case_of(target_dir, draft, engine_options=ServingOptions(**options), speculative_config=further)
    assert [(one.status, one.message) for one in vllm_accepts_it(case) if one.status != OK] == []
    is_split = "context" in str(options)
    assert case.engine_config.parallel_config.tensor_parallel_size == options.get("tensor_parallel_size", 1)
    assert [one.status for one in lookup_is_on(case)] == [WARNING if is_split else OK]


def test_gpus_that_are_not_here(target_dir: Path, draft: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches vLLM's question for as many GPUs as serve: stand-in for a machine with one."""
    from vllm.config import ParallelConfig
    from vllm.platforms import current_platform

    case = case_of(target_dir, draft, engine_options=ServingOptions(tensor_parallel_size=2))
    monkeypatch.setattr(type(current_platform), "is_cuda", lambda self: True)
    monkeypatch.setattr(type(current_platform), "device_count", lambda *_: 1, raising=False)
    with pytest.raises(ValueError, match="larger than the number of available GPUs"):
        ParallelConfig(tensor_parallel_size=2)
    backend = case.engine_args()["distributed_executor_backend"]
    assert ParallelConfig(tensor_parallel_size=2, distributed_executor_backend=backend).world_size == 2


@pytest.mark.parametrize("name", ["dtype", "max_model_len", "hf_overrides", "speculative_config", "model"])
def test_what_doctor_is_told_by_itself(name: str) -> None:
    with pytest.raises(InputError, match=f"expected other arguments than {name}"):
        ServingOptions(vllm_args=json.dumps({name: 1}))


def test_options_that_exclude_a_drafter(target_dir: Path, draft: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches another condition, or other words, than serving's own."""
    from vllm_mtp.serving import request_check

    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "0")
    further = '{"use_local_argmax_reduction": true, "draft_sample_method": "probabilistic"}'
    options = ServingOptions(vllm_args='{"enable_prompt_embeds": true, "pipeline_parallel_size": 2}')
    case = case_of(target_dir, draft, speculative_config=further, engine_options=options)
    for fixed in (False, True):
        monkeypatch.setattr(request_check, "prompt_embeds_have_next_tokens", lambda fixed=fixed: fixed)
        found = list(options_go_together(case))
        assert [one.status for one in found] == [ERROR] * (2 if fixed else 3)
        messages = " ".join(one.message for one in found)
        assert "drafts greedily" in messages
        assert "expected pipeline_parallel_size 1, got 2" in messages
        assert ("enable_prompt_embeds" in messages) is not fixed


def test_what_is_asked_for_and_not_got(target_dir: Path, draft: Path, tmp_path: Path) -> None:
    asks = shutil.copytree(draft, tmp_path / "asks")
    change_config(asks, draft_head_dtype="int8")
    statuses = {
        further: [one.status for one in options_go_together(case_of(target_dir, asks, speculative_config=further))]
        for further in (None, '{"use_local_argmax_reduction": true}', '{"quantization": "fp8"}')
    }
    assert list(statuses.values()) == [[WARNING], [OK], [WARNING, WARNING]]


def test_what_newer_engines_and_gpus_are_asked(target_dir: Path, tmp_path: Path) -> None:
    """Sleep mode needs a GPU, a copy of the head vLLM 0.33: their settings are put into vLLM's config."""
    draft = write_random_draft(tmp_path / "draft", config_for(target_dir, draft_vocab_size=8))
    case = case_of(target_dir, draft)
    object.__setattr__(case.engine_config.model_config, "enable_sleep_mode", True)
    object.__setattr__(case.engine_config.speculative_config, "draft_lm_head_quantization", "fp8")
    found = [(one.status, one.message) for one in options_go_together(case)]
    assert [status for status, _ in found] == [ERROR, WARNING]
    assert "draft_lm_head_quantization 'fp8'" in found[0][1]
    assert "Sleep mode of level 2" in found[1][1]


def test_no_advice_that_serving_refuses(target_dir: Path, draft: Path, tmp_path: Path) -> None:
    """Catches advice to draft by probabilities beside an option that drafts greedily."""
    target = shutil.copytree(target_dir, tmp_path / "target", copy_function=shutil.copyfile)
    (target / "generation_config.json").write_text(json.dumps({"do_sample": True, "temperature": 0.6}))
    advised = []
    for further in (None, '{"use_local_argmax_reduction": true}'):
        [found] = default_requests_pass(case_of(target, draft, speculative_config=further))
        advised.append("probabilistic" in found.message)
    assert advised == [True, False]


def test_memory_by_the_dtypes_that_are_served(target_dir: Path, tmp_path: Path) -> None:
    """Catches a KV cache in 8 bits that is counted at the model's dtype, and a copy of the head counted as none."""
    draft = write_random_draft(tmp_path / "draft", config_for(target_dir, draft_head_dtype="int8"))

    def memory(**options: Any) -> tuple[float, int]:
        [found] = memory_of_a_rank(case_of(target_dir, draft, dtype="bfloat16", **options))
        words = found.message.replace(",", "").split()
        return float(words[words.index("MiB") - 1]), int(words[words.index("bytes") - 1])

    weights, kv = memory()
    assert memory(engine_options=ServingOptions(vllm_args='{"kv_cache_dtype": "fp8"}')) == (weights, kv // 2)
    more, _ = memory(speculative_config='{"use_local_argmax_reduction": true}')
    config = config_for(target_dir)
    assert more - weights == pytest.approx(2 * config.vocab_size * config.hidden_size / 2**20, abs=0.11), "on a CPU"


def test_memory_of_draft_logits(target_dir: Path, draft: Path) -> None:
    """Catches what is kept of 1,024 requests by default on an H200 left out: 0.9 GB at a vocabulary of 151,936."""
    options = ServingOptions(vllm_args='{"max_num_seqs": 64}')
    sampled = '{"draft_sample_method": "probabilistic"}'
    case = case_of(target_dir, draft, dtype="bfloat16", engine_options=options, speculative_config=sampled)
    _, found = memory_of_a_rank(case)
    expected = 64 * 3 * case.text_config.vocab_size * 2 / 2**20
    assert found.message.startswith(f"on each rank {expected:,.1f} MiB of draft logits, ")
    assert "of 64 requests" in found.message
    assert len([*memory_of_a_rank(case_of(target_dir, draft))]) == 1


def test_defaults_are_a_server_s(target_dir: Path, draft: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches the logits of 128 requests in place of the 1,024 that `vllm serve` takes on a GPU of 70 GiB."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.usage.usage_lib import UsageContext

    asked, create = [], EngineArgs.create_engine_config

    def created(self: EngineArgs, usage_context: UsageContext | None = None) -> Any:
        asked.append(usage_context)
        return create(self, usage_context)

    monkeypatch.setattr(EngineArgs, "create_engine_config", created)
    assert case_of(target_dir, draft).max_model_len
    assert asked == [UsageContext.OPENAI_API_SERVER]


def test_what_vllm_passes_over_without_an_error(target_dir: Path, draft: Path) -> None:
    """Weights that nobody reads, a schedule that several engines cannot keep."""
    dummy = ServingOptions(vllm_args='{"load_format": "dummy"}')
    own, schedule = (
        '{"draft_load_config": {"load_format": "auto"}}',
        '{"num_speculative_tokens_per_batch_size": [[1, 4, 3]]}',
    )
    for options, further, text in (
        (dummy, None, "the drafter's weights are random too"),
        (dummy, own, None),
        (ServingOptions(), schedule, None),
        (ServingOptions(vllm_args='{"data_parallel_size": 2}'), schedule, "tokens_per_batch_size is left out by vLLM"),
    ):
        [found] = options_go_together(case_of(target_dir, draft, engine_options=options, speculative_config=further))
        assert (found.status, text is None or text in found.message) == (OK if text is None else WARNING, True)


@pytest.mark.parametrize(
    ("options", "further", "text"),
    [
        ('{"attention_config": {"backend": "FLASHINFER"}}', None, "FlashInfer"),
        ('{"attention_config": {"backend": "FLASHINFER"}}', '{"attention_backend": "TRITON_ATTN"}', None),
        (None, '{"attention_backend": "FLASHINFER"}', "FlashInfer"),
    ],
)
def test_lookup_beside_an_attention_that_tells_too_little(
    target_dir: Path, tmp_path: Path, options: str | None, further: str | None, text: str | None
) -> None:
    draft = write_random_draft(tmp_path / "draft", config_for(target_dir, lookup={}))
    case = case_of(target_dir, draft, engine_options=ServingOptions(vllm_args=options), speculative_config=further)
    [found] = lookup_is_on(case)
    assert (found.status, text is None or text in found.message) == (OK if text is None else WARNING, True)


def test_copies_beside_what_they_spoil_and_what_spoils_them(target_dir: Path, tmp_path: Path) -> None:
    """A watermark, and a KV connector. Both need a GPU: they are put into vLLM's config."""
    case = case_of(target_dir, write_random_draft(tmp_path / "draft", config_for(target_dir, lookup={})))
    assert [one.status for one in options_go_together(case)] == [OK]
    object.__setattr__(case.engine_config, "kv_transfer_config", SimpleNamespace(is_kv_consumer=False))
    assert [one.status for one in options_go_together(case)] == [OK], "of a prefill node"
    object.__setattr__(case.engine_config, "kv_transfer_config", SimpleNamespace(is_kv_consumer=True))
    [found] = options_go_together(case)
    assert (found.status, "keys without their tokens" in found.message) == (WARNING, True)
    object.__setattr__(case.engine_config, "watermark_config", SimpleNamespace())
    [found] = lookup_is_on(case)
    assert (found.status, "carries no watermark" in found.message) == (WARNING, True)
    assert [one.status for one in options_go_together(case)] == [OK], "nothing is copied"


def test_ranks_that_share_a_context(target_dir: Path, tmp_path: Path) -> None:
    """vLLM asks it of a GQA target alone: a rank would read its part of the context with another rank's heads."""
    options = ServingOptions(tensor_parallel_size=2, vllm_args='{"decode_context_parallel_size": 2}')
    found = []
    for heads in (1, 2):
        draft = write_random_draft(tmp_path / str(heads), config_for(target_dir, num_key_value_heads=heads))
        case = case_of(target_dir, draft, engine_options=options)
        found += [(one.status, one.message) for one in options_go_together(case)]
    assert [status for status, _ in found] == [OK, ERROR]
    assert "expected a drafter of at most 1 key-value heads, got 2" in found[1][1]


def test_keys_of_another_shape_beside_sliding_windows(target_dir: Path, tmp_path: Path) -> None:
    """Catches fifty groups of the KV cache in place of six, without a word."""
    own = config_for(target_dir).num_key_value_heads
    other = 2 if own == 1 else 1
    for windows, heads, options, is_named in (
        (True, own, None, False),
        (True, other, None, True),
        (False, other, None, False),
        (True, own, '{"kv_cache_dtype": "fp8"}', False),
    ):
        draft = write_random_draft(tmp_path / "draft", config_for(target_dir, num_key_value_heads=heads))
        case = case_of(target_dir, draft, engine_options=ServingOptions(vllm_args=options))
        if windows:
            case.text_config.layer_types = ["sliding_attention", "full_attention"]
        messages = [one.message for one in memory_of_a_rank(case) if one.status == WARNING]
        expected = f"expected {own} key-value heads of "
        assert [expected in text and f"got {other} of" in text for text in messages] == [True] * is_named
        object.__setattr__(case.engine_config.scheduler_config, "disable_hybrid_kv_cache_manager", True)
        assert [one for one in memory_of_a_rank(case) if one.status == WARNING] == [], "all layers are one group"
        shutil.rmtree(draft)


def test_lookup_beside_windows_of_the_whole_target(target_dir: Path, tmp_path: Path) -> None:
    """Catches "copies matches" of a drafter whose lookup the server switches off (Mistral 7B v0.1)."""
    case = case_of(target_dir, write_random_draft(tmp_path / "draft", config_for(target_dir, lookup={})))
    object.__setattr__(case.engine_config.cache_config, "sliding_window", 64)
    [found] = lookup_is_on(case)
    assert (found.status, "the drafter has the target's sliding window" in found.message) == (WARNING, True)


@pytest.mark.parametrize(
    ("module", "name", "has"),
    [
        ("llama", "LlamaForCausalLM", True), ("qwen3", "Qwen3ForCausalLM", True),
        ("bailing_moe_linear", "BailingMoeV25ForCausalLM", True), ("telechat2", "TeleChat2ForCausalLM", True),
        ("transformers", "TransformersForCausalLM", False), ("gpt2", "GPT2LMHeadModel", False),
        ("falcon", "FalconForCausalLM", False), ("bloom", "BloomForCausalLM", False),
        ("chatglm", "ChatGLMForCausalLM", False), ("opt", "OPTForCausalLM", False),
    ],
)  # fmt: skip
def test_classes_whose_embedding_no_drafter_finds(
    target_dir: Path, draft: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str, has: bool
) -> None:
    """Catches `doctor` that lets a pair pass at which vLLM ends; and one that refuses what is served."""
    cls = getattr(importlib.import_module(f"vllm.model_executor.models.{module}"), name)
    monkeypatch.setattr("vllm.model_executor.model_loader.utils.get_model_cls", lambda config: cls)
    case = case_of(target_dir, draft)
    assert [one.status for one in embedding_is_shared(case)] == [OK], "its embedding is named as Llama's"
    stored = "model.decoder.embed_tokens.weight" if module == "opt" else "transformer.word_embeddings.weight"
    monkeypatch.setattr(engine, "stored_embedding", lambda *args, **kwargs: stored)
    [found] = embedding_is_shared(case)
    assert found.status == (OK if has else ERROR)


def test_copies_are_not_what_adaptive_verification_learns_from(target_dir: Path, tmp_path: Path) -> None:
    """Its logits say that a copy is certain (vLLM 0.33, on a GPU: its setting is put into the config)."""
    case = case_of(target_dir, write_random_draft(tmp_path / "draft", config_for(target_dir, lookup={})))
    assert [one.status for one in lookup_is_on(case)] == [OK]
    object.__setattr__(case.engine_config.speculative_config, "enable_adaptive_verification", True)
    [found] = lookup_is_on(case)
    assert (found.status, "would trust every copy" in found.message) == (WARNING, True)
