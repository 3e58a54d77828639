"""What the benchmark of the serving kernels compares computes the same.

Catches: a provider with other inputs, rows in 8 bits of another head.
"""

import pytest
import torch

from vllm_mtp.benchmarks.kernels.case import KernelCase
from vllm_mtp.benchmarks.kernels.cases import draft_head as kernel_cases_draft_head
from vllm_mtp.benchmarks.kernels.cases import embed_hidden_projection as kernel_cases_embed_hidden_projection

CPU = torch.device("cpu")


@pytest.mark.parametrize("case", kernel_cases_draft_head.cases("smoke"), ids=lambda case: case.kernel)
def test_draft_head(case: KernelCase) -> None:
    h, w = kernel_cases_draft_head.make_inputs(CPU, *case.shape.values())
    logits_TV = h.double() @ w.double().T
    near = 0.02 if case.kernel == "draft_head" else 0.15  # of the spread of the logits
    limit_T = logits_TV.amax(-1) - near * logits_TV.std(-1)
    found = {name: run() for name, run in case.providers(CPU).items() if callable(run)}
    assert {"eager", "torch.compile", "vllm-mtp"} <= set(found)
    for name, ids_T in found.items():
        assert isinstance(ids_T, torch.Tensor)
        assert (logits_TV.gather(1, ids_T[:, None])[:, 0] >= limit_T).all(), name


def test_embed_hidden_projection() -> None:
    forward = kernel_cases_embed_hidden_projection.cases("smoke")[0]
    found = {name: run() for name, run in forward.providers(CPU).items() if callable(run)}
    assert {"eager", "torch.compile", "vllm-mtp"} <= set(found)
    for name, output in found.items():
        assert isinstance(output, torch.Tensor)
        difference = output.float() - found["eager"].float()  # type: ignore[attr-defined]
        assert difference.norm() < 0.02 * output.float().norm(), name
