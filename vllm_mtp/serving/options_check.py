"""What of vLLM's options a drafter does not bear, and what it passes over.

Asked when vLLM builds the draft model, and by `vllm-mtp doctor` before, so that both say the same in the same words.
"""

from typing import Any

from vllm.config import SpeculativeConfig, VllmConfig

from vllm_mtp.contract.config import MTPConfig
from vllm_mtp.contract.lookup import LARGEST_VOCABULARY, Lookup

ITS_WINDOW = "the drafter has the target's sliding window, and vLLM gives away the blocks that it has left behind"


def refused_options(config: MTPConfig, vllm_config: VllmConfig) -> list[str]:
    """What is wrong with serving this drafter by these options, and what to do; empty: nothing.

    Args:
        config: the drafter's.
        vllm_config: of the engine.
    """
    speculative: Any = vllm_config.speculative_config
    faults = (
        _why_not_sampled(speculative),
        why_no_second_head(config, speculative),
        _why_not_in_a_pipeline(vllm_config.parallel_config.pipeline_parallel_size),
        _why_not_over_contexts(config, vllm_config),
    )
    return [fault for fault in faults if fault]


def why_head_dtype_is_off(config: MTPConfig, speculative: SpeculativeConfig) -> str | None:
    """A warning that the draft head is not in the dtype that config.json asks for; None: nothing to say."""
    if config.draft_head_dtype is None or speculative.use_local_argmax_reduction:
        return None
    return (
        f"The drafter asks for a draft head in {config.draft_head_dtype}, which takes effect only with "
        '"use_local_argmax_reduction": true in speculative_config; it drafts with the head as it is.'
    )


def why_lookup_is_off(config: MTPConfig, vllm_config: VllmConfig) -> str | None:
    """Why a drafter that asks for lookup goes without; None: it has it, or does not ask."""
    if Lookup.of(config.lookup) is None:
        return None
    split = ("decode_context_parallel_size", "prefill_context_parallel_size")
    why = [f"{name} is above 1" for name in split if getattr(vllm_config.parallel_config, name, 1) > 1]
    if vllm_config.cache_config.sliding_window is not None:
        why.append(ITS_WINDOW)
    if config.vocab_size > LARGEST_VOCABULARY:
        why.append(f"vocab_size {config.vocab_size} is above {LARGEST_VOCABULARY}")
    speculative: Any = vllm_config.speculative_config
    if getattr(speculative, "enable_adaptive_verification", False):
        why.append("enable_adaptive_verification learns from draft logits, and would trust every copy")
    if getattr(vllm_config, "watermark_config", None) is not None:
        why.append("a copy is certain, and carries no watermark")
    if _attention_backend(vllm_config) == "FLASHINFER":
        why.append(
            'FlashInfer does not tell a drafter enough: "attention_backend": "TRITON_ATTN" in speculative_config'
        )
    return " and ".join(why) or None


def why_copies_are_wrong(config: MTPConfig, vllm_config: VllmConfig) -> str | None:
    """A warning that copies of what a KV connector brings are those of whoever had the slots before; None: none."""
    connector = vllm_config.kv_transfer_config
    if config.lookup is None or connector is None or not connector.is_kv_consumer:
        return None
    if why_lookup_is_off(config, vllm_config):
        return None
    return (
        "A KV connector brings keys without their tokens: for such a part of a text lookup copies nothing, or another "
        "request's tokens. Where most prompts come so, as on a decode node of disaggregated prefill, switch it off: "
        "`vllm-mtp lookup DRAFT_DIR --off`."
    )


def why_weights_are_random(vllm_config: VllmConfig) -> str | None:
    """Dummy weights are the drafter's too, and who sends the target's afterwards sends it none; None: they are read."""
    own = getattr(vllm_config.speculative_config, "draft_load_config", None)
    if (own or vllm_config.load_config).load_format != "dummy":
        return None
    return (
        "load_format dummy: the drafter's weights are random too, and no update of the target's brings them, so that "
        'nothing is accepted: add "draft_load_config": {"load_format": "auto"} to speculative_config.'
    )


def _attention_backend(vllm_config: VllmConfig) -> str | None:
    """Name of the backend that the drafter's attention was asked to have; None: vLLM chooses."""
    asked = getattr(vllm_config.speculative_config, "attention_backend", None)
    asked = asked or getattr(getattr(vllm_config, "attention_config", None), "backend", None)
    return getattr(asked, "name", None)


def why_no_second_head(config: MTPConfig, speculative: SpeculativeConfig) -> str | None:
    """Refuses a copy of the target's whole head in 8 or 4 bits (vLLM 0.33) beside rows that are cut from the head."""
    asked = getattr(speculative, "draft_lm_head_quantization", None)
    own = "draft_vocab_size" if config.draft_vocab_size is not None else "draft_head_dtype"
    if asked is None or getattr(config, own) is None:
        return None
    return (
        f"speculative_config: draft_lm_head_quantization {asked!r} copies the target's whole head, of which a drafter "
        f"with {own} keeps rows of its own: expected it to be left out. For rows in 8 bits: "
        '"draft_head_dtype" in the drafter\'s config.json, and "use_local_argmax_reduction": true.'
    )


def _why_not_sampled(speculative: SpeculativeConfig) -> str | None:
    """Refuses on the V1 model runner too what V2 refuses: it would make a second head while it serves."""
    sampled = getattr(speculative, "draft_sample_method", None) == "probabilistic"
    if not (sampled and speculative.use_local_argmax_reduction):
        return None
    return (
        'speculative_config: "use_local_argmax_reduction": true drafts greedily, expected it without '
        '"draft_sample_method": "probabilistic".'
    )


def _why_not_over_contexts(config: MTPConfig, vllm_config: VllmConfig) -> str | None:
    """Refuses what vLLM refuses of targets and does not look at in a drafter: ranks that share a context must have the
    same key-value heads."""
    parallel: Any = vllm_config.parallel_config
    over, size = parallel.decode_context_parallel_size, parallel.tensor_parallel_size
    if over == 1 or size >= over * config.num_key_value_heads:
        return None
    return (
        f"decode_context_parallel_size {over} over tensor_parallel_size {size}: expected a drafter of at most "
        f"{size // over} key-value heads, got {config.num_key_value_heads}. Train it with `--num-key-value-heads`, or "
        "leave decode_context_parallel_size out."
    )


def _why_not_in_a_pipeline(size: int) -> str | None:
    if size == 1:
        return None
    return (
        "An MTP drafter shares the target's embedding, which vLLM gives it only without pipeline parallelism: "
        f"expected pipeline_parallel_size 1, got {size}."
    )
