"""What `lookup_tokens` must do, whichever implementation runs: the same checks for the plain twin and the kernel.

The expectation comes from each request's own list of tokens, which knows neither slots nor blocks, by the definition,
one position after another.
"""

# Shapes: B requests, N blocks of a request, S slots of the KV cache.

import random
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from vllm_mtp.kernels.ops import lookup_tokens

BLOCK_SIZES = [1, 3, 16, 128]
MATCHES = [(1, 1), (1, 3), (2, 2), (2, 5), (4, 9), (1, 32)]
"""min_match, max_match."""
LARGEST = 2**31 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Requests:
    """Arguments of `lookup_tokens`, and the texts that they stand for."""

    table_S: Tensor
    block_table_BN: Tensor
    positions_B: Tensor
    block_size: int
    texts: list[list[int]]
    """Of each request, what is written up to its last token; empty where there is none."""

    def check(self, min_match: int, max_match: int) -> None:
        found_B = lookup_tokens(
            self.table_S,
            self.block_table_BN,
            self.positions_B,
            block_size=self.block_size,
            min_match=min_match,
            max_match=max_match,
        )
        assert found_B.dtype == torch.int32
        assert found_B.tolist() == [expected(text, min_match, max_match) for text in self.texts]


def expected(text: list[int], min_match: int, max_match: int) -> int:
    """The definition, for one request."""
    best_length, best_end, last = 0, -1, len(text) - 1
    for end in range(last):
        length = 0
        while length < min(max_match, end + 1) and text[end - length] == text[last - length] >= 0:
            length += 1
        if length >= best_length:
            best_length, best_end = length, end
    return max(text[best_end + 1], -1) if best_length >= min_match else -1


