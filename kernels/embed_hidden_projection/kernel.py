"""The entry of an MTP module: embedding and hidden state, each normed, concatenated, projected.

    c_t = [norm(E x_t) * g_e ; norm(h_t) * g_h]             norm(x) = x / sqrt(mean x^2 + eps)
    u_t = W c_t                                             W [N, 2D]

Two launches: `norms_kernel` gathers, norms and writes c, the library multiplies. The rows E x_t are never written.

Source: gather and norms in one launch is vLLM's fused_embed_eh_norm.
"""

# Shapes: T tokens, V vocabulary, D hidden size, N outputs, C = 2D; of a block in a kernel, of the whole outside and
# behind pointers.

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from vllm_mtp.kernels.common.tables import Launch
from vllm_mtp.kernels.embed_hidden_projection import reference
from vllm_mtp.kernels.embed_hidden_projection.reference import ProjectionArguments


def embed_hidden_projection(a: ProjectionArguments) -> Tensor:
    """Launches the kernel, then the library's product; the plain function of this name says what comes out."""
    if a.weight_NC.dtype == torch.float64:  # for tests and the curious: the kernel computes in float32
        return reference.embed_hidden_projection(a)
    num_tokens, hidden_size = a.hidden_TD.shape
    normed_TC = torch.empty(num_tokens, 2 * hidden_size, dtype=a.weight_NC.dtype, device=a.hidden_TD.device)
    if num_tokens:
        norms_kernel[(num_tokens, 2)](
            a.ids_T,
            a.embedding,
            a.hidden_TD,
            a.embed_norm_D,
            a.hidden_norm_D,
            normed_TC,
            hidden_size,
            a.embedding.stride(0),
            a.hidden_TD.stride(0),
            a.eps,
            **row_launch(hidden_size).arguments(),
        )
    return F.linear(normed_TC, a.weight_NC)


def row_launch(hidden_size: int) -> Launch:
    """A program holds a whole row: 16 numbers for each thread or more; 8, 16 bytes, in the wider warps of AMD."""
    block = triton.next_power_of_2(hidden_size)
    return Launch({"BLOCK_D": block}, num_warps=min(max(block // 512, 1), 16))


@triton.jit
def norms_kernel(  # type: ignore[no-untyped-def]
    ids_ptr,  # [T]; None: the embedding has a row for each token
    embedding_ptr,  # [V, D], or [T, D]
    hidden_ptr,  # [T, D]
    embed_norm_ptr,  # [D]
    hidden_norm_ptr,  # [D]
    normed_ptr,  # [T, C]
    hidden_size,
    embedding_stride,
    hidden_stride,
    eps,
    BLOCK_D: tl.constexpr,
):
    """One half of a row of c; program (token, half: 0 the embedding's, 1 the hidden state's)."""
    token, half = tl.program_id(0).to(tl.int64), tl.program_id(1)
    to_ptr = normed_ptr + token * 2 * hidden_size + half * hidden_size
    if half == 0:
        row = tl.load(ids_ptr + token).to(tl.int64) if ids_ptr is not None else token
        _write_normed(embedding_ptr + row * embedding_stride, embed_norm_ptr, to_ptr, hidden_size, eps, BLOCK_D)
    else:
        _write_normed(hidden_ptr + token * hidden_stride, hidden_norm_ptr, to_ptr, hidden_size, eps, BLOCK_D)


@triton.jit
def _write_normed(  # type: ignore[no-untyped-def]
    row_ptr, norm_ptr, to_ptr, hidden_size, eps, BLOCK_D: tl.constexpr
):
    """norm(x) * g of one row."""
    d_D = tl.arange(0, BLOCK_D)
    inside_D = d_D < hidden_size
    x_D = tl.load(row_ptr + d_D, mask=inside_D, other=0.0).to(tl.float32)
    g_D = tl.load(norm_ptr + d_D, mask=inside_D, other=0.0).to(tl.float32)
    y_D = x_D * tl.rsqrt(tl.sum(x_D * x_D, axis=0) / hidden_size + eps) * g_D
    tl.store(to_ptr + d_D, y_D.to(to_ptr.dtype.element_ty), mask=inside_D)
