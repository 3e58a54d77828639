"""How many tokens a target takes, as vLLM reads it from the config."""

from typing import Any

_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
_FACTOR_COUNTS = ("linear", "dynamic")
"""Kinds of RoPE scaling whose factor is not in max_position_embeddings already, in all models but these."""
_COUNTED_ALREADY = "gemma3"


def context_of(config: Any) -> int | None:
    """The target's context in tokens; None where its config has no limit.

    Args:
        config: of transformers.

    Source: vllm/config/model.py, `_get_and_verify_max_len`.
    """
    text_config = config.get_text_config()
    limits = [limit for name in _KEYS if isinstance(limit := getattr(text_config, name, None), int)]
    if not limits:
        return None
    if _COUNTED_ALREADY in (config.model_type or ""):
        return min(limits)
    rope = getattr(text_config, "rope_parameters", None) or {}
    kinds = rope.values() if rope and all(isinstance(kind, dict) for kind in rope.values()) else (rope,)
    factors = [kind.get("factor") or 1 for kind in kinds if kind.get("rope_type") in _FACTOR_COUNTS]
    return int(min(limits) * max(factors, default=1))
