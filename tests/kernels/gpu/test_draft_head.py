"""The draft head on a GPU, at the sizes of real heads.

Catches: what the interpreter cannot show: asynchronous copies that overtake each other, real rounding, float8 sums of
less than float32, offsets into a head of 622 million numbers, a launch that a CUDA graph does not repeat.
"""

import pytest
import torch

from vllm_mtp.kernels.ops import draft_head, quantize_head, warm_up_draft_head

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
    options = {}
    z_TV = torch.empty(num_tokens, num_rows, dtype=torch.float64, device="cuda")
    if dtype != BF16:
        w, options["scale"] = quantize_head(w, dtype)
    if both:
        h, options["hidden_scale"] = quantize_head(h, dtype)
    for start in range(0, num_rows, 8192):
        part = slice(start, start + 8192)
        z_TV[:, part] = h.double() @ w[part].double().T
    if dtype != BF16:
        z_TV *= options["scale"].double()
    if both:
        z_TV *= options["hidden_scale"].double()[:, None]
    ids_T, confidence_T = draft_head(h, w, return_confidence=True, **options)
    best_T = z_TV.amax(-1)
    gap_T = best_T - z_TV.gather(1, ids_T[:, None])[:, 0]
    assert (gap_T <= 2 * 2.0**-8 * best_T.abs()).all()
    expected_T = z_TV.softmax(-1).gather(1, ids_T[:, None])[:, 0]
    torch.testing.assert_close(confidence_T.double(), expected_T, rtol=1e-2, atol=1e-9)
    assert torch.equal(draft_head(h, w, **options), ids_T), "run to run, with and without a probability"


@pytest.mark.parametrize("dtype", [FP8, INT8], ids=str)
def test_quantised_rows_are_the_plain_twins(dtype: torch.dtype) -> None:
    if not supports(dtype):
        pytest.skip("no such float8 there")
    w = inputs(1, 4096, 512)[1]
    q, scale = quantize_head(w, dtype)
    expected_q, expected_scale = quantize_head(w.cpu(), dtype)
    torch.testing.assert_close(scale.cpu(), expected_scale, rtol=1e-6, atol=0)
    # A quotient in the middle of two numbers may go either way: the division is not the same.
    assert (q.cpu().float() == expected_q.float()).float().mean() > 0.999


@pytest.mark.parametrize("gumbel", [False, True], ids=["best", "sample"])
def test_graph_replay(gumbel: bool) -> None:
    h, w = inputs(4, 2048, 32_768)
    seed = torch.tensor([5], device="cuda") if gumbel else None
    warm_up_draft_head(w, BF16)
    draft_head(h, w, gumbel_seed=seed)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ids_T = draft_head(h, w, gumbel_seed=seed)
    for other_seed in (6, 7):
        h.copy_(inputs(4, 2048, 1)[0].roll(other_seed, 1))
        if seed is not None:
            seed.fill_(other_seed)
        graph.replay()
        assert torch.equal(ids_T, draft_head(h, w, gumbel_seed=seed))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_on_a_device_that_is_not_the_current_one() -> None:
    h, w = inputs(4, 2048, 32_768)
    assert torch.equal(draft_head(h.to("cuda:1"), w.to("cuda:1")).to("cuda:0"), draft_head(h, w))


def test_no_logits_in_memory() -> None:
    h, w = inputs(64, 2048, 151_936)
    draft_head(h, w)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    draft_head(h, w)
    assert torch.cuda.max_memory_allocated() - before < 64 * 151_936 * 2 / 8