def requests(block_size: int, seed: int, *, num_requests: int = 6, num_blocks: int | None = None) -> Requests:
    """Random texts of two to four different tokens, in blocks of a cache where nothing lies in order.

    A request may begin with blocks of the one before it. What was rejected is still there behind a request's last
    token, and so are others' tokens in every block that is no one's. A token may be missing. What a row of the block
    table has beyond its request's blocks, and all that a row of padding has, is none of the table's, or another's.
    """
    rng = random.Random(seed)
    num_blocks = num_blocks or max(2, 40 // block_size)
    alphabet = range(rng.choice([2, 3, 4]))
    holes = rng.choice([0.0, 0.05])
    num_slots = num_blocks * num_requests * block_size + rng.randrange(block_size)  # a last block that is not whole
    table = [rng.choice(alphabet) for _ in range(num_slots)]
    free = rng.sample(range(num_slots // block_size), num_slots // block_size)
    rows: list[list[int]] = []
    positions: list[int] = []
    texts: list[list[int]] = []
    for _ in range(num_requests):
        kind = rng.choice(["text", "text", "text", "full", "padding"])
        length = num_blocks * block_size if kind == "full" else rng.randint(1, num_blocks * block_size)
        used = -(-length // block_size)
        shared = rng.randint(0, min(len(texts[-1]) // block_size, used)) if texts and rng.random() < 0.3 else 0
        row = [*(rows[-1][:shared] if shared else []), *(free.pop() for _ in range(used - shared))]
        text = texts[-1][: min(shared * block_size, length)] if shared else []
        for place in range(len(text), length):
            text.append(-1 if rng.random() < holes else rng.choice(alphabet))
            table[row[place // block_size] * block_size + place % block_size] = text[place]
        beyond = [-1, num_slots // block_size + 1, LARGEST, -LARGEST - 1, 0]
        row += [rng.choice(beyond) for _ in range(num_blocks - used)]
        if kind == "padding":
            row, text, length = [rng.choice(beyond) for _ in range(num_blocks)], [], rng.choice([0, -99])
        rows.append(row)
        positions.append(length - 1)
        texts.append(text)
    # A part of wider rows, as a persistent block table is given.
    wide = torch.full((num_requests, num_blocks + 3), LARGEST, dtype=torch.int32)
    wide[:, :num_blocks] = torch.tensor(rows, dtype=torch.int32)
    return Requests(
        table_S=torch.tensor(table, dtype=torch.int32),
        block_table_BN=wide[:, :num_blocks],
        positions_B=torch.tensor(positions, dtype=rng.choice([torch.int64, torch.int32])),
        block_size=block_size,
        texts=texts,
    )


# Text, min_match, max_match, what follows.
EXAMPLES = {
    "what followed": ([5, 6, 7, 8, 5, 6], 2, 4, 7),
    "the longest, not the latest": ([1, 2, 9, 3, 2, 8, 1, 2], 1, 4, 9),
    "of equals the latest": ([1, 2, 9, 1, 2, 8, 1, 2], 2, 4, 8),
    "the latest of those that are longer than max_match": ([0, 1, 2, 9, 3, 1, 2, 8, 0, 1, 2], 1, 2, 8),
    "overlapping": ([4, 7, 7], 1, 4, 7),
    "overlapping by more than one": ([1, 2, 1, 2, 1, 2], 4, 4, 1),
    "shorter than min_match": ([5, 6, 7, 6], 2, 4, -1),
    "from the first token on": ([5, 6, 5, 6], 2, 32, 5),
    "nothing before it": ([5], 1, 4, -1),
    "no earlier one": ([5, 6, 7], 1, 4, -1),
    "no last token": ([5, -1, 6, -1], 1, 4, -1),
    "a hole ends a match": ([5, -1, 7, 9, 5, -1, 7], 1, 4, 9),
    "a hole ends a match, too early": ([5, -1, 7, 9, 5, -1, 7], 2, 4, -1),
    "nothing was written after it": ([5, 6, -1, 8, 5, 6], 2, 4, -1),
    "the longest, though nothing was written after it": ([5, 6, -1, 6, 8, 5, 6], 1, 4, -1),
    "any number below 0 is no token": ([5, 6, -7, 6, 8, -7, 5, 6], 1, 4, -1),
    "the largest token": ([5, LARGEST, 5], 1, 4, LARGEST),
}
examples = pytest.mark.parametrize(("text", "min_match", "max_match", "token"), EXAMPLES.values(), ids=EXAMPLES.keys())


def check_example(text: list[int], min_match: int, max_match: int, token: int) -> None:
    """In blocks of two slots, in descending order; tokens that would match lie behind the last one."""
    assert expected(text, min_match, max_match) == token
    num_blocks = len(text) // 2 + 1
    padded = torch.tensor(text + text[-1:] * (2 * num_blocks - len(text)), dtype=torch.int32)
    Requests(
        table_S=padded.view(-1, 2).flip(0).flatten(),
        block_table_BN=torch.arange(num_blocks, dtype=torch.int32).flip(0)[None],
        positions_B=torch.tensor([len(text) - 1]),
        block_size=2,
        texts=[text],
    ).check(min_match, max_match)


def check_what_is_not_in_the_table() -> None:
    """One block of the same token and three slots of a second: positions in a third, in none, and beyond the row.

    Four times 2^30 and four times -2^30 are slot 0 in 32 bits, and 2^32 + 7 is position 7.
    """
    cases = [
        ([0, 0], 7, 4),
        ([0, -1], 6, -1),
        ([-1, 0], 7, 4),
        ([0, 1], 6, 4),
        ([0, 1], 7, -1),
        ([0, 2], 6, -1),
        ([0, LARGEST], 6, -1),
        ([0, 2**30], 6, -1),
        ([0, -(2**30)], 6, -1),
        ([0, 0], 8, -1),
        ([0, 0], LARGEST, -1),
        ([0, 0], 2**32 + 7, -1),
        ([0, 0], -1, -1),
        ([0, 0], -(2**32) + 7, -1),
    ]
    rows, positions, tokens = zip(*cases, strict=True)
    found_B = lookup_tokens(
        torch.full((7,), 4, dtype=torch.int32),
        torch.tensor(rows, dtype=torch.int32),
        torch.tensor(positions),
        block_size=4,
        min_match=1,
        max_match=8,
    )
    assert found_B.tolist() == list(tokens)
