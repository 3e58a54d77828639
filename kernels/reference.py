"""The loss of ops.py in plain PyTorch, for any device, as training calls it; other operators: NAME_reference.py."""

from vllm_mtp.kernels.linear_kl_reference import LinearKL, MeanTarget, linear_kl, mean_embedding, softmax_chunk

__all__ = ["LinearKL", "MeanTarget", "linear_kl", "mean_embedding", "softmax_chunk"]
