"""The entry of an MTP module: embedding and hidden state, each normed, concatenated, projected.

    c_t = [norm(E x_t) * g_e ; norm(h_t) * g_h]             norm(x) = x / sqrt(mean x^2 + eps)
    u_t = W c_t                                             W [N, 2D]; or [norm(h) ; norm(E x)] with it

Two forms. In two launches: `norms_kernel` gathers, norms and writes c, the library multiplies. In one launch
(`projection_kernel`): the factor 1 / rms is a number for each token, so that it may follow the product,

    W c_t = W_e (g_e * E x_t) / rms(E x_t) + W_h (g_h * h_t) / rms(h_t),

and the sums of squares are taken from the very tiles that are multiplied: c is never written, and with g folded into W
(`fold_norm_weights`) tiles are multiplied as they were read, without a rounding of c.

Backward keeps nothing but the arguments: c is made again where dW needs it. With d = du W, the gradient of c, and for
each half x, g and its part of d,

    dx = (g d - n mean(g d n)) / rms(x)        dg = sum_t d n        n = x / rms(x)

where the sum over tokens goes through one partial sum for each program, in an order that never changes. The embedding
is the target's and frozen: it has no gradient.

Source: gather and norms in one launch is vLLM's fused_embed_eh_norm; the deferred 1 / rms is FlashNorm's (arXiv
2407.09577). Both together with the product, and backward, are new here.
"""

# Shapes: T tokens, V vocabulary, D hidden size, N outputs, C = 2D, P partial sums; of a block in a kernel, of the whole
# outside and behind pointers.

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from vllm_mtp.kernels.common.tables import (
    TOKEN_BUCKETS,
    Launch,
    Table,
    architecture,
    launch,
    shared_bytes,
    token_bucket,
)
from vllm_mtp.kernels.common.triton_common import dot
from vllm_mtp.kernels.embed_hidden_projection import reference


def _launches(num_stages: int) -> dict[int, Launch]:
    """By token bucket: with few tokens, few outputs for each program, so that every multiprocessor has one."""
    few = {"BLOCK_N": 32, "BLOCK_D": 128}
    many = {"BLOCK_N": 64, "BLOCK_D": 64}
    return {
        bucket: Launch({"BLOCK_T": min(bucket, 64), **(few if bucket <= 32 else many)}, 4, num_stages)
        for bucket in TOKEN_BUCKETS
    }


# Chosen by what compiles without spills: not yet measured on a GPU.
PROJECTION: dict[str, Table] = {
    "16 bits": {
        **dict.fromkeys(("sm_80", "sm_90", "sm_100"), _launches(num_stages=4)),
        "default": _launches(num_stages=2),
    },
    "32 bits": {
        "sm_100": {0: Launch({"BLOCK_N": 32, "BLOCK_T": 16, "BLOCK_D": 32}, 8, 2)},  # with four warps it spills
        "default": {0: Launch({"BLOCK_N": 32, "BLOCK_T": 16, "BLOCK_D": 32}, 4, 2)},
    },
}
"""Launches of `projection_kernel`, by the bits of its factors."""
_TO_TRY = {
    "16 bits": (
        (16, 256, 4, 4), (32, 128, 4, 3), (32, 128, 4, 4), (32, 128, 4, 5), (32, 256, 4, 3), (64, 64, 4, 4),
        (64, 64, 8, 4), (64, 128, 4, 3), (64, 128, 8, 4), (128, 64, 8, 4),
    ),
    "32 bits": ((32, 32, 4, 2), (32, 32, 8, 2), (32, 64, 8, 2), (64, 32, 8, 2)),
}  # fmt: skip
"""What `bench kernels --tune` measures beside a table's entry: BLOCK_N, BLOCK_D, warps, stages."""
ONE_LAUNCH: dict[str, frozenset[int]] = {}
"""Token buckets in which one launch is the faster form, by architecture.

Empty until it has won on a GPU: by arithmetic it saves less than 3 us of a draft step, and few tokens are where the
library's product is already at the speed of memory.
"""
_MAX_PARTIAL_SUMS = 256
"""Of a norm weight's gradient: programs of the backward, each with a run of tokens; they are added up at the end."""


