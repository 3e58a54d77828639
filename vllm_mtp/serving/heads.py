"""What drafts tokens from hidden states: the target's LM head, rows of it on vLLM's layers, or rows for the kernel.

    q = softmax over the draft vocabulary of (W[ids] s)         W [V, D]: the target's head, ids [J]: what is drafted

With a draft vocabulary, a draft step reads J rows of W instead of V; in 8 bits, half of the bytes of each. Such rows
are a copy: `follow` makes it anew when the target's weights have been exchanged (exchange.py says when).
"""

# Shapes: T rows of hidden states, D hidden size, V vocabulary, J draft vocabulary, R tensor-parallel ranks,
# N rows of every rank's draft head, P rows multiplied at once.

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from vllm.distributed import tensor_model_parallel_all_gather
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.vocab_parallel_embedding import (
    UnquantizedEmbeddingMethod,
    VocabParallelEmbeddingShardIndices,
)

from vllm_mtp.contract.tensors import d2t_of
from vllm_mtp.kernels.ops import (
    DraftPart,
    HeadRows,
    combine_draft_parts,
    draft_head_part,
    quantize_head,
    warm_up_draft_head,
)
from vllm_mtp.serving.int8_rows import Int8Rows, can_multiply_int8

ROW_DTYPES = {"fp8": torch.float8_e4m3fn, "int8": torch.int8}
"""By `draft_head_dtype` of a drafter's config.json."""
_CHUNK_SIZE = 128
# What the rounding of activations in a quantized kernel makes out of a hidden state: in 8 bits below 5%, in 4 (NVFP4,
# MXFP4) about 10 to 12%. Rows of other tokens are off by more than 100%.
_MAX_ERROR = 0.2


class Head(Protocol):
    """What the draft model asks of its head."""

    @property
    def is_copy(self) -> bool:
        """Whether its rows are no longer the target's own memory."""

    def logits(self, hidden_TD: Tensor) -> Tensor | None:
        """Logits over all of V, -inf outside a draft vocabulary; None on a rank that vLLM gives no logits."""

    def top_tokens(self, hidden_TD: Tensor) -> Tensor:
        """The target ids of the largest logits, [T], without gathering logits from every rank."""

    def follow(self, weight_ND: Tensor | None = None) -> None:
        """Takes over new weights of the target's head; without a copy of rows there is nothing to do.

        Args:
            weight_ND: the head's weight where that is plain and not in its place yet; None: what the head has.
        """


def choose(
    head: Any,
    processor: LogitsProcessor,
    ids_J: Tensor | None,
    *,
    dtype: torch.dtype,
    row_dtype: torch.dtype | None,
    by_kernel: bool,
) -> Head:
    """The head to draft with.

    Args:
        head: the target's `ParallelLMHead` (or embedding that serves as one), after loading, quantized or not.
        processor: vLLM's, with the target's scale and soft cap.
        ids_J: the target ids that are drafted, ascending; None: all of them.
        dtype: of hidden states.
        row_dtype: torch.float8_e4m3fn or torch.int8: what rows are rounded to; None: as they are.
        by_kernel: the best token is all that is asked, and there are kernels to give it.

    Raises:
        ValueError: if rows are needed and cannot be read from the head, or the device cannot multiply their dtype.
    """

    def on_layers() -> Head:
        if ids_J is None and row_dtype is None:
            return TargetHead(head, processor)
        ids = ids_J
        if ids is None:
            ids = torch.arange(processor.vocab_size, device=next(head.parameters()).device)
        return DraftHead(head, processor, ids, dtype, row_dtype)

    # Without a copy, a quantized head of the target has no rows that the kernel could take.
    if by_kernel and (ids_J is not None or row_dtype is not None or is_plain(head)):
        return ArgmaxHead(head, ids_J, dtype, row_dtype, on_layers)
    return on_layers()


@dataclass(frozen=True)
class TargetHead:
    """The target's own head."""

    head: Any
    processor: LogitsProcessor
    is_copy = False

    def logits(self, hidden_TD: Tensor) -> Tensor | None:
        """All of them, [T, V]."""
        logits_TV: Tensor | None = self.processor(self.head, hidden_TD, getattr(self.head, "bias", None))
        return logits_TV

    def top_tokens(self, hidden_TD: Tensor) -> Tensor:
        """Their largest, [T]."""
        top_T: Tensor = self.processor.get_top_tokens(self.head, hidden_TD, getattr(self.head, "bias", None))
        return top_T

    def follow(self, weight_ND: Tensor | None = None) -> None:
        """Nothing: no rows were copied."""


