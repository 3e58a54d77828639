"""The functions of ops.py in plain PyTorch, under the same names and signatures: an oracle on any device.

Arguments are not checked, and VLLM_MTP_KERNELS means nothing here. Besides those, `linear_kl_of_mean` and
`softmax_chunk`: the parts that training runs compiled where there is no GPU.
"""

from vllm_mtp.kernels.draft_head.reference import (
    DraftPart,
    combine_draft_parts,
    draft_head,
    draft_head_part,
    quantize_head,
    warm_up_draft_head,
)
from vllm_mtp.kernels.embed_hidden_projection.reference import embed_hidden_projection, fold_norm_weights
from vllm_mtp.kernels.linear_kl.reference import (
    LinearKL,
    MeanTarget,
    linear_kl,
    linear_kl_of_mean,
    mean_embedding,
    softmax_chunk,
)
from vllm_mtp.kernels.lookup.reference import lookup_tokens

__all__ = [
    "DraftPart",
    "LinearKL",
    "MeanTarget",
    "combine_draft_parts",
    "draft_head",
    "draft_head_part",
    "embed_hidden_projection",
    "fold_norm_weights",
    "linear_kl",
    "linear_kl_of_mean",
    "lookup_tokens",
    "mean_embedding",
    "quantize_head",
    "softmax_chunk",
    "warm_up_draft_head",
]