def launches_to_try(name: str, bucket: int, architecture: str) -> list[Launch]:
    """Launches of a table's kernel that are worth measuring, of those that can run."""
    found = [
        Launch({"BLOCK_N": outputs, "BLOCK_T": min(bucket, 64), "BLOCK_D": columns}, num_warps, num_stages)
        for outputs, columns, num_warps, num_stages in _TO_TRY[name]
    ]
    return [chosen for chosen in found if can_run(name, chosen, architecture)]


def can_run(name: str, chosen: Launch, architecture: str) -> bool:
    """Whether the tiles that are on their way fit into shared memory, and both sums into half the registers."""
    outputs, tokens, columns = (chosen.tiles[block] for block in ("BLOCK_N", "BLOCK_T", "BLOCK_D"))
    number_bytes = 4 if name == "32 bits" else 2
    on_their_way = max(chosen.num_stages - 1, 1) * columns * (outputs + tokens) * number_bytes
    return on_their_way <= shared_bytes(architecture) and 2 * outputs * tokens <= 128 * 32 * chosen.num_warps


def embed_hidden_projection(
    ids_T: Tensor | None,
    embedding: Tensor,
    hidden_TD: Tensor,
    weight_NC: Tensor,
    embed_norm_D: Tensor | None,
    hidden_norm_D: Tensor | None,
    positions_T: Tensor | None,
    eps: float,
    embed_first: bool,
    unit_offset: bool,
    one_launch: bool | None,
) -> Tensor:
    """Launches one of the two forms; arguments and result are those of the plain `embed_hidden_projection_forward`."""
    if weight_NC.dtype == torch.float64:  # for tests and the curious: the kernels compute in float32
        return reference.embed_hidden_projection_forward(
            ids_T, embedding, hidden_TD, weight_NC, embed_norm_D, hidden_norm_D, positions_T,
            eps, embed_first, unit_offset,
        )  # fmt: skip
    num_tokens, hidden_size = hidden_TD.shape
    if one_launch is None:
        one_launch = token_bucket(num_tokens) in ONE_LAUNCH.get(architecture(hidden_TD.device), ())
    if not num_tokens or not one_launch:
        normed_TC = _norms(
            ids_T,
            embedding,
            hidden_TD,
            weight_NC,
            embed_norm_D,
            hidden_norm_D,
            positions_T,
            eps,
            embed_first,
            unit_offset,
        )
        return F.linear(normed_TC, weight_NC)
    num_outputs = len(weight_NC)
    output_TN = hidden_TD.new_empty(num_tokens, num_outputs)
    table = PROJECTION["32 bits" if weight_NC.dtype == torch.float32 else "16 bits"]
    chosen = launch(table, num_tokens, hidden_TD.device)
    grid = triton.cdiv(num_outputs, chosen.tiles["BLOCK_N"]), triton.cdiv(num_tokens, chosen.tiles["BLOCK_T"])
    projection_kernel[grid](
        ids_T,
        embedding,
        hidden_TD,
        weight_NC,
        embed_norm_D,
        hidden_norm_D,
        positions_T,
        output_TN,
        num_tokens,
        num_outputs,
        hidden_size,
        embedding.stride(0),
        hidden_TD.stride(0),
        weight_NC.stride(0),
        eps,
        EMBED_FIRST=embed_first,
        UNIT_OFFSET=unit_offset,
        EVEN=hidden_size % chosen.tiles["BLOCK_D"] == 0,
        **chosen.arguments(),
    )
    return output_TN


