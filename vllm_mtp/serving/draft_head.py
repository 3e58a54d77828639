"""The rows of the target's LM head that are drafted with: as a head on vLLM's layers, and as the kernel takes them.

    q = softmax over the draft vocabulary of (W[ids] s)         W [V, D]: the target's head, ids [J]: what is drafted

With a draft vocabulary, a draft step reads J rows of W instead of V; in 8 bits, half of the bytes of each. Such rows
are copied once, and do not follow weights that are exchanged while the target is served.
"""

# Shapes: T rows of hidden states, D hidden size, V vocabulary, J draft vocabulary, R tensor-parallel ranks,
# N rows of every rank's draft head, P rows multiplied at once.

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from vllm.distributed import tensor_model_parallel_all_gather
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.model_executor.layers.vocab_parallel_embedding import (
    UnquantizedEmbeddingMethod,
    VocabParallelEmbeddingShardIndices,
)

from vllm_mtp.kernels.ops import (
    DraftPart,
    combine_draft_parts,
    draft_head_part,
    quantize_head,
    warm_up_draft_head,
)

QUANTISED = {"fp8": torch.float8_e4m3fn, "int8": torch.int8}
"""By `draft_head_dtype` of a drafter's config.json."""
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

    def __init__(self, head: Any, ids_J: Tensor, dtype: torch.dtype, rounded_to: torch.dtype | None = None) -> None:
        """Cuts the rows.

        Args:
            head: the target's `ParallelLMHead` (or embedding that serves as one), after loading, quantised or not.
            ids_J: the target ids that are drafted, ascending.
            dtype: of hidden states.
            rounded_to: rows (and hidden states, see `rounded`) are rounded as an `ArgmaxHead` of this dtype has them,
                and drafted with in their own: where there is no kernel, its drafts, at the speed of the plain head.

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
        weight = _rows(head, rows, dtype)
        self.rounded_to = rounded_to
        if rounded_to is not None:
            weight = _rounded(weight, rounded_to)
        self.weight = nn.Parameter(F.pad(weight, padding), requires_grad=False)
        bias = getattr(head, "bias", None)
        if bias is not None:
            bias = nn.Parameter(F.pad(bias[rows].to(dtype), padding[2:]), requires_grad=False)
        self.register_parameter("bias", bias)
        self.quant_method = UnquantizedEmbeddingMethod()
        self.quant_method.process_weights_after_loading(self)  # packs the rows for the kernel that vLLM uses on a CPU

    def target_ids(self, columns_T: Tensor) -> Tensor:
        """The target ids of columns of the (gathered) logits, [T]."""
        return self.id_of_column[columns_T]

    def rounded(self, hidden_TD: Tensor) -> Tensor:
        """Hidden states as the kernel has them: in float8 beside float8 rows."""
        return _rounded(hidden_TD, self.rounded_to) if self.rounded_to == torch.float8_e4m3fn else hidden_TD

    def at_target_width(self, logits: Tensor, vocab_size: int) -> Tensor:
        """Spreads the columns of the (gathered) logits over the target's vocabulary, [T, V]; -inf elsewhere.

        A new tensor at every call, though only J of its columns change: vLLM divides logits by the temperature in
        place and keeps those of one draft step while the next one runs.
        """
        logits_TJ = logits if self.column_J is None else logits[:, self.column_J]
        logits_TV = logits.new_full((len(logits), vocab_size), float("-inf"))
        return logits_TV.index_copy_(1, self.ids_J, logits_TJ)


class ArgmaxHead(nn.Module):
    """A rank's rows of a head as `kernels.ops.draft_head` takes them: the best token, without logits."""

    weight: Tensor
    scale: Tensor | None
    bias: Tensor | None
    d2t: Tensor | None

    def __init__(self, head: Any, ids_J: Tensor | None, dtype: torch.dtype, quantised: torch.dtype | None) -> None:
        """Takes all rows of a plain head by reference; makes a copy of some, or of rows in 8 bits.

        Args:
            head: the target's `ParallelLMHead` (or embedding that serves as one), after loading.
            ids_J: the target ids that are drafted, ascending; None: all of them.
            dtype: of hidden states.
            quantised: torch.float8_e4m3fn, torch.int8, or None: as they are.

        Raises:
            ValueError: if the rows cannot be read from the head, or the device cannot multiply this dtype.
        """
        super().__init__()
        self.tp_size: int = head.tp_size
        own = head.shard_indices
        self.first_id: int = own.org_vocab_start_index
        device = next(head.parameters()).device
        d2t, rows = None, torch.arange(own.org_vocab_end_index - self.first_id, device=device)
        if ids_J is not None:
            ids_J = ids_J[(ids_J >= self.first_id) & (ids_J < own.org_vocab_end_index)]
            d2t, rows = ids_J - torch.arange(len(ids_J), device=ids_J.device), ids_J - self.first_id
        plain = ids_J is None and _is_plain(head)
        weight = head.weight[: len(rows)] if plain else _rows(head, rows, dtype)
        scale, bias = None, getattr(head, "bias", None)
        if quantised is not None:
            _check_device(quantised, device)
            weight, scale = quantize_head(weight, quantised)
        for name, tensor in (("scale", scale), ("bias", None if bias is None else bias[rows]), ("d2t", d2t)):
            self.register_buffer(name, tensor, persistent=False)
        self.register_buffer("weight", weight, persistent=False)
        if weight.is_cuda and len(weight):
            hidden_dtype = quantised if quantised == torch.float8_e4m3fn else dtype
            warm_up_draft_head(weight, hidden_dtype, **self._options())

    @staticmethod
    def takes(head: Any, ids_J: Tensor | None, quantised: torch.dtype | None) -> bool:
        """Whether there are rows to take: without a copy, a quantised head of the target has none."""
        return ids_J is not None or quantised is not None or _is_plain(head)

    def top_tokens(self, hidden_TD: Tensor) -> Tensor:
        """The target ids of the largest logits on all ranks, [T]; of equal ones the lowest.

        Beside float8 rows, hidden states are float8 too, which costs next to nothing in accuracy and takes both into
        the matrix instruction as they are; beside int8 rows they keep their dtype, which int8 would cost.
        """
        hidden_scale = None
        if self.weight.dtype == torch.float8_e4m3fn:
            hidden_TD, hidden_scale = quantize_head(hidden_TD, self.weight.dtype)
        part = draft_head_part(hidden_TD, self.weight, hidden_scale=hidden_scale, **self._options())
        if self.tp_size == 1:
            return part.id_T
        pair_T2 = torch.stack((part.key_T, part.id_T.float()), dim=-1)  # ids below 2^24 are exact in float32
        pairs_TR2 = tensor_model_parallel_all_gather(pair_T2, dim=-1).view(-1, self.tp_size, 2)
        key_RT, id_RT = pairs_TR2.permute(2, 1, 0)
        return combine_draft_parts(DraftPart(id_RT.long(), key_RT, part.logit_T, part.lse_T)).id_T

    def _options(self) -> dict[str, Any]:
        return {"scale": self.scale, "bias": self.bias, "d2t": self.d2t, "first_id": self.first_id}