class DraftHead(nn.Module):
    """Rows of a head, in the form in which `LogitsProcessor` takes heads: it multiplies, gathers, caps and scales.

    Every tensor-parallel rank keeps the rows of its own part of the vocabulary: ascending ids, so that the ranks' rows
    in order are the draft vocabulary in order. Gathering wants the same number on every rank, the largest, N; the rows
    missing on a rank are zeros at its end. Column r N + i of gathered logits is row i of rank r. It never exceeds the
    row's target id, so that a processor for V columns cuts off no row.
    """

    bias: nn.Parameter | None
    is_copy = True

    def __init__(
        self, head: Any, processor: LogitsProcessor, ids_J: Tensor, dtype: torch.dtype, row_dtype: torch.dtype | None
    ) -> None:
        """Cuts the rows.

        Args:
            head: the target's.
            processor: vLLM's.
            ids_J: the target ids that are drafted, ascending.
            dtype: of hidden states.
            row_dtype: rows (and hidden states, see `top_tokens`) are rounded as an `ArgmaxHead` of this dtype has them,
                and drafted with in their own: where there is no kernel, its drafts, at the speed of the plain head.
                Where a CPU multiplies int8, rows stay so (int8_rows.py).

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
        self.processor = processor
        self.ids_J, self.column_J = ids_J, None if self.tp_size == 1 else column_J
        self.id_of_column = ids_J.new_zeros(end).index_copy_(0, column_J, ids_J)

        rows = ids_J[rank_J == rank] - head.shard_indices.org_vocab_start_index
        self.row_dtype = row_dtype
        self._cut = _Cut(head, rows, dtype)
        self._padding = (0, 0, 0, width - num_rows)
        weight, bias = self._padded()
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))
        self.quant_method: UnquantizedEmbeddingMethod | Int8Rows
        if row_dtype == torch.int8 and can_multiply_int8(processor, weight):
            self.quant_method = self._int8_rows(weight)
            return
        self.weight = nn.Parameter(self._as_multiplied(weight), requires_grad=False)
        self.quant_method = UnquantizedEmbeddingMethod()
        self.quant_method.process_weights_after_loading(self)  # packs the rows for the kernel that vLLM uses on a CPU

    def _padded(self, weight_ND: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        weight, bias = self._cut.weight(weight_ND), self._cut.bias()
        return F.pad(weight, self._padding), None if bias is None else F.pad(bias, self._padding[2:])

    def _as_multiplied(self, weight_ND: Tensor) -> Tensor:
        return weight_ND if self.row_dtype is None else _rounded(weight_ND, self.row_dtype)

    def _int8_rows(self, weight_ND: Tensor) -> Int8Rows:
        return Int8Rows(*quantize_head(weight_ND, torch.int8), self.bias, weight_ND.dtype)

    @torch.inference_mode()  # the rows were made in it, while vLLM loads weights outside of it
    def follow(self, weight_ND: Tensor | None = None) -> None:
        """Cuts the rows again, into the memory that captured CUDA graphs read."""
        weight, bias = self._padded(weight_ND)
        if bias is not None and self.bias is not None:
            self.bias.copy_(bias)
        if isinstance(self.quant_method, Int8Rows):
            self.quant_method = self._int8_rows(weight)
            return
        self.weight.copy_(self._as_multiplied(weight))
        self.quant_method.process_weights_after_loading(self)

    def logits(self, hidden_TD: Tensor) -> Tensor | None:
        """The rows' logits in their columns of the target's vocabulary, [T, V]; -inf elsewhere.

        A new tensor at every call, though only J of its columns change: vLLM divides logits by the temperature in
        place and keeps those of one draft step while the next one runs.
        """
        logits: Tensor | None = self.processor(self, hidden_TD, self.bias)
        if logits is None:
            return None
        logits_TJ = logits if self.column_J is None else logits[:, self.column_J]
        logits_TV = logits.new_full((len(logits), self.processor.vocab_size), float("-inf"))
        return logits_TV.index_copy_(1, self.ids_J, logits_TJ)

    def top_tokens(self, hidden_TD: Tensor) -> Tensor:
        """The target ids of the largest, [T]; from hidden states as the kernel has them, in float8 beside such rows."""
        if self.row_dtype == torch.float8_e4m3fn:
            hidden_TD = _rounded(hidden_TD, self.row_dtype)
        return self.id_of_column[self.processor.get_top_tokens(self, hidden_TD, self.bias)]


class ArgmaxHead(nn.Module):
    """A rank's rows of a head as `kernels.ops.draft_head_part` takes them: the best token, without logits."""

    weight: Tensor
    scale: Tensor | None
    bias: Tensor | None
    d2t: Tensor | None

    def __init__(
        self,
        head: Any,
        ids_J: Tensor | None,
        dtype: torch.dtype,
        row_dtype: torch.dtype | None,
        on_layers: Callable[[], Head],
    ) -> None:
        """Takes all rows of a plain head by reference; makes a copy of some, or of rows in 8 bits.

        Args:
            head: the target's.
            ids_J: the target ids that are drafted, ascending; None: all of them.
            dtype: of hidden states.
            row_dtype: torch.float8_e4m3fn, torch.int8, or None: as they are.
            on_layers: makes the head that is asked for logits, if anyone ever does.

        Raises:
            ValueError: if the rows cannot be read from the head, or the device cannot multiply this dtype.
        """
        super().__init__()
        self._make_layers = on_layers
        self._layers: Head | None = None
        self.tp_size: int = head.tp_size
        own = head.shard_indices
        self.first_id: int = own.org_vocab_start_index
        device = next(head.parameters()).device
        d2t, rows = None, torch.arange(own.org_vocab_end_index - self.first_id, device=device)
        if ids_J is not None:
            ids_J = ids_J[(ids_J >= self.first_id) & (ids_J < own.org_vocab_end_index)]
            d2t, rows = d2t_of(ids_J), ids_J - self.first_id
        if row_dtype is not None:
            _check_device(row_dtype, device)
        self.row_dtype = row_dtype
        self._cut = None if ids_J is None and row_dtype is None and is_plain(head) else _Cut(head, rows, dtype)
        if self._cut is not None:  # a packed head has no weight to take rows from
            weight, scale, bias = self._quantized(self._cut)
        else:
            weight, scale, bias = head.weight[: len(rows)], None, getattr(head, "bias", None)
        for name, tensor in (("scale", scale), ("bias", bias), ("d2t", d2t), ("weight", weight)):
            self.register_buffer(name, tensor, persistent=False)
        if weight.is_cuda and len(weight):
            warm_up_draft_head(self.rows, row_dtype if row_dtype == torch.float8_e4m3fn else dtype)

    def _quantized(self, cut: "_Cut", weight_ND: Tensor | None = None) -> tuple[Tensor, Tensor | None, Tensor | None]:
        weight, scale = cut.weight(weight_ND), None
        if self.row_dtype is not None:
            weight, scale = quantize_head(weight, self.row_dtype)
        return weight, scale, cut.bias()

    @property
    def is_copy(self) -> bool:
        """Whether the rows are no longer the target's own memory."""
        return self._cut is not None

    @torch.inference_mode()
    def follow(self, weight_ND: Tensor | None = None) -> None:
        """Cuts the rows again, into the memory that captured CUDA graphs read."""
        if self._layers is not None:
            self._layers.follow(weight_ND)
        if self._cut is None:
            return
        new = self._quantized(self._cut, weight_ND)
        for tensor, found in zip((self.weight, self.scale, self.bias), new, strict=True):
            if tensor is not None and found is not None:
                tensor.copy_(found)

    @property
    def rows(self) -> HeadRows:
        """As the kernel takes them."""
        return HeadRows(self.weight, self.scale, self.bias, self.d2t, self.first_id)

    def logits(self, hidden_TD: Tensor) -> Tensor | None:
        """By vLLM's layers: vLLM asks a draft model for logits or for the best token, never for both."""
        if self._layers is None:
            self._layers = self._make_layers()
        return self._layers.logits(hidden_TD)

    def top_tokens(self, hidden_TD: Tensor) -> Tensor:
        """The target ids of the largest logits on all ranks, [T]; of equal ones the lowest.

        Beside float8 rows, hidden states are float8 too, which costs next to nothing in accuracy and takes both into
        the matrix instruction as they are; beside int8 rows they keep their dtype, which int8 would cost.
        """
        hidden_scale_T = None
        if self.weight.dtype == torch.float8_e4m3fn:
            hidden_TD, hidden_scale_T = quantize_head(hidden_TD, self.weight.dtype)
        part = draft_head_part(hidden_TD, self.rows, hidden_scale_T)
        if self.tp_size == 1:
            return part.id_T
        pair_T2 = torch.stack((part.logit_T, part.id_T.float()), dim=-1)  # ids below 2^24 are exact in float32
        pairs_TR2 = tensor_model_parallel_all_gather(pair_T2, dim=-1).view(-1, self.tp_size, 2)
        logit_RT, id_RT = pairs_TR2.permute(2, 1, 0)
        return combine_draft_parts(DraftPart(id_RT.long(), logit_RT)).id_T


