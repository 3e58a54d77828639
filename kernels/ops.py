"""The public functions. Each checks its arguments and calls an operator of torch (common/registration.py).

reference.py has the same functions in plain PyTorch.
"""

from vllm_mtp.kernels.draft_head.op import draft_head, draft_head_part, quantize_head, warm_up_draft_head
from vllm_mtp.kernels.draft_head.reference import DraftPart, combine_draft_parts
from vllm_mtp.kernels.embed_hidden_projection.op import embed_hidden_projection
from vllm_mtp.kernels.embed_hidden_projection.reference import fold_norm_weights
from vllm_mtp.kernels.linear_kl.op import linear_kl, mean_embedding
from vllm_mtp.kernels.linear_kl.reference import LinearKL, MeanTarget
from vllm_mtp.kernels.lookup.op import lookup_tokens

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
    "lookup_tokens",
    "mean_embedding",
    "quantize_head",
    "warm_up_draft_head",
]
