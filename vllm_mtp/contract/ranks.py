"""How a drafter's module is divided over tensor-parallel ranks by vLLM's layers, and what a rank holds of it."""

import math

from vllm_mtp.contract.config import MTPConfig

_DIVIDED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Projections of which a rank holds its part; all else is on every rank."""


def why_not_divided(config: MTPConfig, tensor_parallel_size: int) -> str | None:
    """What vLLM cannot divide over so many ranks, and what to do; None: nothing."""
    size, kv_heads = tensor_parallel_size, config.num_key_value_heads
    faults = []
    if config.num_attention_heads % size:
        faults.append(f"{config.num_attention_heads} query heads cannot be split over {size} ranks")
    if max(size, kv_heads) % min(size, kv_heads):
        faults.append(f"{kv_heads} key-value heads can neither be split over {size} ranks nor repeated on them")
    if config.intermediate_size % size:
        faults.append(f"an intermediate_size of {config.intermediate_size} cannot be split over {size} ranks")
    if not faults:
        return None
    return (
        f"The drafter cannot be served with tensor_parallel_size {size}: {'; '.join(faults)}. Choose another "
        "tensor_parallel_size, or train a drafter whose sizes can be divided (`vllm-mtp train --num-attention-heads "
        "--num-key-value-heads --intermediate-size`)."
    )


def kv_heads_of_rank(config: MTPConfig, tensor_parallel_size: int) -> int:
    """Key-value heads that a rank keeps; with more ranks than heads each is kept on several."""
    return max(1, config.num_key_value_heads // tensor_parallel_size)


def kv_bytes_per_token(config: MTPConfig, element_size: int, tensor_parallel_size: int = 1) -> int:
    """Keys and values of one token in the drafter's layer, on one rank, in bytes."""
    return 2 * kv_heads_of_rank(config, tensor_parallel_size) * config.head_dim * element_size


def weight_bytes(config: MTPConfig, element_size: int, tensor_parallel_size: int = 1) -> int:
    """The module's weights on one rank, with the head's rows of a draft vocabulary, in bytes.

    Embedding and head themselves are the target's: they cost nothing more.
    """
    total = 0
    for name, shape in config.tensor_shapes().items():
        is_divided = any(part in name for part in _DIVIDED)
        total += math.ceil(math.prod(shape) / (tensor_parallel_size if is_divided else 1))
    head_rows = math.ceil((config.draft_vocab_size or 0) / tensor_parallel_size)
    return (total + head_rows * config.hidden_size) * element_size
