"""The draft head on a GPU, at the sizes of real heads.

Catches: what the interpreter cannot show: asynchronous copies that overtake each other, real rounding, float8 sums of
less than float32, offsets into a head of 622 million numbers, a launch that a CUDA graph does not repeat.
"""

import pytest
import torch

from vllm_mtp.kernels.ops import HeadRows, draft_head, draft_head_part, quantize_head, warm_up_draft_head

pytestmark = pytest.mark.gpu

HEADS = [(2048, 32_768), (4096, 151_936), (576, 49_152)]
BF16, FP8, INT8 = torch.bfloat16, torch.float8_e4m3fn, torch.int8


def inputs(num_tokens: int, size: int, num_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator("cuda").manual_seed(0)
    h = torch.randn(num_tokens, size, generator=generator, device="cuda", dtype=BF16)
    return h, torch.randn(num_rows, size, generator=generator, device="cuda", dtype=BF16) / size**0.5


def supports(dtype: torch.dtype) -> bool:
    return dtype != FP8 or (torch.version.hip is None and torch.cuda.get_device_capability() >= (8, 9))


@pytest.mark.parametrize("num_tokens", [1, 16, 17, 64, 200])
@pytest.mark.parametrize(("size", "num_rows"), HEADS)
@pytest.mark.parametrize("dtype", [BF16, FP8, INT8], ids=str)
@pytest.mark.parametrize("both", [False, True], ids=["rows", "rows and hidden states"])
def test_argmax(num_tokens: int, size: int, num_rows: int, dtype: torch.dtype, both: bool) -> None:
    """The float64 gap to the best logit is below two units in the last place of bfloat16."""
    if not supports(dtype) or (both and dtype == BF16):
        pytest.skip("no such case")
    h, w = inputs(num_tokens, size, num_rows)
    scale_V = hidden_scale_T = None
    z_TV = torch.empty(num_tokens, num_rows, dtype=torch.float64, device="cuda")
    if dtype != BF16:
        w, scale_V = quantize_head(w, dtype)
    if both:
        h, hidden_scale_T = quantize_head(h, dtype)
    for start in range(0, num_rows, 8192):
        part = slice(start, start + 8192)
        z_TV[:, part] = h.double() @ w[part].double().T
    if scale_V is not None:
        z_TV *= scale_V.double()
    if hidden_scale_T is not None:
        z_TV *= hidden_scale_T.double()[:, None]
    ids_T, logit_T = draft_head_part(h, HeadRows(w, scale_V), hidden_scale_T)
    best_T = z_TV.amax(-1)
    gap_T = best_T - z_TV.gather(1, ids_T[:, None])[:, 0]
    assert (gap_T <= 2 * 2.0**-8 * best_T.abs()).all()
    torch.testing.assert_close(logit_T.double(), z_TV.gather(1, ids_T[:, None])[:, 0], rtol=1e-2, atol=1e-6)
    assert torch.equal(draft_head(h, HeadRows(w, scale_V), hidden_scale_T), ids_T), "run to run"


@pytest.mark.parametrize("dtype", [FP8, INT8], ids=str)
def test_quantized_rows_are_the_plain_twins(dtype: torch.dtype) -> None:
    if not supports(dtype):
        pytest.skip("no such float8 there")
    w = inputs(1, 4096, 512)[1]
    q, scale = quantize_head(w, dtype)
    expected_q, expected_scale = quantize_head(w.cpu(), dtype)
    torch.testing.assert_close(scale.cpu(), expected_scale, rtol=1e-6, atol=0)
    # A quotient in the middle of two numbers may go either way: the division is not the same.
    assert (q.cpu().float() == expected_q.float()).float().mean() > 0.999


def test_graph_replay() -> None:
    h, w = inputs(4, 2048, 32_768)
    warm_up_draft_head(HeadRows(w), BF16)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ids_T = draft_head(h, HeadRows(w))
    for shift in (6, 7):
        h.copy_(inputs(4, 2048, 1)[0].roll(shift, 1))
        graph.replay()
        assert torch.equal(ids_T, draft_head(h, HeadRows(w)))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_on_a_device_that_is_not_the_current_one() -> None:
    h, w = inputs(4, 2048, 32_768)
    assert torch.equal(draft_head(h.to("cuda:1"), HeadRows(w.to("cuda:1"))).to("cuda:0"), draft_head(h, HeadRows(w)))


def test_no_logits_in_memory() -> None:
    h, w = inputs(64, 2048, 151_936)
    draft_head(h, HeadRows(w))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    draft_head(h, HeadRows(w))
    assert torch.cuda.max_memory_allocated() - before < 64 * 151_936 * 2 / 8
