"""By what the draft model computes its entry, u = W [RMSNorm(E x); RMSNorm(h)]: the kernel, or vLLM's layers.

    --additional-config '{"mtp_projection": "kernel"}'    the kernel; under torch.compile as one node of the graph
    --additional-config '{"mtp_projection": "layers"}'    vLLM's layers

vLLM keeps compiled graphs apart by its additional config. Without the setting, the kernel runs on a GPU where
torch.compile does not trace, and the layers elsewhere: inductor fuses gather, norms and concatenation by itself, and
the kernel has yet to be measured against that. On a CPU the layers run always: vLLM has packed the projection's weight
for its own product and emptied it.
"""

from typing import Any, NamedTuple

from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod, VocabParallelEmbedding
from vllm.platforms import current_platform

from vllm_mtp.kernels.common.registration import uses_triton

SETTING = "mtp_projection"


class ByKernel(NamedTuple):
    """Whether the kernel computes the entry."""

    eager: bool
    compiled: bool
    """Where torch.compile traces the draft model."""


def choose(projection: Any, additional_config: Any) -> ByKernel:
    """What runs here.

    Args:
        projection: vLLM's layer of W.
        additional_config: vLLM's; a dictionary unless a platform has a class of its own for it.

    Raises:
        ValueError: if it asks for what does not exist or cannot run here.
    """
    choice = additional_config.get(SETTING) if isinstance(additional_config, dict) else None
    if choice not in (None, "kernel", "layers"):
        raise ValueError(f"additional_config.{SETTING}: expected kernel or layers, got {choice!r}")
    can = has_kernels() and isinstance(projection.quant_method, UnquantizedLinearMethod)
    if choice == "kernel" and not can:
        raise ValueError(
            f"additional_config.{SETTING}: kernel needs a GPU with Triton, no VLLM_MTP_KERNELS=reference, and a "
            f"projection that is not quantized; got {type(projection.quant_method).__name__} on "
            f"{current_platform.device_type}"
        )
    return ByKernel(eager=can and choice != "layers", compiled=can and choice == "kernel")


def has_kernels() -> bool:
    """Whether operators of ours run as Triton kernels here."""
    return current_platform.is_cuda_alike() and uses_triton("cuda")


def is_whole_table(layer: Any) -> bool:
    """Whether an embedding layer does nothing but gather rows of its weight."""
    plain = isinstance(layer.quant_method, UnquantizedEmbeddingMethod)
    return type(layer) is VocabParallelEmbedding and plain and layer.tp_size == 1
