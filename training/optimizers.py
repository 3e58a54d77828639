"""The optimizers of a run."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vllm_mtp.module.mtp import MTPModule
from vllm_mtp.training.config import TrainConfig
from vllm_mtp.training.muon import Float32Muon

_GRADIENT_NORM = 1.0


def make_optimizers(module: MTPModule, config: TrainConfig, dtype: torch.dtype) -> list[torch.optim.Optimizer]:
    """Muon on matrices with AdamW on the rest, or AdamW on everything.

    Args:
        module: what is trained, where it is trained.
        config: which optimizer, and its learning rate.
        dtype: of the target. On a CPU that does not run it in bfloat16, Muon is in float32 too.
    """
    matrices = [p for p in module.parameters() if p.ndim == 2]
    rest = [p for p in module.parameters() if p.ndim != 2]
    peak = config.peak_learning_rate
    if config.optimizer == "adamw":
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW([*matrices, *rest], lr=peak, betas=(0.9, 0.95), weight_decay=0.0)
        ]
    else:
        on_cpu = module.eh_proj.weight.device.type == "cpu"
        muon = Float32Muon if on_cpu and dtype != torch.bfloat16 else torch.optim.Muon
        optimizers = [
            muon(matrices, lr=peak, weight_decay=0.0, adjust_lr_fn="original"),
            torch.optim.AdamW(rest, lr=peak / 5, betas=(0.9, 0.95), weight_decay=0.0),
        ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers


def numbers_kept(config: TrainConfig) -> int:
    """Of every parameter, by its optimizer: Muon keeps a mean of gradients, AdamW one of their squares too."""
    return 1 + (config.optimizer == "adamw")


def clip_gradient(module: MTPModule) -> Tensor:
    """Scales the gradient down to a norm of one; returns the norm that it had."""
    return nn.utils.clip_grad_norm_(module.parameters(), _GRADIENT_NORM)


def update(optimizers: Sequence[torch.optim.Optimizer], learning_rate_factor: float) -> None:
    """Takes a step of every optimizer at its peak learning rate times a factor; no gradient is left."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * learning_rate_factor
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