def _rounded(rows: Tensor, dtype: torch.dtype) -> Tensor:
    quantized, scale = quantize_head(rows, dtype)
    return (quantized.float() * scale[:, None]).to(rows.dtype)


def _check_device(dtype: torch.dtype, device: torch.device) -> None:
    if dtype != torch.float8_e4m3fn or device.type != "cuda":
        return
    if torch.version.hip or torch.cuda.get_device_capability(device) < (8, 9):
        raise ValueError(
            f'draft_head_dtype "fp8" needs a GPU that multiplies float8 (e4m3fn), got '
            f'{torch.cuda.get_device_name(device)}: write "int8" into the drafter\'s config.json.'
        )


def is_plain(head: Any) -> bool:
    """Whether a head's weight holds its rows. On a CPU vLLM empties the weight of some heads once it is packed."""
    plain = isinstance(head.quant_method, UnquantizedEmbeddingMethod | UnquantizedLinearMethod)
    return plain and head.weight.shape == (head.num_embeddings_per_partition, head.embedding_dim)


class _Cut:
    """Which rows of the rank's part of a head are copied. No module: the head is the target's."""

    def __init__(self, head: Any, rows: Tensor, dtype: torch.dtype) -> None:
        self.head, self.rows, self.dtype = head, rows, dtype
        # Itself, since a head is without its parameters for a moment while vLLM loads them again.
        self.bias_of_head: Tensor | None = getattr(head, "bias", None)

    def weight(self, weight_ND: Tensor | None = None) -> Tensor:
        """The rows; of `weight_ND` where that is given."""
        if weight_ND is not None:
            return weight_ND[self.rows].to(self.dtype)
        return _rows(self.head, self.rows, self.dtype)

    def bias(self) -> Tensor | None:
        """Their bias."""
        return None if self.bias_of_head is None else self.bias_of_head[self.rows].to(self.dtype)


