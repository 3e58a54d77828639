"""Lookup as vLLM's runners feed it, against the requests' true texts, over random histories.

Catches: rejected tokens that stay in the text, rows of another request, a row that was not the chosen one, blocks that
two requests share or that are used again after preemption, prompts that come in parts, a step that is left out although
a request needs the module, one that is computed although none does, a round that is taken for a step.
"""

# Shapes: T rows of a pass, B requests, D hidden size.

import random
from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from vllm_mtp.contract.lookup import NO_TOKEN, Lookup, find
from vllm_mtp.serving.lookup_on_device import DeviceLookup
from vllm_mtp.serving.lookup_on_host import HostLookup, _bits, _chosen_rows
from vllm_mtp.serving.lookup_pass import chosen_rows, num_blocks_and_block_size, why_no_lookup

BLOCK_SIZE, NUM_BLOCKS, NUM_HEADS, HIDDEN_SIZE = 4, 600, 3, 8
MAX_BLOCKS = 30  # of a request
VOCAB_SIZE = 5


def layer() -> SimpleNamespace:
    return SimpleNamespace(kv_cache=torch.empty(NUM_BLOCKS, NUM_HEADS, BLOCK_SIZE, 2), num_kv_heads=NUM_HEADS)


@dataclass(kw_only=True, slots=True)
class Request:
    tokens: list[int]
    blocks: list[int]
    num_in_cache: int = 0
    """Positions whose keys, and whose next token, are in the cache."""
    drafts: list[int] = field(default_factory=list)


