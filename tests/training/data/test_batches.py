"""Rows to batches: what a step sees depends on the step alone, and held-out rows are never trained on.

Catches: a resumed run that sees other batches, an epoch that repeats the order of the one before or skips rows, a
held-out row in a batch, held-out rows from one end of the data, padding or a prompt that counts in the loss.
"""

from dataclasses import replace

import pytest
import torch

from vllm_mtp.training.data.batches import Batches
from vllm_mtp.training.data.rows import Row

LENGTH = 6


def rows(num_rows: int, lengths: tuple[int, ...] = (LENGTH,), loss_from: int = 1) -> list[Row]:
    """A row's tokens are all its number plus one."""
    return [
        Row.counted_from(torch.full((lengths[i % len(lengths)],), i + 1, dtype=torch.int32), loss_from)
        for i in range(num_rows)
    ]


def batches(num_rows: int, seed: int = 0, lengths: tuple[int, ...] = (LENGTH,)) -> Batches:
    return Batches([rows(num_rows, lengths)], 4 * (LENGTH - 1), seed)


def numbers(of: Batches, step: int) -> list[int]:
    return [int(first) for first in of[of.index(step)].ids_BL[:, 0]]


def held_out(of: Batches) -> set[int]:
    return {int(first) for batch in of.held_out() for first in batch.ids_BL[:, 0]}


def test_a_batch_is_a_function_of_the_step() -> None:
    one, other = batches(30), batches(30)
    forwards = [numbers(one, step) for step in range(20)]
    assert forwards == [numbers(other, step) for step in reversed(range(20))][::-1]
    assert forwards != [numbers(batches(30, seed=1), step) for step in range(20)]


def test_epochs_permute_the_batches_and_keep_their_rows() -> None:
    for lengths in [(LENGTH,), (3, 9, 5)]:
        one, other = batches(41, lengths=lengths), batches(41, seed=1, lengths=lengths)
        epochs = [[tuple(numbers(one, len(one) * epoch + i)) for i in range(len(one))] for epoch in range(3)]
        assert len({tuple(epoch) for epoch in epochs}) == 3
        assert len({tuple(sorted(epoch)) for epoch in epochs}) == 1
        # Another seed takes the same batches, for which a store has the target's states.
        assert sorted(epochs[0]) == sorted(tuple(numbers(other, i)) for i in range(len(other)))


@pytest.mark.parametrize(("num_rows", "num_held_out"), [(2, 1), (9, 1), (40, 2), (100, 5), (2000, 32)])
def test_held_out_rows_are_spread_and_never_trained_on(num_rows: int, num_held_out: int) -> None:
    of = batches(num_rows)
    seen = {number for step in range(len(of)) for number in numbers(of, step)}
    assert len(held_out(of)) == num_held_out
    assert seen == set(range(1, num_rows + 1)) - held_out(of)
    if num_rows >= 40:
        assert min(held_out(of)) < 0.3 * num_rows < 0.7 * num_rows < max(held_out(of))


def test_other_turns_of_a_held_out_conversation_are_not_trained_on() -> None:
    """Catches an acceptance length of answers that stand in another row, as context of later turns or alone."""
    turns = [replace(row, conversation=number // 3) for number, row in enumerate(rows(120))]
    of = Batches([turns], 20, 0)
    trained = {number for index in range(len(of)) for number in numbers(of, index)}
    place_of = {int(row.ids_L[0]): number // 3 for number, row in enumerate(turns)}
    conversations = {place_of[number] for number in held_out(of)}
    assert len(held_out(of)) == len(conversations) == 2, "of each the last row"
    assert all(place_of[number] == place_of[number - 1] for number in held_out(of))
    assert conversations.isdisjoint(place_of[number] for number in trained)
    assert len(trained) == 120 - 3 * 2
    with pytest.raises(ValueError, match="at least two rows"):
        Batches([turns[:3]], 20, 0)


def test_held_out_rows_that_are_trained_on_too_are_counted() -> None:
    """Catches an acceptance length of what was learned by heart: data in which every row is there four times."""
    for sources, all_of_them in (([rows(30) * 4], True), ([rows(30), rows(30) * 2], True), ([rows(30)], False)):
        of = Batches(sources, 20, 0)
        num_held_out = sum(len(batch.ids_BL) for batch in of.held_out())
        assert of.num_copies() == (num_held_out if all_of_them else 0)
        assert num_held_out


def test_fewer_held_out_tokens_are_spread_over_every_source() -> None:
    of = Batches([rows(2000), rows(40, lengths=(9,))], 20, 0)
    whole = [int(first) for batch in of.held_out() for first in batch.ids_BL[:, 0]]
    part = [int(first) for batch in of.held_out(max_tokens=60) for first in batch.ids_BL[:, 0]]
    num_tokens = sum(batch.num_tokens for batch in of.held_out(max_tokens=60))
    assert len(whole) == 34
    assert set(part) < set(whole)
    assert 40 <= num_tokens <= 70
    assert {batch.ids_BL.size(1) for batch in of.held_out(max_tokens=60)} == {LENGTH, 9}
    assert max(part) - min(part) > 1000
    assert [int(first) for batch in of.held_out(max_tokens=10_000) for first in batch.ids_BL[:, 0]] == whole


def test_a_batch_made_ahead_is_not_made_again() -> None:
    of = batches(30)
    ahead = {index: of[index] for index in (3, 5)}
    assert all(of[index] is batch for index, batch in ahead.items())


def test_rows_of_like_length_share_a_batch_within_the_budget() -> None:
    of = Batches([rows(200, lengths=(4, 30, 9, 17)), rows(50, lengths=(8,))], 64, 0)
    shapes = [tuple(of[index].ids_BL.shape) for index in range(len(of))]
    assert all(num_rows == 1 or num_rows * (length - 1) <= 64 for num_rows, length in shapes)
    for index in range(len(of)):
        batch = of[index]
        lengths = (batch.ids_BL != 0).sum(1)
        assert batch.num_tokens == int((lengths - 1).sum())
        assert torch.equal(batch.mask_BS, batch.ids_BL[:, 1:] != 0)
    padding = 1 - of.num_tokens / sum(num_rows * length for num_rows, length in shapes)
    assert padding < 0.1


def test_tokens_seen_are_those_of_the_steps() -> None:
    of = batches(41, seed=3, lengths=(3, 9, 5))
    for num_steps in (0, 1, len(of) - 1, len(of), 2 * len(of) + 3):
        assert of.tokens_seen(num_steps) == sum(of[of.index(step)].num_tokens for step in range(num_steps))


def test_prompts_do_not_count() -> None:
    batch = Batches([rows(4, lengths=(9, 7), loss_from=5)], 100, 0)[0]
    for ids_L, mask_S in zip(batch.ids_BL, batch.mask_BS, strict=True):
        length = int((ids_L != 0).sum())
        # The position before the first token of the answer is the one that predicts it.
        assert mask_S.nonzero().flatten().tolist() == list(range(4, length - 1))


def test_too_little_text() -> None:
    for too_few in ([], rows(1)):
        with pytest.raises(ValueError, match=r"^data: expected at least two rows .* got [01]\."):
            Batches([too_few], 100, 0)
