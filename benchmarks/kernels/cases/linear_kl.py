"""`linear_kl` and its mean-embedding form: forward and backward of the loss, against those who keep all logits."""

# Shapes: T tokens, D hidden size, V vocabulary.

import itertools
from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from vllm_mtp.benchmarks.kernels.case import KernelCase, Run, compiled
from vllm_mtp.benchmarks.kernels.timing import elsewhere
from vllm_mtp.kernels.ops import linear_kl, mean_embedding

SHAPES = {
    "smoke": [(48, 64, 512)],
    "quick": [(4096, 2048, 151936), (4096, 4096, 32768), (4096, 4096, 151936)],
    "full": list(itertools.product((4096, 16384), (2048, 4096), (32768, 151936))),
}


def cases(size: str) -> list[KernelCase]:
    """Both forms at every shape of a size."""
    return [case for shape in SHAPES[size] for case in (_of_states(*shape), _of_means(*shape))]


def _of_states(num_tokens: int, hidden_size: int, vocab_size: int) -> KernelCase:
    """Three products: logits of both sides, and the gradient."""

    def providers(device: torch.device) -> Mapping[str, Run | str]:
        hidden_TD, teacher_TD, weight_VD = make_inputs(device, num_tokens, hidden_size, vocab_size)
        return {
            **_with_all_logits(hidden_TD, teacher_TD, weight_VD),
            "vllm-mtp": lambda: linear_kl(hidden_TD, teacher_TD, weight_VD).loss.backward(),
            "Liger": elsewhere(weight_VD, partial(_liger, hidden_TD, teacher_TD, weight_VD)),
            "fla": elsewhere(weight_VD, partial(_fla, hidden_TD, teacher_TD, weight_VD)),
        }

    return _case("linear_kl", num_tokens, hidden_size, vocab_size, 3, providers)


def _of_means(num_tokens: int, hidden_size: int, vocab_size: int) -> KernelCase:
    """Two products; the others have no such form and take the teacher's hidden states."""

    def providers(device: torch.device) -> Mapping[str, Run | str]:
        hidden_TD, teacher_TD, weight_VD = make_inputs(device, num_tokens, hidden_size, vocab_size)
        teacher = mean_embedding(teacher_TD, weight_VD)
        return {
            **_with_all_logits(hidden_TD, teacher_TD, weight_VD),
            "vllm-mtp": lambda: linear_kl(hidden_TD, teacher, weight_VD).loss.backward(),
        }

    return _case("linear_kl, mean embedding kept", num_tokens, hidden_size, vocab_size, 2, providers)


def _case(
    kernel: str,
    num_tokens: int,
    hidden_size: int,
    vocab_size: int,
    num_products: int,
    providers: Callable[[torch.device], Mapping[str, Run | str]],
) -> KernelCase:
    return KernelCase(
        kernel,
        {"tokens": num_tokens, "hidden": hidden_size, "vocabulary": vocab_size},
        floor_flops=2 * num_products * num_tokens * hidden_size * vocab_size,
        floor_bytes=2 * (vocab_size * hidden_size + num_products * num_tokens * hidden_size),
        providers=providers,
    )


def make_inputs(
    device: torch.device, num_tokens: int, hidden_size: int, vocab_size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """bfloat16 states of a good drafter, close to the teacher's, and a head that makes logits of size 3."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    teacher_TD = normal(num_tokens, hidden_size)
    hidden_TD = teacher_TD + 0.3 * normal(num_tokens, hidden_size)
    weight_VD = 3 * normal(vocab_size, hidden_size) / hidden_size**0.5
    return hidden_TD.bfloat16().requires_grad_(), teacher_TD.bfloat16(), weight_VD.bfloat16()


def _with_all_logits(hidden_TD: Tensor, teacher_TD: Tensor, weight_VD: Tensor) -> Mapping[str, Run]:
    in_one_graph = compiled(_eager)
    return {
        "eager": lambda: _eager(hidden_TD, teacher_TD, weight_VD).backward(),
        "torch.compile": lambda: in_one_graph(hidden_TD, teacher_TD, weight_VD).backward(),
    }


def _eager(hidden_TD: Tensor, teacher_TD: Tensor, weight_VD: Tensor) -> Tensor:
    """The loss as one would write it, softmax in float32."""
    log_q_TV = F.linear(hidden_TD, weight_VD).float().log_softmax(-1)
    log_p_TV = F.linear(teacher_TD, weight_VD).float().log_softmax(-1)
    return F.kl_div(log_q_TV, log_p_TV, reduction="batchmean", log_target=True)


def _liger(hidden_TD: Tensor, teacher_TD: Tensor, weight_VD: Tensor) -> Run:
    """Its fused linear JSD at beta 0, which is forward KL."""
    from liger_kernel.transformers import LigerFusedLinearJSD

    loss = LigerFusedLinearJSD(jsd_beta=0.0)
    return lambda: loss(hidden_TD, weight_VD, teacher_TD, weight_VD).backward()


def _fla(hidden_TD: Tensor, teacher_TD: Tensor, weight_VD: Tensor) -> Run:
    """It makes a gradient of the head whether one wants it or not."""
    from fla.modules import FusedKLDivLoss

    loss = FusedKLDivLoss()
    return lambda: loss(hidden_TD, teacher_TD, weight_VD, weight_VD).backward()
