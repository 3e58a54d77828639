"""The kernel of prompt lookup in Triton's interpreter.

Catches: a match that is lost where one block of positions or one program ends, a program's best that another's
overwrites, an order that depends on who comes last, a slot of another block, a token behind the last one, rows of the
block table taken for neighbours, memory read that is not the table's, a key whose parts run into each other.
"""

import pytest
import torch

from tests.kernels.lookup_cases import (
    BLOCK_SIZES,
    MATCHES,
    check_example,
    check_what_is_not_in_the_table,
    examples,
    requests,
)
from vllm_mtp.kernels import reference
from vllm_mtp.kernels.common.tables import Launch
from vllm_mtp.kernels.lookup import kernel as lookup
from vllm_mtp.kernels.ops import lookup_tokens


@examples
def test_examples(text: list[int], min_match: int, max_match: int, token: int) -> None:
    check_example(text, min_match, max_match, token)


@pytest.mark.parametrize("matches", MATCHES, ids=str)
@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_random_texts(block_size: int, matches: tuple[int, int]) -> None:
    requests(block_size, BLOCK_SIZES.index(block_size)).check(*matches)


@pytest.mark.parametrize("num_programs", [1, 12, 1000], ids=["one program", "two", "one for each block"])
@pytest.mark.parametrize("block_size", [3, 16])
def test_blocks_of_positions(block_size: int, num_programs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen positions at once, by 1, 2 and enough programs for each of 6 requests."""
    monkeypatch.setattr(lookup, "LAUNCH", Launch({"BLOCK_P": 16}, num_warps=4))
    monkeypatch.setattr(lookup, "NUM_PROGRAMS", num_programs)
    for seed in range(2):
        requests(block_size, seed).check(2, 5)


def test_as_launched() -> None:
    """Rows of more positions than one block of them."""
    requests(128, 1, num_blocks=9).check(2, 9)


def test_what_is_not_in_the_table() -> None:
    check_what_is_not_in_the_table()


def test_no_requests() -> None:
    case = requests(16, 0)
    arguments = (case.table_S, case.block_table_BN[:0], case.positions_B[:0])
    assert lookup_tokens(*arguments, block_size=16, min_match=1, max_match=4).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_arguments_that_are_views(dtype: torch.dtype) -> None:
    """Every other number of a longer tensor, and a block table on its side."""
    case = requests(16, 2)
    table_S = torch.stack([case.table_S, torch.zeros_like(case.table_S)], 1)[:, 0]
    positions_B = torch.stack([case.positions_B, torch.zeros_like(case.positions_B)], 1)[:, 0].to(dtype)
    block_table_BN = case.block_table_BN.T.contiguous().T
    options = {"block_size": 16, "min_match": 1, "max_match": 4}
    found_B = lookup_tokens(table_S, block_table_BN, positions_B, **options)
    assert torch.equal(found_B, reference.lookup_tokens(table_S, block_table_BN, positions_B, **options))
    assert (found_B >= 0).any()
