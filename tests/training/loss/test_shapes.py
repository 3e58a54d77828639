"""A handful of shapes that hold every batch of a run, and what padding to one of them changes: nothing.

Catches: a position that counts at one shape and not at the other, padding with weight, a teacher's row moved beside its
state, shapes that grow in number with the data, or waste most of what they compute.
"""

# Shapes: B rows, S tokens, K draft steps, D hidden size, N places.

from collections import Counter
from pathlib import Path

import pytest
import torch

from vllm_mtp.training.data.batches import Batch, Batches
from vllm_mtp.training.data.generated import load_conversations
from vllm_mtp.training.data.rows import Row, conversation_source
from vllm_mtp.training.frozen.reading import BatchStates
from vllm_mtp.training.loss.fixed import MAX_SHAPES
from vllm_mtp.training.loss.objective import places
from vllm_mtp.training.loss.shapes import Shape, fixed_shapes, padded, shapes_of, smallest

CONVERSATIONS = Path(__file__).resolve().parents[3] / "examples" / "smollm2" / "conversations"


@pytest.mark.parametrize(("loss_on", "most_places"), [("all", 1.1), ("answers", 1.25)])
@pytest.mark.parametrize("num_parts", [1, 4])
def test_the_shipped_conversations_have_a_handful_of_shapes(loss_on: str, most_places: float, num_parts: int) -> None:
    """Of a hundred and more; a quarter to a third more positions of the module, and a few percent more of the loss."""
    conversations = load_conversations(CONVERSATIONS / "tasks.npz")
    rows = (Row.of_conversation(one.ids, one.answers, loss_on) for one in conversations)
    of = Batches([conversation_source("tasks", rows, 513, 10**7).rows], 4096, seed=0)
    sizes = list(shapes_of(of, num_parts))
    shapes = fixed_shapes(sizes, MAX_SHAPES)
    found = [smallest(shapes, shape) for shape in sizes]
    assert len(set(sizes)) > 80
    assert len(Counter(found)) <= len(shapes) == MAX_SHAPES
    assert all(one.holds(shape) for one, shape in zip(found, sizes, strict=True))
    positions, positions_before = (sum(one.num_rows * one.num_tokens for one in many) for many in (found, sizes))
    assert positions < 1.35 * positions_before
    num_places, num_before = (sum(one.num_places for one in many) for many in (found, sizes))
    assert num_places < (most_places + 0.1 * (num_parts > 1)) * num_before


def test_rows_of_one_length_have_one_shape_but_for_the_rest() -> None:
    of = Batches([[Row.counted_from(torch.ones(33, dtype=torch.int32), 1) for _ in range(42)]], 128, seed=0)
    assert fixed_shapes(shapes_of(of, 1), MAX_SHAPES) == [Shape(4, 32, 124)]
    assert smallest([Shape(4, 32, 124), Shape(9, 40, 200)], Shape(1, 32, 31)) == Shape(4, 32, 124)


def test_every_number_stays_at_its_place() -> None:
    generator = torch.Generator().manual_seed(0)
    mask_BS = torch.rand(3, 11, generator=generator) < 0.6
    batch = Batch(torch.randint(9, (3, 12), generator=generator), torch.ones_like(mask_BS), mask_BS)
    hidden_BSD = torch.randn(3, 11, 2, generator=generator)
    where = places(mask_BS, 3, batch.ids_BL[:, 1:])
    wide_BL, states, wider = padded(batch.ids_BL, BatchStates(hidden_BSD, None), where, Shape(5, 17, 40))
    assert wide_BL.shape == (5, 18)
    assert states.hidden_BSD.shape == (5, 17, 2)
    num_places = len(where.rows_N)
    assert not wider.exists_KN[:, num_places:].any()
    assert torch.equal(wider.exists_KN[:, :num_places], where.exists_KN)
    for tensor_BS, wide_BS in ((hidden_BSD, states.hidden_BSD), (batch.ids_BL[:, 1:], wide_BL[:, 1:])):
        found_N = wide_BS.flatten(0, 1)[wider.rows_N[:num_places]]
        assert torch.equal(found_N, tensor_BS.flatten(0, 1)[where.rows_N])
    states_BT, wide_BT = batch.ids_BL[:, : 11 - 3], wide_BL[:, : 17 - 3]
    assert torch.equal(wide_BT.flatten()[wider.index_KN[:, :num_places]], states_BT.flatten()[where.index_KN])