def embed_hidden_projection_backward(
    gradient_TN: Tensor,
    ids_T: Tensor | None,
    embedding: Tensor,
    hidden_TD: Tensor,
    weight_NC: Tensor,
    embed_norm_D: Tensor | None,
    hidden_norm_D: Tensor | None,
    positions_T: Tensor | None,
    eps: float,
    embed_first: bool,
    unit_offset: bool,
    for_hidden: bool,
    for_weight: bool,
    for_norms: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Launches; arguments and results are those of the plain function of this name."""
    if weight_NC.dtype == torch.float64:
        return reference.embed_hidden_projection_backward(
            gradient_TN, ids_T, embedding, hidden_TD, weight_NC, embed_norm_D, hidden_norm_D, positions_T,
            eps, embed_first, unit_offset, for_hidden, for_weight, for_norms,
        )  # fmt: skip
    hidden_size = hidden_TD.size(1)
    of_hidden_TD, of_weight_NC, of_embed_norm_D, of_hidden_norm_D = (hidden_TD.new_empty(0) for _ in range(4))
    if for_weight:
        normed_TC = _norms(
            ids_T,
            embedding,
            hidden_TD,
            weight_NC,
            embed_norm_D,
            hidden_norm_D,
            positions_T,
            eps,
            embed_first,
            unit_offset,
        )
        of_weight_NC = gradient_TN.T @ normed_TC
    if for_hidden or for_norms:
        of_normed_TC = gradient_TN @ weight_NC
        first_TD, second_TD = of_normed_TC[:, :hidden_size], of_normed_TC[:, hidden_size:]
        of_embed_TD, of_hidden_half_TD = (first_TD, second_TD) if embed_first else (second_TD, first_TD)
        if for_norms and embed_norm_D is not None:
            _, of_embed_norm_D = _norm_backward(
                of_embed_TD,
                ids_T,
                embedding,
                embed_norm_D,
                positions_T,
                eps,
                unit_offset,
                for_rows=False,
                for_norm=True,
            )
        of_hidden_TD, of_hidden_norm_D = _norm_backward(
            of_hidden_half_TD,
            None,
            hidden_TD,
            hidden_norm_D,
            None,
            eps,
            unit_offset,
            for_rows=for_hidden,
            for_norm=for_norms and hidden_norm_D is not None,
        )
    return of_hidden_TD, of_weight_NC, of_embed_norm_D, of_hidden_norm_D


def _norms(
    ids_T: Tensor | None,
    embedding: Tensor,
    hidden_TD: Tensor,
    weight_NC: Tensor,
    embed_norm_D: Tensor | None,
    hidden_norm_D: Tensor | None,
    positions_T: Tensor | None,
    eps: float,
    embed_first: bool,
    unit_offset: bool,
) -> Tensor:
    """c, [T, C], in the weight's dtype."""
    num_tokens, hidden_size = hidden_TD.shape
    normed_TC = torch.empty(num_tokens, 2 * hidden_size, dtype=weight_NC.dtype, device=hidden_TD.device)
    if num_tokens:
        norms_kernel[(num_tokens, 2)](
            ids_T,
            embedding,
            hidden_TD,
            embed_norm_D,
            hidden_norm_D,
            positions_T,
            normed_TC,
            hidden_size,
            embedding.stride(0),
            hidden_TD.stride(0),
            eps,
            EMBED_FIRST=embed_first,
            UNIT_OFFSET=unit_offset,
            **row_launch(hidden_size).arguments(),
        )
    return normed_TC


def _norm_backward(
    gradient_TD: Tensor,
    ids_T: Tensor | None,
    rows: Tensor,
    norm_D: Tensor | None,
    positions_T: Tensor | None,
    eps: float,
    unit_offset: bool,
    *,
    for_rows: bool,
    for_norm: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of one half's rows and norm weight; empty where they are not asked for."""
    num_tokens, hidden_size = gradient_TD.shape
    num_rows_each = max(1, triton.cdiv(num_tokens, _MAX_PARTIAL_SUMS))
    num_programs = triton.cdiv(num_tokens, num_rows_each)
    of_rows_TD = rows.new_empty((num_tokens, hidden_size) if for_rows else 0)
    partial_PD = torch.empty(
        (num_programs, hidden_size) if for_norm else 0, dtype=torch.float32, device=gradient_TD.device
    )
    if num_programs and (for_rows or for_norm):
        norm_backward_kernel[(num_programs,)](
            gradient_TD,
            ids_T,
            rows,
            norm_D,
            positions_T,
            of_rows_TD if for_rows else None,
            partial_PD if for_norm else None,
            num_tokens,
            num_rows_each,
            hidden_size,
            gradient_TD.stride(0),
            rows.stride(0),
            eps,
            UNIT_OFFSET=unit_offset,
            **row_launch(hidden_size).arguments(),
        )
    if norm_D is None or not for_norm:
        return of_rows_TD, rows.new_empty(0)
    return of_rows_TD, partial_PD.sum(0).to(norm_D.dtype)


def row_launch(hidden_size: int) -> Launch:
    """A program holds a whole row: 16 numbers for each thread or more; 8, 16 bytes, in the wider warps of AMD."""
    block = triton.next_power_of_2(hidden_size)
    return Launch({"BLOCK_D": block}, num_warps=min(max(block // 512, 1), 16))


@triton.jit
def norms_kernel(  # type: ignore[no-untyped-def]
    ids_ptr,  # [T]; None: the embedding has a row for each token
    embedding_ptr,  # [V, D], or [T, D]
    hidden_ptr,  # [T, D]
    embed_norm_ptr,  # [D] or None
    hidden_norm_ptr,  # [D] or None
    positions_ptr,  # [T] or None
    normed_ptr,  # [T, C]
    hidden_size,
    embedding_stride,
    hidden_stride,
    eps,
    EMBED_FIRST: tl.constexpr,
    UNIT_OFFSET: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One half of a row of c; program (token, half: 0 the embedding's, 1 the hidden state's)."""
    token = tl.program_id(0).to(tl.int64)
    d_D = tl.arange(0, BLOCK_D)
    inside_D = d_D < hidden_size
    if tl.program_id(1) == 0:
        row = _embedding_row(token, ids_ptr)
        counts_D = d_D < _embedding_size(token, positions_ptr, hidden_size)
        x_D = tl.load(embedding_ptr + row * embedding_stride + d_D, mask=counts_D, other=0.0).to(tl.float32)
        y_D = x_D * _inverse_rms(tl.sum(x_D * x_D, axis=0), hidden_size, eps)
        y_D = _times_norm_weight(y_D, embed_norm_ptr, d_D, inside_D, UNIT_OFFSET)
        offset = 0 if EMBED_FIRST else hidden_size
    else:
        x_D = tl.load(hidden_ptr + token * hidden_stride + d_D, mask=inside_D, other=0.0).to(tl.float32)
        y_D = x_D * _inverse_rms(tl.sum(x_D * x_D, axis=0), hidden_size, eps)
        y_D = _times_norm_weight(y_D, hidden_norm_ptr, d_D, inside_D, UNIT_OFFSET)
        offset = hidden_size if EMBED_FIRST else 0
    to_D = normed_ptr + token * 2 * hidden_size + offset + d_D
    tl.store(to_D, y_D.to(normed_ptr.dtype.element_ty), mask=inside_D)


@triton.jit(do_not_specialize=["num_tokens"])
def projection_kernel(  # type: ignore[no-untyped-def]
    ids_ptr,  # [T]; None: the embedding has a row for each token
    embedding_ptr,  # [V, D], or [T, D]
    hidden_ptr,  # [T, D]
    weight_ptr,  # [N, C]
    embed_norm_ptr,  # [D] or None
    hidden_norm_ptr,  # [D] or None
    positions_ptr,  # [T] or None
    output_ptr,  # [T, N]
    num_tokens,
    num_outputs,
    hidden_size,
    embedding_stride,
    hidden_stride,
    weight_stride,
    eps,
    EMBED_FIRST: tl.constexpr,
    UNIT_OFFSET: tl.constexpr,
    EVEN: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """A tile of u; program (block of outputs, block of tokens). Outputs are the left factor, as tokens may be few."""
    n_N = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    token_T = tl.program_id(1) * BLOCK_T + tl.arange(0, BLOCK_T)
    # What lies beyond the last output or token reads the last one again: loads without a mask keep their 16 bytes.
    weight_ptrs_N = weight_ptr + tl.minimum(n_N, num_outputs - 1).to(tl.int64) * weight_stride
    from_T = tl.minimum(token_T, num_tokens - 1).to(tl.int64)
    sum_NT = _normed_product(
        weight_ptrs_N + (0 if EMBED_FIRST else hidden_size),
        embedding_ptr + _embedding_row(from_T, ids_ptr) * embedding_stride,
        embed_norm_ptr,
        hidden_size,
        eps,
        UNIT_OFFSET,
        EVEN,
        BLOCK_N,
        BLOCK_T,
        BLOCK_D,
    )
    if positions_ptr is not None:
        sum_NT = tl.where((tl.load(positions_ptr + from_T) != 0)[None, :], sum_NT, 0.0)
    sum_NT += _normed_product(
        weight_ptrs_N + (hidden_size if EMBED_FIRST else 0),
        hidden_ptr + from_T * hidden_stride,
        hidden_norm_ptr,
        hidden_size,
        eps,
        UNIT_OFFSET,
        EVEN,
        BLOCK_N,
        BLOCK_T,
        BLOCK_D,
    )
    to_NT = output_ptr + token_T.to(tl.int64)[None, :] * num_outputs + n_N[:, None]
    inside_NT = (n_N < num_outputs)[:, None] & (token_T < num_tokens)[None, :]
    tl.store(to_NT, sum_NT.to(output_ptr.dtype.element_ty), mask=inside_NT)


@triton.jit(do_not_specialize=["num_tokens", "num_rows_each"])
def norm_backward_kernel(  # type: ignore[no-untyped-def]
    gradient_ptr,  # [T, D], of the half of c
    ids_ptr,  # [T]; None: there is a row for each token
    rows_ptr,  # [V, D] or [T, D]
    norm_ptr,  # [D] or None
    positions_ptr,  # [T] or None
    of_rows_ptr,  # [T, D] or None
    partial_ptr,  # [P, D] or None
    num_tokens,
    num_rows_each,
    hidden_size,
    gradient_stride,
    rows_stride,
    eps,
    UNIT_OFFSET: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """dx of some tokens of one half, and the sum of their dg; program (block of tokens)."""
    program = tl.program_id(0)
    d_D = tl.arange(0, BLOCK_D)
    inside_D = d_D < hidden_size
    sum_D = tl.zeros((BLOCK_D,), tl.float32)
    for i in range(0, num_rows_each):
        token = (program * num_rows_each + i).to(tl.int64)
        loaded_D = d_D < tl.where(token < num_tokens, hidden_size, 0)
        from_token = tl.minimum(token, num_tokens - 1)
        row = _embedding_row(from_token, ids_ptr)
        counts_D = d_D < tl.where(token < num_tokens, _embedding_size(from_token, positions_ptr, hidden_size), 0)
        x_D = tl.load(rows_ptr + row * rows_stride + d_D, mask=counts_D, other=0.0).to(tl.float32)
        d_x_D = tl.load(gradient_ptr + from_token * gradient_stride + d_D, mask=loaded_D, other=0.0).to(tl.float32)
        inverse_rms = _inverse_rms(tl.sum(x_D * x_D, axis=0), hidden_size, eps)
        n_D = x_D * inverse_rms
        if partial_ptr is not None:
            sum_D += d_x_D * n_D
        if of_rows_ptr is not None:
            d_x_D = _times_norm_weight(d_x_D, norm_ptr, d_D, inside_D, UNIT_OFFSET)
            d_x_D = (d_x_D - n_D * (tl.sum(d_x_D * n_D, axis=0) / hidden_size)) * inverse_rms
            to_D = of_rows_ptr + token * hidden_size + d_D
            tl.store(to_D, d_x_D.to(of_rows_ptr.dtype.element_ty), mask=loaded_D)
    if partial_ptr is not None:
        tl.store(partial_ptr + program.to(tl.int64) * hidden_size + d_D, sum_D, mask=inside_D)


@triton.jit
def _embedding_row(token, ids_ptr):  # type: ignore[no-untyped-def]
    """The row that is a token's embedding; of one token, or of a block of them."""
    return tl.load(ids_ptr + token).to(tl.int64) if ids_ptr is not None else token


@triton.jit
def _embedding_size(token, positions_ptr, hidden_size):  # type: ignore[no-untyped-def]
    """How many numbers of a token's embedding count: none at position 0, where positions are given."""
    if positions_ptr is not None:
        hidden_size = tl.where(tl.load(positions_ptr + token) != 0, hidden_size, 0)
    return hidden_size


@triton.jit
def _inverse_rms(sum_of_squares, hidden_size, eps):  # type: ignore[no-untyped-def]
    return tl.rsqrt(sum_of_squares / hidden_size + eps)


@triton.jit
def _times_norm_weight(x_D, norm_ptr, d_D, inside_D, UNIT_OFFSET: tl.constexpr):  # type: ignore[no-untyped-def]
    if norm_ptr is not None:
        g_D = tl.load(norm_ptr + d_D, mask=inside_D, other=0.0).to(tl.float32)
        x_D *= g_D + 1.0 if UNIT_OFFSET else g_D
    return x_D


@triton.jit
def _normed_product(  # type: ignore[no-untyped-def]
    weight_ptrs_N,
    row_ptrs_T,
    norm_ptr,
    hidden_size,
    eps,
    UNIT_OFFSET: tl.constexpr,
    EVEN: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """W_half (g * x) / rms(x): the sum of squares comes from the tiles that are multiplied."""
    d_D = tl.arange(0, BLOCK_D)
    sum_NT = tl.zeros((BLOCK_N, BLOCK_T), tl.float32)
    squares_T = tl.zeros((BLOCK_T,), tl.float32)
    for start in range(0, hidden_size, BLOCK_D):
        at_D = start + d_D
        inside_D = at_D < hidden_size
        if EVEN:
            weight_ND = tl.load(weight_ptrs_N[:, None] + at_D[None, :], eviction_policy="evict_first")
            x_DT = tl.load(row_ptrs_T[None, :] + at_D[:, None])
        else:
            weight_ND = tl.load(
                weight_ptrs_N[:, None] + at_D[None, :],
                mask=inside_D[None, :],
                other=0.0,
                eviction_policy="evict_first",
            )
            x_DT = tl.load(row_ptrs_T[None, :] + at_D[:, None], mask=inside_D[:, None], other=0.0)
        wide_DT = x_DT.to(tl.float32)
        squares_T += tl.sum(wide_DT * wide_DT, axis=0)
        if norm_ptr is not None:
            g_D = tl.load(norm_ptr + at_D, mask=inside_D, other=0.0).to(tl.float32)
            g_D += 1.0 if UNIT_OFFSET else 0.0
            x_DT = (wide_DT * g_D[:, None]).to(x_DT.dtype)
        sum_NT = dot(weight_ND, x_DT, sum_NT)
    return sum_NT * _inverse_rms(squares_T, hidden_size, eps)[None, :]
