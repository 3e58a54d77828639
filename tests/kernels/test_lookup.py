"""Prompt lookup as an operator of torch: its plain twin, opcheck, torch.compile, and what it refuses.

Catches: a twin that is wrong itself, a fake of another shape or dtype, a synchronisation in disguise (a graph that
breaks), an argument that is taken without a word.
"""

from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from tests.kernels.lookup_cases import (
    BLOCK_SIZES,
    MATCHES,
    check_example,
    check_what_is_not_in_the_table,
    examples,
    requests,
)
from vllm_mtp.contract.lookup import lookup_faults
from vllm_mtp.kernels.lookup.op import LARGEST_MATCH
from vllm_mtp.kernels.ops import lookup_tokens


@examples
def test_examples(text: list[int], min_match: int, max_match: int, token: int) -> None:
    check_example(text, min_match, max_match, token)


@pytest.mark.parametrize("matches", MATCHES, ids=str)
@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_random_texts(block_size: int, matches: tuple[int, int]) -> None:
    for seed in range(15):
        requests(block_size, seed).check(*matches)


def test_what_is_not_in_the_table() -> None:
    check_what_is_not_in_the_table()


def test_no_requests() -> None:
    case = requests(16, 0)
    found_B = lookup_tokens(
        case.table_S, case.block_table_BN[:0], case.positions_B[:0], block_size=16, min_match=1, max_match=4
    )
    assert found_B.shape == (0,)
    assert found_B.dtype == torch.int32


@pytest.mark.parametrize("seed", range(3))
def test_opcheck(seed: int) -> None:
    case = requests(16, seed)
    arguments = (case.table_S, case.block_table_BN, case.positions_B, 16, 1, 4)
    torch.library.opcheck(torch.ops.vllm_mtp.lookup_tokens.default, arguments)


def test_one_graph_for_any_number_of_requests() -> None:
    def step(table_S: torch.Tensor, block_table_BN: torch.Tensor, positions_B: torch.Tensor) -> torch.Tensor:
        return lookup_tokens(table_S, block_table_BN, positions_B, block_size=3, min_match=1, max_match=4) + 1

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(step, backend=counter, fullgraph=True, dynamic=True)
    for num_requests in (5, 6, 9):
        case = requests(3, 0, num_requests=num_requests)
        arguments = (case.table_S, case.block_table_BN, case.positions_B.long())
        assert torch.equal(compiled(*arguments), step(*arguments))
    assert counter.frame_count == 1, "nothing was compiled after the first call"


TABLE, BLOCKS, POSITIONS = torch.ones(8).int(), torch.ones(2, 3).int(), torch.ones(2).long()
FITTING = {"block_size": 2, "min_match": 1, "max_match": 4}
REFUSED: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict[str, Any], str]] = [
    (TABLE.long(), BLOCKS, POSITIONS, {}, r"table: expected int32 \[S\].*got torch.int64 \[8\]"),
    (TABLE[:0], BLOCKS, POSITIONS, {}, r"table: expected int32 \[S\].*got torch.int32 \[0\]"),
    (TABLE[None], BLOCKS, POSITIONS, {}, r"table: expected int32 \[S\]"),
    (TABLE, BLOCKS.long(), POSITIONS, {}, r"block_table: expected int32 \[B, N\].*got torch.int64 \[2, 3\]"),
    (TABLE, BLOCKS[0], POSITIONS, {}, r"block_table: expected int32 \[B, N\].*got torch.int32 \[3\]"),
    (TABLE, BLOCKS[:, :0], POSITIONS, {}, r"block_table: expected int32 \[B, N\].*got torch.int32 \[2, 0\]"),
    (TABLE, BLOCKS, POSITIONS[:1], {}, r"positions: expected integers \[2\], got torch.int64 \[1\]"),
    (TABLE, BLOCKS, POSITIONS.float(), {}, r"positions: expected integers \[2\], got torch.float32 \[2\]"),
    (TABLE, BLOCKS, POSITIONS, {"block_size": 0}, "block_size: expected a positive number, got 0"),
    (TABLE, BLOCKS, POSITIONS, {"min_match": 0}, "min_match <= max_match <= 32, got 0 and 4"),
    (TABLE, BLOCKS, POSITIONS, {"min_match": 5}, "min_match <= max_match <= 32, got 5 and 4"),
    (TABLE, BLOCKS, POSITIONS, {"max_match": 33}, "min_match <= max_match <= 32, got 1 and 33"),
    (TABLE, BLOCKS, POSITIONS, {"block_size": 2**24}, "at most 33554432 positions, got 3 blocks of 16777216"),
]


@pytest.mark.parametrize(
    ("table", "blocks", "positions", "options", "message"), REFUSED, ids=[case[4] for case in REFUSED]
)
def test_what_does_not_fit_is_refused(
    table: torch.Tensor, blocks: torch.Tensor, positions: torch.Tensor, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        lookup_tokens(table, blocks, positions, **{**FITTING, **options})


def test_it_takes_every_setting_of_a_drafter() -> None:
    """Catches a config.json that is accepted and then ends the engine."""
    case = requests(16, 0)
    assert lookup_faults({"max_match": LARGEST_MATCH}) == []
    assert lookup_faults({"max_match": LARGEST_MATCH + 1})
    case.check(1, LARGEST_MATCH)
