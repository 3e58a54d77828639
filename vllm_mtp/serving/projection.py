"""By what the draft model computes its entry, u = W [RMSNorm(E x); RMSNorm(h)]: the kernel, or vLLM's layers.

    VLLM_MTP_PROJECTION=kernel    the kernel; where torch.compile traces the draft model, as one node of its graph
    VLLM_MTP_PROJECTION=layers    vLLM's layers

Unset, the kernel runs on a GPU where torch.compile does not trace, and the layers elsewhere: inductor fuses gather,
norms and concatenation by itself, and the kernel has yet to be measured against that. On a CPU the layers run always:
vLLM has packed the projection's weight for its own product and emptied it.
"""

import os
from typing import Any, NamedTuple

from vllm import envs
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod, VocabParallelEmbedding
from vllm.platforms import current_platform

from vllm_mtp.kernels.common.registration import uses_triton

CHOICE = "VLLM_MTP_PROJECTION"


class ByKernel(NamedTuple):
    """Whether the kernel computes the entry."""

    eager: bool
    compiled: bool
    """Where torch.compile traces the draft model."""


def choose(projection: Any) -> ByKernel:
    """What runs here.

    Args:
        projection: vLLM's layer of W.

    Raises:
        ValueError: if the environment asks for what does not exist or cannot run here.
    """
    choice = os.environ.get(CHOICE, "")
    if choice not in ("", "kernel", "layers"):
        raise ValueError(f"{CHOICE}: expected kernel or layers, or nothing, got {choice!r}")
    # vLLM keeps compiled graphs, by the environment variables among others that it knows: a graph of the other choice
    # would be taken for this one's.
    envs.environment_variables.setdefault(CHOICE, lambda: os.environ.get(CHOICE, ""))
    can = has_kernels() and isinstance(projection.quant_method, UnquantizedLinearMethod)
    if choice == "kernel" and not can:
        raise ValueError(
            f"{CHOICE}=kernel: expected a GPU with Triton, no VLLM_MTP_KERNELS=reference, and a projection that is not "
            f"quantized; got {type(projection.quant_method).__name__} on {current_platform.device_type}"
        )
    return ByKernel(eager=can and choice != "layers", compiled=can and choice == "kernel")


def has_kernels() -> bool:
    """Whether operators of ours run as Triton kernels here."""
    return current_platform.is_cuda_alike() and uses_triton("cuda")


def is_whole_table(layer: Any) -> bool:
    """Whether an embedding layer does nothing but gather rows of its weight."""
    plain = isinstance(layer.quant_method, UnquantizedEmbeddingMethod)
    return type(layer) is VocabParallelEmbedding and plain and layer.tp_size == 1
