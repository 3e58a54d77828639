"""Prompt lookup on a GPU, at the sizes that are served.

Catches: what the interpreter cannot show: keys that race, a grid or a stride of more than its type holds, a
synchronisation with the host, a launch that a CUDA graph does not repeat when other values stand in the same tensors.
"""

import pytest
import torch
from torch import Tensor

from tests.kernels.lookup_cases import BLOCK_SIZES, MATCHES, requests
from vllm_mtp.kernels import reference
from vllm_mtp.kernels.ops import lookup_tokens

pytestmark = pytest.mark.gpu


def inputs(num_requests: int, num_positions: int, block_size: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Texts of four different tokens, some missing, in blocks drawn at random; every eighth row is padding."""
    generator = torch.Generator("cuda").manual_seed(seed)
    num_blocks = -(-num_positions // block_size)
    num_in_cache = num_requests * num_blocks * 3 // 4 + 1
    table_S = torch.randint(4, (num_in_cache * block_size,), generator=generator, device="cuda", dtype=torch.int32)
    table_S[::97] = -1
    wide = torch.randint(
        0, num_in_cache, (num_requests, num_blocks + 3), generator=generator, device="cuda", dtype=torch.int32
    )
    block_table_BN = wide[:, :num_blocks]
    positions_B = torch.randint(0, num_positions, (num_requests,), generator=generator, device="cuda")
    block_table_BN[7::8], positions_B[7::8] = 2**31 - 1, -1
    return table_S, block_table_BN, positions_B


@pytest.mark.parametrize("matches", MATCHES, ids=str)
@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_random_texts(block_size: int, matches: tuple[int, int]) -> None:
    for seed in range(15):
        case = requests(block_size, seed)
        arguments = (case.table_S, case.block_table_BN, case.positions_B)
        options = {"block_size": block_size, "min_match": matches[0], "max_match": matches[1]}
        found_B = lookup_tokens(*(x.cuda() for x in arguments), **options)
        assert torch.equal(found_B.cpu(), reference.lookup_tokens(*arguments, **options))


@pytest.mark.parametrize(
    ("num_requests", "num_positions", "block_size"),
    [(4, 131_072, 16), (16, 131_072, 528), (512, 4_096, 16), (512, 20_000, 128)],
)
def test_sizes(num_requests: int, num_positions: int, block_size: int) -> None:
    arguments = inputs(num_requests, num_positions, block_size)
    for min_match, max_match in ((1, 3), (4, 32)):
        options = {"block_size": block_size, "min_match": min_match, "max_match": max_match}
        found_B = lookup_tokens(*arguments, **options)
        assert torch.equal(found_B, reference.lookup_tokens(*arguments, **options))
        assert torch.equal(found_B, lookup_tokens(*arguments, **options)), "run to run"
        assert (found_B >= 0).any()


def test_no_synchronisation() -> None:
    arguments = inputs(8, 4_096, 16)
    options = {"block_size": 16, "min_match": 2, "max_match": 5}
    lookup_tokens(*arguments, **options)
    torch.cuda.set_sync_debug_mode("error")
    try:
        lookup_tokens(*arguments, **options)
        reference.lookup_tokens(*arguments, **options)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_graph_replay() -> None:
    """Longer and shorter texts, other tokens, other rows of padding than those at the capture."""
    arguments = inputs(24, 8_192, 16)
    options = {"block_size": 16, "min_match": 2, "max_match": 5}
    lookup_tokens(*arguments, **options)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found_B = lookup_tokens(*arguments, **options)
    for seed in (1, 2):
        for argument, other in zip(arguments, inputs(24, 8_192, 16, seed), strict=True):
            argument.copy_(other.roll(seed, 0))
        graph.replay()
        assert torch.equal(found_B, reference.lookup_tokens(*arguments, **options))
