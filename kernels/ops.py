"""The public functions. Each checks its arguments and calls an operator of torch (common/registration.py).

reference.py has the same functions in plain PyTorch.
"""

from vllm_mtp.kernels.draft_head import op as _draft_head
from vllm_mtp.kernels.draft_head.reference import DraftPart, HeadRows, QuantizedRows, combine_draft_parts
from vllm_mtp.kernels.embed_hidden_projection import op as _projection
from vllm_mtp.kernels.linear_kl import op as _linear_kl
from vllm_mtp.kernels.linear_kl.op import LinearKL
from vllm_mtp.kernels.linear_kl.reference import Teacher
from vllm_mtp.kernels.lookup import op as _lookup

linear_kl = _linear_kl.OPERATORS.linear_kl
mean_embedding = _linear_kl.OPERATORS.mean_embedding
draft_head = _draft_head.OPERATORS.draft_head
draft_head_part = _draft_head.OPERATORS.draft_head_part
quantize_head = _draft_head.OPERATORS.quantize_head
warm_up_draft_head = _draft_head.OPERATORS.warm_up_draft_head
embed_hidden_projection = _projection.OPERATORS.embed_hidden_projection
lookup_tokens = _lookup.OPERATORS.lookup_tokens

__all__ = [
    "DraftPart",
    "HeadRows",
    "LinearKL",
    "QuantizedRows",
    "Teacher",
    "combine_draft_parts",
    "draft_head",
    "draft_head_part",
    "embed_hidden_projection",
    "linear_kl",
    "lookup_tokens",
    "mean_embedding",
    "quantize_head",
    "warm_up_draft_head",
]
