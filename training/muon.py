"""Muon in float32, for a CPU on which products in bfloat16 are slow: there torch's takes most of a training step."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Float32Muon(torch.optim.Muon):
    """`torch.optim.Muon`, whose orthogonalization is in float32 instead of bfloat16.

    Arguments and state are torch's, so that either goes on with what the other wrote. Source: Jordan et al., Muon
    (https://kellerjordan.github.io/posts/muon/).
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Updates every parameter that has a gradient.

        Raises:
            ValueError: if there is a closure.
        """
        if closure is not None:
            raise ValueError("expected no closure: the gradients are there when a step begins")
        for group in self.param_groups:
            for weight_AB in group["params"]:
                if (grad_AB := weight_AB.grad) is not None:
                    _update(weight_AB, grad_AB, self.state[weight_AB], group)


def _update(weight_AB: Tensor, grad_AB: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
    if "momentum_buffer" not in state:
        state["momentum_buffer"] = torch.zeros_like(grad_AB)
    mean_AB = state["momentum_buffer"].lerp_(grad_AB, 1 - group["momentum"])
    update_AB = grad_AB.lerp(mean_AB, group["momentum"]) if group["nesterov"] else mean_AB
    update_AB = orthogonalized(update_AB, group["ns_coefficients"], group["ns_steps"], group["eps"])
    weight_AB.mul_(1 - group["lr"] * group["weight_decay"])
    weight_AB.add_(update_AB, alpha=-group["lr"] * _scale(group["adjust_lr_fn"], *weight_AB.shape))


def orthogonalized(
    matrix_AB: Tensor, coefficients: tuple[float, float, float], num_iterations: int, eps: float
) -> Tensor:
    """A matrix with its singular values x brought near one: a x + b x^3 + c x^5 of each (Newton and Schulz).

    Args:
        matrix_AB: anything; its scale does not matter.
        coefficients: a, b and c.
        num_iterations: how often.
        eps: the least norm that it is divided by.
    """
    a, b, c = coefficients
    is_tall = matrix_AB.size(0) > matrix_AB.size(1)
    x_AB = matrix_AB.T if is_tall else matrix_AB  # the smaller of both products with itself
    x_AB = x_AB / x_AB.norm().clamp(min=eps)
    for _ in range(num_iterations):
        square_AA = x_AB @ x_AB.T
        factor_AA = torch.addmm(square_AA, square_AA, square_AA, beta=b, alpha=c)
        x_AB = torch.addmm(x_AB, factor_AA, x_AB, beta=a)
    return x_AB.T if is_tall else x_AB


def _scale(how: str | None, num_rows: int, num_columns: int) -> float:
    """Times the learning rate, by a matrix's shape: torch's `adjust_lr_fn`."""
    if how == "match_rms_adamw":
        return 0.2 * math.sqrt(max(num_rows, num_columns))
    return math.sqrt(max(1, num_rows / num_columns))