def _rows(head: Any, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows of the rank's part of a head, as a copy: from its weight where that is plain, else multiplied out.

    Multiplied out, too, where a plain weight was written to and vLLM still multiplies by what it had packed of the old
    one, as it does on a CPU: what the target itself says counts.

    Raises:
        ValueError: if hidden states get other logits from the rows than from the head.
    """
    # Several hidden states: a rank may have a single row, and one state's logit may be next to nothing.
    states_PD = torch.randn(16, head.embedding_dim, generator=torch.Generator("cpu").manual_seed(0), device="cpu")
    states_PD = states_PD.to(rows.device, dtype)
    expected = head.quant_method.apply(head, states_PD)[:, rows].float()
    for cut in (_taken, _multiplied_out) if is_plain(head) else (_multiplied_out,):
        found = cut(head, rows, dtype)
        if (expected - F.linear(states_PD, found).float()).norm() <= _MAX_ERROR * expected.norm():
            return found
    raise ValueError(
        "The draft head needs rows of the target's LM head. Expected rows that give the head's own logits, got "
        f"others from this one ({type(head).__name__}, {type(head.quant_method).__name__}): serve a target whose "
        "LM head is not quantized, or a drafter without draft_vocab_size and draft_head_dtype."
    )


def _taken(head: Any, rows: Tensor, dtype: torch.dtype) -> Tensor:
    found: Tensor = head.weight[rows].to(dtype)
    return found


def _multiplied_out(head: Any, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows of a head that is known by its products alone, by multiplying it with unit vectors, some at once."""
    size = head.embedding_dim
    found = torch.empty(len(rows), size, dtype=dtype, device=rows.device)
    for start in range(0, size, _CHUNK_SIZE):
        units_PD = torch.eye(min(_CHUNK_SIZE, size - start), size, dtype=dtype, device=rows.device).roll(start, dims=1)
        found[:, start : start + _CHUNK_SIZE] = head.quant_method.apply(head, units_PD)[:, rows].T
    return found
