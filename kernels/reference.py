"""Every function of ops.py in plain PyTorch, for any device: what runs where there is no GPU, and the tests' oracle."""

from vllm_mtp.kernels.linear_kl_reference import LinearKL, MeanTarget, linear_kl, mean_embedding, softmax_chunk

__all__ = ["LinearKL", "MeanTarget", "linear_kl", "mean_embedding", "softmax_chunk"]