def _rounded(rows: Tensor, dtype: torch.dtype) -> Tensor:
    quantised, scale = quantize_head(rows, dtype)
    return (quantised.float() * scale[:, None]).to(rows.dtype)


def _check_device(dtype: torch.dtype, device: torch.device) -> None:
    if dtype != torch.float8_e4m3fn or device.type != "cuda":
        return
    if torch.version.hip or torch.cuda.get_device_capability(device) < (8, 9):
        raise ValueError(
            f'draft_head_dtype "fp8" needs a GPU that multiplies float8 (e4m3fn), got '
            f'{torch.cuda.get_device_name(device)}: write "int8" into the drafter\'s config.json.'
        )


def _is_plain(head: Any) -> bool:
    """Whether a head's weight holds its rows. On a CPU vLLM empties the weight of some heads once it is packed."""
    plain = isinstance(head.quant_method, UnquantizedEmbeddingMethod | UnquantizedLinearMethod)
    return plain and head.weight.shape == (head.num_embeddings_per_partition, head.embedding_dim)


def _rows(head: Any, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows of the rank's part of a head, as a copy: from its weight where that is plain, else multiplied out.

    Raises:
        ValueError: if hidden states get other logits from the rows than from the head.
    """
    if _is_plain(head):
        found: Tensor = head.weight[rows].to(dtype)
    else:
        found = _multiplied_out(head, rows, dtype)
    # Several hidden states: a rank may have a single row, and one state's logit may be next to nothing.
    states_PD = torch.randn(16, head.embedding_dim, generator=torch.Generator("cpu").manual_seed(0), device="cpu")
    states_PD = states_PD.to(rows.device, dtype)
    expected, logits = head.quant_method.apply(head, states_PD)[:, rows].float(), F.linear(states_PD, found).float()
    if not (expected - logits).norm() <= _MAX_ERROR * expected.norm():
        raise ValueError(
            "The draft head needs rows of the target's LM head. Expected rows that give the head's own logits, got "
            f"others from this one ({type(head).__name__}, {type(head.quant_method).__name__}): serve a target whose "
            "LM head is not quantised, or a drafter without draft_vocab_size and draft_head_dtype."
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
