"""What an engine allows its users to ask for and a drafter does not survive. Asked when vLLM builds the draft model."""

import logging
from dataclasses import fields
from fnmatch import fnmatch
from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.distributed.parallel_state import is_global_first_rank

logger = logging.getLogger(__name__)


def check_requests(vllm_config: VllmConfig) -> None:
    """Refuses settings under which a request would end the engine, and warns of those under which drafting would end.

    Raises:
        ValueError: for prompts given as embeddings, on a model runner that ends with the first of them.
    """
    if text := why_no_prompt_embeds(vllm_config):
        raise ValueError(text)
    if is_global_first_rank() and (text := why_sleep_ends_drafting(vllm_config.model_config)):
        logger.warning("%s", text)


def why_no_prompt_embeds(vllm_config: VllmConfig) -> str | None:
    """What would end the engine at the first such request, beside any drafter on the V1 runner; None: nothing."""
    if not vllm_config.model_config.enable_prompt_embeds or getattr(vllm_config, "use_v2_model_runner", False):
        return None
    if prompt_embeds_have_next_tokens():
        return None
    return (
        "enable_prompt_embeds: vLLM's V1 model runner ends at the first request with prompt_embeds beside a drafter, "
        "which needs the prompt's token ids. Serve without --enable-prompt-embeds, or without speculative_config."
    )


def prompt_embeds_have_next_tokens() -> bool:
    """Whether the V1 runner finds what it asks of every request in a round: the id of the token drafted after."""
    from vllm.v1.worker.gpu_input_batch import CachedRequestState

    unset: dict[str, Any] = dict.fromkeys(field.name for field in fields(CachedRequestState))
    try:
        request = CachedRequestState(**unset | {"prompt_embeds": torch.zeros(2, 1), "output_token_ids": []})
        request.get_token_id(1)
    except ValueError:  # Tried to access token index 1, but that token was provided via prompt_embeds
        return False
    except Exception:
        return True
    return True


def why_sleep_ends_drafting(target: Any) -> str | None:
    """Level 2 throws every weight away, and what loads the target's again does not load a drafter's; None: it is kept.

    Args:
        target: vLLM's `ModelConfig`.
    """
    if not getattr(target, "enable_sleep_mode", False):
        return None
    kept = getattr(target, "sleep_preserve_parameter_names", None)
    if any(fnmatch("draft.model.norm.weight", pattern) for pattern in kept or ()):
        return None
    advice = (
        "Use level 1." if kept is None else "Serve with --sleep-preserve-parameter-names 'draft.*', or use level 1."
    )
    return (
        "Sleep mode of level 2 throws the drafter's weights away, and reload_weights loads the target's alone "
        "(vllm-project/vllm#52479): no draft is accepted from then on, the output stays the target's. " + advice
    )