@dataclass(kw_only=True, slots=True)
class Scheduler:
    """As much of vLLM as lookup sees: blocks, passes and what became of drafts."""

    rng: random.Random
    num_speculative_tokens: int
    free: list[int] = field(default_factory=lambda: list(range(1, NUM_BLOCKS)))
    requests: list[Request] = field(default_factory=list)

    def step(self) -> tuple[list[Request], SimpleNamespace, dict[str, Tensor], list[int]]:
        """Requests join, leave and are preempted; then the first pass of a round.

        Returns:
            The requests of the batch, the pass's metadata, its tensors, and the row that vLLM will choose of each.
        """
        rng = self.rng
        if self.requests and rng.random() < 0.1:
            self.requests.remove(rng.choice(self.requests))
        if self.requests and rng.random() < 0.1:
            preempted = rng.choice(self.requests)
            preempted.blocks, preempted.num_in_cache, preempted.drafts = [], 0, []
        while len(self.requests) < 2 or rng.random() < 0.1:
            self.requests.append(self._joining())
        batch = [request for request in self.requests if rng.random() < 0.9]
        ids, positions, slots, starts, chosen = [], [], [], [0], []
        for request in batch:
            first, end = request.num_in_cache, len(request.tokens) - 1
            num_rejected = len(request.drafts)
            if num_rejected == 0 and end - first > 3 and rng.random() < 0.5:
                end = first + 3  # a part of the prompt
            while len(request.blocks) * BLOCK_SIZE < end + self.num_speculative_tokens + 1:
                request.blocks.append(self._new_block())
            chosen.append(starts[-1] + end - first - 1)
            ids += request.tokens[first + 1 : end + 1] + request.drafts
            rows = range(first, end + num_rejected)
            positions += rows
            slots += [request.blocks[p // BLOCK_SIZE] * BLOCK_SIZE + p % BLOCK_SIZE for p in rows]
            starts.append(starts[-1] + len(rows))
            request.num_in_cache, request.drafts = end, []
        block_table = torch.zeros(len(batch), MAX_BLOCKS, dtype=torch.int32)
        for number, request in enumerate(batch):
            block_table[number, : len(request.blocks)] = torch.tensor(request.blocks, dtype=torch.int32)
        tensors = {
            "input_ids": torch.tensor([*ids, 0, 0], dtype=torch.int32),  # padding of the batch
            "positions": torch.tensor([*positions, 0, 0]),
        }
        return batch, metadata(starts, block_table, [*slots, -1, -1]), tensors, chosen

    def verify(self, request: Request, drafts: list[int]) -> None:
        """Accepts some of a draft; the rest comes back as rejected rows."""
        if request.num_in_cache < len(request.tokens) - 1:
            return  # a part of the prompt was read: its draft is not verified
        num_accepted = self.rng.randint(0, len(drafts))
        request.tokens += [*drafts[:num_accepted], self.rng.randrange(VOCAB_SIZE)]
        request.drafts = [self.rng.randrange(VOCAB_SIZE) for _ in drafts[num_accepted:]]
        if len(request.tokens) + 12 > MAX_BLOCKS * BLOCK_SIZE:
            self.requests.remove(request)

    def _joining(self) -> Request:
        """A request, half of them with the beginning of another one in the prefix cache."""
        rng = self.rng
        tokens, blocks, num_in_cache = [], [], 0
        others = [one for one in self.requests if one.num_in_cache > BLOCK_SIZE]
        if others and rng.random() < 0.5:
            other = rng.choice(others)
            # vLLM drops the last block that it finds: the token after the shared ones is the same too.
            num_in_cache = (other.num_in_cache - 1) // BLOCK_SIZE * BLOCK_SIZE
            tokens, blocks = other.tokens[: num_in_cache + 1], other.blocks[: num_in_cache // BLOCK_SIZE]
        tokens = tokens + [rng.randrange(VOCAB_SIZE) for _ in range(rng.randint(2, 9))]
        return Request(tokens=tokens, blocks=list(blocks), num_in_cache=num_in_cache)

    def _new_block(self) -> int:
        used = {block for request in self.requests for block in request.blocks}
        return self.rng.choice([block for block in self.free if block not in used])


def metadata(starts: list[int], block_table: Tensor, slots: list[int]) -> SimpleNamespace:
    return SimpleNamespace(
        num_actual_tokens=starts[-1],
        max_query_len=max((end - start for start, end in pairwise(starts)), default=0),
        query_start_loc=torch.tensor(starts, dtype=torch.int32),
        block_table=block_table,
        slot_mapping=torch.tensor(slots),
    )


@pytest.mark.parametrize("kind", [HostLookup, DeviceLookup])
@pytest.mark.parametrize("seed", range(4))
def test_texts_are_the_requests_own(kind: type[HostLookup] | type[DeviceLookup], seed: int) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    num_speculative_tokens = (1, 3, 5, 4)[seed]
    on_host = kind is HostLookup
    settings = Lookup(min_match=1 + seed % 3, max_match=4, module_steps=2 if on_host else 99)
    lookup = kind(settings, num_speculative_tokens, layer())
    scheduler = Scheduler(rng=rng, num_speculative_tokens=num_speculative_tokens)
    num_copied = num_left_out = 0
    for _ in range(150):
        batch, passed, tensors, chosen = scheduler.step()
        if not batch:
            continue
        fed_TD = torch.randn(len(tensors["input_ids"]), HIDDEN_SIZE)
        assert lookup.begin(tensors["input_ids"], fed_TD, passed), "keys of verified tokens are always computed"
        states_TD = torch.randn_like(fed_TD)
        lookup.end(states_TD, tensors["positions"], passed)
        if rng.random() < 0.1:  # a schedule by which this batch drafts nothing
            for request in batch:
                scheduler.verify(request, [])
            continue
        states_BD = states_TD[chosen]
        position_B = tensors["positions"][chosen]
        texts = [request.tokens[1 : int(p) + 2] for request, p in zip(batch, position_B, strict=True)]
        drafts: list[list[int]] = [[] for _ in batch]
        for step in range(rng.randint(1, num_speculative_tokens)):  # by a schedule fewer
            if step:
                slots = [
                    request.blocks[p // BLOCK_SIZE] * BLOCK_SIZE + p % BLOCK_SIZE
                    for request, p in zip(batch, (position_B + step).tolist(), strict=True)
                ]
                passed = metadata(list(range(len(batch) + 1)), passed.block_table, slots)
                needed = step < settings.module_steps and any(
                    find(text, settings.least(step), 4) == NO_TOKEN for text in texts
                )
                ids_B = torch.tensor([draft[-1] for draft in drafts], dtype=torch.int32)
                computed = lookup.begin(ids_B, states_BD, passed)
                assert computed == (needed or not on_host)
                num_left_out += not computed
                if computed:
                    states_BD = torch.randn_like(states_BD)
                    lookup.end(states_BD, position_B + step, passed)
            found_B = lookup.tokens(states_BD)
            assert found_B is not None
            for text, draft, found in zip(texts, drafts, list(map(int, found_B)), strict=True):
                expected = find(text, settings.least(step), 4)
                if step >= settings.module_steps and expected == NO_TOKEN:
                    expected = text[-1]
                assert found == expected
                num_copied += found != NO_TOKEN
                draft.append(rng.randrange(VOCAB_SIZE) if found == NO_TOKEN else found)
                text.append(draft[-1])
        are_dropped = rng.random() < 0.3  # by a grammar, say: then the next pass has one row for each request
        for request, draft in zip(batch, drafts, strict=True):
            scheduler.verify(request, [] if are_dropped else draft)
    assert num_copied > 100
    assert num_left_out > 10 or not on_host or num_speculative_tokens == 1


@pytest.mark.parametrize("kind", [HostLookup, DeviceLookup])
def test_a_copied_token_is_certain(kind: type[HostLookup] | type[DeviceLookup]) -> None:
    """Catches a draft probability below one, with which rejection sampling would change the distribution, and a row of
    the module's that is another request's."""
    torch.manual_seed(0)
    module_BV, states_BD = torch.randn(3, VOCAB_SIZE), torch.randn(3, HIDDEN_SIZE)
    of_state = {tuple(state_D.tolist()): row for row, state_D in enumerate(states_BD)}
    rows = [[1, 2, 1], [1, 2, 3], [4, 0, 4]]  # the first and the last repeat themselves
    block_table = torch.tensor([[1], [2], [3]], dtype=torch.int32)
    slots = [block * BLOCK_SIZE + p for block in (1, 2, 3) for p in range(3)]
    passed, states_TD = metadata([0, 3, 6, 9], block_table, slots), torch.randn(9, HIDDEN_SIZE)
    states_TD[[2, 5, 8]] = states_BD

    def module_logits(states_RD: Tensor) -> Tensor:
        return module_BV[[of_state[tuple(state_D.tolist())] for state_D in states_RD]].clone()

    def asked() -> HostLookup | DeviceLookup:
        lookup = kind(Lookup(min_match=1), 3, layer())
        lookup.begin(torch.tensor(rows, dtype=torch.int32).flatten(), states_TD, passed)
        lookup.end(states_TD, torch.arange(3).repeat(3), passed)
        return lookup

    for temperature in (0.1, 1.0, 5.0):
        logits_BV = asked().logits(states_BD, module_logits, VOCAB_SIZE)
        assert logits_BV is not None
        q_BV = logits_BV.div_(temperature).softmax(-1)
        assert q_BV[0].tolist() == [0, 0, 1, 0, 0]
        assert q_BV[2].tolist() == [1, 0, 0, 0, 0]
        assert torch.equal(q_BV[1], (module_BV[1] / temperature).softmax(-1))
    top_B = asked().top_tokens(states_BD, lambda states_RD: module_logits(states_RD).argmax(-1))
    assert top_B.tolist() == [2, int(module_BV[1].argmax()), 0]
    assert asked().logits(states_BD, lambda states_RD: None, VOCAB_SIZE) is None, "a rank without logits"


def test_a_hole_in_the_text() -> None:
    """Catches a module that is to go on from a step that was left out, without that step's state and keys."""
    lookup = HostLookup(Lookup(min_match=2, module_steps=9), 5, layer())
    block_table, states_TD = torch.tensor([[1, 2]], dtype=torch.int32), torch.randn(4, HIDDEN_SIZE)
    for tokens, first in (([5, 6, 7, 8], 0), ([9, 5, 6], 5)):  # nothing was told of position 4
        slots = [BLOCK_SIZE + first + p for p in range(len(tokens))]
        passed = metadata([0, len(tokens)], block_table, slots)
        lookup.begin(torch.tensor(tokens, dtype=torch.int32), states_TD, passed)
        lookup.end(states_TD, torch.arange(first, first + len(tokens)), passed)
    drafts = []
    for step in range(4):
        if step:
            one_row = metadata([0, 1], block_table, [BLOCK_SIZE + 7 + step])
            assert not lookup.begin(torch.tensor(drafts[-1:], dtype=torch.int32), states_TD[2:3], one_row)
        tokens_now = lookup.tokens(states_TD[2:3])
        assert tokens_now is not None
        drafts += tokens_now
    assert drafts == [7, 8, 8, 8]


def test_chosen_rows() -> None:
    """The last K + 1 rows of each request alone, never those of the one before; a state of another pass: none."""
    states_TD = torch.randn(9, HIDDEN_SIZE)
    starts = torch.tensor([0, 4, 5, 9])
    assert chosen_rows(states_TD, starts, states_TD[[3, 4, 6]], 3).tolist() == [3, 4, 6]
    assert chosen_rows(states_TD, starts, states_TD[[0, 3, 8]], 3).tolist() == [-1, -1, 8]
    states_TD[7] = states_TD[6]
    assert chosen_rows(states_TD, starts, states_TD[[2, 4, 6]], 3).tolist() == [2, 4, 7]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_host_chooses_the_same_rows(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    for _ in range(50):
        states_TD = torch.randint(2, (12, 2)).to(dtype)  # many equal rows
        starts = torch.tensor([0, 5, 6, 12], dtype=torch.int32)
        chosen_BD = states_TD[torch.randint(12, (3,))]
        rows = chosen_rows(states_TD, starts, chosen_BD, 4).tolist()
        assert _chosen_rows(_bits(states_TD), starts.tolist(), _bits(chosen_BD), 4) == rows


@pytest.mark.parametrize(
    "shape", [(7, 3, 16, 128), (7, 16, 3, 64), (2, 7, 16, 3, 64), (7, 2, 16, 3, 64), (2, 7, 3, 16, 64)]
)
def test_every_layout_of_the_cache_is_read(shape: tuple[int, ...]) -> None:
    assert num_blocks_and_block_size(SimpleNamespace(kv_cache=torch.empty(shape), num_kv_heads=3)) == (7, 16)


def test_as_many_slots_as_heads() -> None:
    assert num_blocks_and_block_size(SimpleNamespace(kv_cache=torch.empty(7, 16, 16, 64), num_kv_heads=16)) == (7, 16)


def test_what_lookup_lacks_is_said() -> None:
    """Catches an engine that ends, or drafts from the wrong text, where an attention backend says less."""
    ids, positions, passed = torch.zeros(3), torch.arange(3), metadata([0, 3], torch.zeros(1, 1), [0, 1, 2])
    assert why_no_lookup(ids, positions, passed, layer()) == ""
    assert "in place of token ids" in why_no_lookup(None, positions, passed, layer())
    assert "M-RoPE" in why_no_lookup(ids, positions.expand(3, 3), passed, layer())
    windowed = SimpleNamespace(**vars(layer()), sliding_window=8)
    assert "sliding window" in why_no_lookup(ids, positions, passed, windowed)
    other = SimpleNamespace(kv_cache=torch.empty(7, 99), num_kv_heads=3)
    assert "expected a KV cache of blocks" in why_no_lookup(ids, positions, passed, other)
    del passed.block_table
    assert "has no block_table" in why_no_lookup(ids, positions, passed, layer())


def test_the_table_follows_the_cache() -> None:
    """Catches a table of the small KV cache on which vLLM's V2 runner measures its graphs, then written beyond its end.

    And a pass that is asked of twice: a replayed graph calls nothing between two questions.
    """
    one = layer()
    lookup = DeviceLookup(Lookup(min_match=1), 3, one)
    block_table, states_TD = torch.tensor([[NUM_BLOCKS - 1]], dtype=torch.int32), torch.randn(3, HIDDEN_SIZE)
    for num_blocks, slots in ((2, [4, 5, 6]), (NUM_BLOCKS, [(NUM_BLOCKS - 1) * BLOCK_SIZE + p for p in range(3)])):
        one.kv_cache = torch.empty(num_blocks, NUM_HEADS, BLOCK_SIZE, 2)
        passed = metadata([0, 3], block_table, slots)
        lookup.begin(torch.tensor([7, 8, 7], dtype=torch.int32), states_TD, passed)
        lookup.end(states_TD, torch.arange(3), passed)
    found_B = lookup.tokens(states_TD[2:])
    assert found_B is not None
    assert found_B.tolist() == [8]
    assert lookup.tokens(states_TD[2:]) is None
