"""The rows of the target's LM head that a draft vocabulary needs, as a head of its own on vLLM's layers.

    q = softmax over the draft vocabulary of (W[ids] s)         W [V, D]: the target's head, ids [J]: what is drafted

A draft step then reads J rows of W instead of V. The rows are copied once, and do not follow weights that are exchanged
while the target is served; ids are mapped back afterwards.
"""

# Shapes: T rows of hidden states, D hidden size, V vocabulary, J draft vocabulary, R tensor-parallel ranks,
# N rows of every rank's draft head, P rows multiplied at once.

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.model_executor.layers.vocab_parallel_embedding import (
    UnquantizedEmbeddingMethod,
    VocabParallelEmbeddingShardIndices,
)

_CHUNK = 128
# What the rounding of activations in a quantised kernel can make out of a hidden state is below 5%.
_MAX_ERROR = 0.1


class DraftHead(nn.Module):
    """Rows of a head, in the form in which `LogitsProcessor` takes heads: it multiplies, gathers, caps and scales.

    Every tensor-parallel rank keeps the rows of its own part of the vocabulary: ascending ids, so that the ranks' rows
    in order are the draft vocabulary in order. Gathering wants the same number on every rank, the largest, N; the rows
    missing on a rank are zeros at its end. Column r N + i of gathered logits is row i of rank r. It never exceeds the
    row's target id, so that a processor for V columns cuts off no row.
    """

    def __init__(self, head: Any, ids_J: Tensor, dtype: torch.dtype) -> None:
        """Cuts the rows.

        Args:
            head: the target's `ParallelLMHead` (or embedding that serves as one), after loading, quantised or not.
            ids_J: the target ids that are drafted, ascending.
            dtype: of hidden states.

        Raises:
            ValueError: if the rows cannot be read from the head.
        """
        super().__init__()
        self.tp_size: int = head.tp_size
        num_ids_per_shard = head.shard_indices.num_org_elements_padded
        rank = head.shard_indices.padded_org_vocab_start_index // num_ids_per_shard
        rank_J = ids_J // num_ids_per_shard
        num_rows_R = torch.bincount(rank_J, minlength=self.tp_size)
        first_row_R = num_rows_R.cumsum(0) - num_rows_R
        num_rows, width = int(num_rows_R[rank]), int(num_rows_R.max())
        column_J = rank_J * width + torch.arange(len(ids_J), device=ids_J.device) - first_row_R[rank_J]
        start, end = rank * width, self.tp_size * width
        self.shard_indices = VocabParallelEmbeddingShardIndices(
            padded_org_vocab_start_index=start,
            padded_org_vocab_end_index=start + width,
            padded_added_vocab_start_index=end,
            padded_added_vocab_end_index=end,
            org_vocab_start_index=start,
            org_vocab_end_index=start + num_rows,
            added_vocab_start_index=end,
            added_vocab_end_index=end,
        )
        self.ids_J, self.column_J = ids_J, None if self.tp_size == 1 else column_J
        self.id_of_column = ids_J.new_zeros(end).index_copy_(0, column_J, ids_J)

        rows = ids_J[rank_J == rank] - head.shard_indices.org_vocab_start_index
        padding = (0, 0, 0, width - num_rows)
        self.weight = nn.Parameter(F.pad(_rows(head, rows, dtype), padding), requires_grad=False)
        bias = getattr(head, "bias", None)
        if bias is not None:
            bias = nn.Parameter(F.pad(bias[rows].to(dtype), padding[2:]), requires_grad=False)
        self.register_parameter("bias", bias)
        self.quant_method = UnquantizedEmbeddingMethod()
        self.quant_method.process_weights_after_loading(self)  # packs the rows for the kernel that vLLM uses on a CPU

    def target_ids(self, columns_T: Tensor) -> Tensor:
        """The target ids of columns of the (gathered) logits, [T]."""
        return self.id_of_column[columns_T]

    def at_target_width(self, logits: Tensor, vocab_size: int) -> Tensor:
        """Spreads the columns of the (gathered) logits over the target's vocabulary, [T, V]; -inf elsewhere.

        A new tensor at every call, though only J of its columns change: vLLM divides logits by the temperature in
        place and keeps those of one draft step while the next one runs.
        """
        logits_TJ = logits if self.column_J is None else logits[:, self.column_J]
        logits_TV = logits.new_full((len(logits), vocab_size), float("-inf"))
        return logits_TV.index_copy_(1, self.ids_J, logits_TJ)


def _rows(head: Any, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows of the rank's part of a head, as a copy: from its weight where that is plain, else multiplied out.

    Raises:
        ValueError: if hidden states get other logits from the rows than from the head.
    """
    plain = isinstance(head.quant_method, UnquantizedEmbeddingMethod | UnquantizedLinearMethod)
    # On a CPU vLLM empties the weight of some heads once it is packed.
    if plain and head.weight.shape == (head.num_embeddings_per_partition, head.embedding_dim):
        found: Tensor = head.weight[rows].to(dtype)
    else:
        found = _multiplied_out(head, rows, dtype)
    # Several hidden states: a rank may have a single row, and one state's logit may be next to nothing.
    states_PD = torch.randn(16, head.embedding_dim, generator=torch.Generator("cpu").manual_seed(0), device="cpu")
    states_PD = states_PD.to(rows.device, dtype)
    expected, logits = head.quant_method.apply(head, states_PD)[:, rows].float(), F.linear(states_PD, found).float()
    if not (expected - logits).norm() <= _MAX_ERROR * expected.norm():
        raise ValueError(
            "A draft vocabulary needs rows of the target's LM head. Expected rows that give the head's own logits, got "
            f"others from this one ({type(head).__name__}, {type(head.quant_method).__name__}): serve a target whose "
            "LM head is not quantised, or a drafter without draft_vocab_size."
        )
    return found


def _multiplied_out(head: Any, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows of a head that is known by its products alone, by multiplying it with unit vectors, some at once."""
    size = head.embedding_dim
    found = torch.empty(len(rows), size, dtype=dtype, device=rows.device)
    for start in range(0, size, _CHUNK):
        units_PD = torch.eye(min(_CHUNK, size - start), size, dtype=dtype, device=rows.device).roll(start, dims=1)
        found[:, start : start + _CHUNK] = head.quant_method.apply(head, units_PD)[:, rows].T
    return found
