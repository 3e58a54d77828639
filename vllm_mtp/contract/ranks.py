"""How a drafter's module is divided over tensor-parallel ranks by vLLM's layers, and what a rank holds of it."""

import math

from vllm_mtp.contract.config import MTPConfig
from vllm_mtp.contract.tensors import D2T

_DIVIDED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Projections of which a rank holds its part; all else is on every rank."""
_SIZE_OF_OFFSET, _SIZE_OF_SCALE = 8, 4
"""Bytes of an int64 and of a float32."""


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


def kv_heads_of_rank(num_key_value_heads: int, tensor_parallel_size: int) -> int:
    """Key-value heads that a rank keeps; with more ranks than heads each is kept on several."""
    return max(1, num_key_value_heads // tensor_parallel_size)


def kv_bytes_per_token(config: MTPConfig, element_size: int, tensor_parallel_size: int = 1) -> int:
    """Keys and values of one token in the drafter's layer, on one rank, in bytes."""
    return 2 * kv_heads_of_rank(config.num_key_value_heads, tensor_parallel_size) * config.head_dim * element_size


def weight_bytes(config: MTPConfig, element_size: int, tensor_parallel_size: int = 1) -> int:
    """The module's weights on one rank, in bytes. Embedding and head are the target's: they cost nothing more."""
    total = 0
    for name, shape in config.tensor_shapes().items():
        is_divided = any(part in name for part in _DIVIDED)
        size = _SIZE_OF_OFFSET if name == D2T else element_size
        total += math.ceil(math.prod(shape) / (tensor_parallel_size if is_divided else 1)) * size
    return total


def head_bytes(
    config: MTPConfig, element_size: int, tensor_parallel_size: int = 1, *, is_rounded: bool, in_8_bits: bool
) -> int:
    """The rows that are copied from the target's head, on one rank, in bytes; 0 where it drafts with the head itself.

    Args:
        config: the drafter's.
        element_size: bytes of an element of the target's head.
        tensor_parallel_size: ranks that share the rows, evenly at best.
        is_rounded: `draft_head_dtype` takes effect: all rows are copied where there is no draft vocabulary.
        in_8_bits: rounded rows are kept in 8 bits, with a scale for each; otherwise in the head's own dtype.
    """
    if config.draft_vocab_size is None and not is_rounded:
        return 0
    rows = math.ceil((config.draft_vocab_size or config.vocab_size) / tensor_parallel_size)
    is_small = is_rounded and in_8_bits
    return rows * (config.hidden_size + _SIZE_OF_SCALE if is_small else config.hidden_size * element_size)
