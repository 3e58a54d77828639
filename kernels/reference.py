"""The functions of ops.py in plain PyTorch: an oracle on any device, for which VLLM_MTP_KERNELS means nothing.

They are the same functions on the plain twins, so that names and signatures are the same. Besides those, what training
runs where there is no GPU: `softmax_chunk`, a part of the loss that is worth compiling, and `linear_kl_by_chunks`, the
loss with that part compiled.
"""

from collections.abc import Callable

from vllm_mtp.kernels.draft_head import op as _draft_head
from vllm_mtp.kernels.draft_head.reference import combine_draft_parts
from vllm_mtp.kernels.embed_hidden_projection import op as _projection
from vllm_mtp.kernels.linear_kl import op as _linear_kl
from vllm_mtp.kernels.linear_kl.op import LinearKL
from vllm_mtp.kernels.linear_kl.reference import SoftmaxChunk, softmax_chunk
from vllm_mtp.kernels.lookup import op as _lookup

linear_kl = _linear_kl.PLAIN.linear_kl
mean_embedding = _linear_kl.PLAIN.mean_embedding
draft_head = _draft_head.PLAIN.draft_head
draft_head_part = _draft_head.PLAIN.draft_head_part
quantize_head = _draft_head.PLAIN.quantize_head
warm_up_draft_head = _draft_head.PLAIN.warm_up_draft_head
embed_hidden_projection = _projection.PLAIN.embed_hidden_projection
lookup_tokens = _lookup.PLAIN.lookup_tokens


def linear_kl_by_chunks(chunk: SoftmaxChunk) -> Callable[..., LinearKL]:
    """`linear_kl` whose chunks beside a `Teacher` are this function's: `softmax_chunk` compiled."""
    return _linear_kl.plain(chunk).linear_kl


__all__ = [
    "combine_draft_parts",
    "draft_head",
    "draft_head_part",
    "embed_hidden_projection",
    "linear_kl",
    "linear_kl_by_chunks",
    "lookup_tokens",
    "mean_embedding",
    "quantize_head",
    "softmax_chunk",
    "warm_up_draft_head",
]
