"""Acceptance length read off held-out text.

Catches: rounds that are not those of decoding, the end of a row left out or counted beyond, tokens of a question taken
for an answer's, ids of a draft vocabulary compared with the target's, head products that the loss has made already.
"""

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from vllm_mtp.benchmarks.harness.figures import figures
from vllm_mtp.benchmarks.simulation.sampler import Sampler
from vllm_mtp.benchmarks.simulation.speculate import Simulated, generate, load_module
from vllm_mtp.kernels import reference
from vllm_mtp.module.mtp import MTPModule
from vllm_mtp.training.config import NUM_HELD_OUT_STEPS, NUM_SPECULATIVE_TOKENS, TrainConfig
from vllm_mtp.training.cut import cut_draft
from vllm_mtp.training.data.batches import Batch
from vllm_mtp.training.frozen.target import FrozenTarget
from vllm_mtp.training.loss.acceptance import acceptance_length, accepted_drafts, tokens_of_rounds
from vllm_mtp.training.loss.loss import Loss, draft, held_out

CONFIG = TrainConfig()


@pytest.fixture(scope="module")
def target(target_dir: Path) -> FrozenTarget:
    return FrozenTarget.load(str(target_dir), device="cpu", dtype="float32")


def greedy_runs(target: FrozenTarget, module: MTPModule, prompts: list[list[int]]) -> list[Simulated]:
    """What `vllm-mtp eval` makes of prompts, outputs of unequal length."""
    return [
        generate(
            target,
            module,
            torch.tensor(prompt),
            num_speculative_tokens=NUM_SPECULATIVE_TOKENS,
            max_tokens=40 + number,
            sampler=Sampler(0.0, 0),
        )
        for number, prompt in enumerate(prompts)
    ]


def batch_of(prompts: list[list[int]], runs: list[Simulated]) -> Batch:
    """Prompts with their answers, of which the answers count, the shorter ones padded."""
    rows = [[*prompt, *run.token_ids] for prompt, run in zip(prompts, runs, strict=True)]
    ids_BL = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    text_BS = torch.zeros(len(rows), ids_BL.size(1) - 1, dtype=torch.bool)
    mask_BS = text_BS.clone()
    for number, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        ids_BL[number, : len(row)] = torch.tensor(row)
        text_BS[number, : len(row) - 1] = True
        mask_BS[number, len(prompt) - 1 : len(row) - 1] = True
    return Batch(ids_BL, text_BS, mask_BS)


def test_rounds_by_hand() -> None:
    """A round gives what it accepts and one token; the first of a stretch is there before any round."""
    counts = [False, True, True, True, True, True, False, True, True, False]
    assert tokens_of_rounds([9, 0, 9, 9, 9, 9, 9, 3, 9, 9], counts) == [1, 3, 1]
    assert tokens_of_rounds([0] * 10, counts) == [1, 1, 1, 1, 1]
    assert tokens_of_rounds([1] * 10, [True] * 10) == [2, 2, 2, 2, 1]
    assert tokens_of_rounds([1] * 3, [True, False, True]) == []


def test_length_and_interval() -> None:
    assert acceptance_length(torch.tensor([[6, 3], [3, 3]])) == (1.5, (1.0, 2.0))
    assert acceptance_length(torch.tensor([[0], [0]])) is None


@pytest.mark.slow
@pytest.mark.parametrize("draft_vocab_size", [None, 700])
def test_on_greedy_text_the_rounds_are_those_of_eval(
    draft_vocab_size: int | None, target: FrozenTarget, draft_dir: Path, prompts: list[list[int]], tmp_path: Path
) -> None:
    draft_ids_J = None
    if draft_vocab_size is not None:
        draft_ids_J = torch.arange(0, target.vocab_size, 2)[:draft_vocab_size]
        cut_draft(draft_dir, draft_ids_J, tmp_path / "cut", {})
        draft_dir = tmp_path / "cut"
    module, some = load_module(draft_dir), prompts[:6]
    runs = greedy_runs(target, module, some)
    batch, loss = batch_of(some, runs), Loss(target, draft_ids_J, CONFIG)
    assert rounds_of(module, loss, batch) == [
        [min(1 + accepted, left) for (_, accepted), left in zip(run.rounds or (), left_before(run), strict=True)]
        for run in runs
    ]
    asked: list[slice] = []

    def hidden_of(batch: Batch, part: slice) -> Tensor:
        asked.append(part)
        return target.hidden_states(batch.rows(part).ids_BL[:, :-1])

    found = held_out(module, loss, [batch], hidden_of, CONFIG)
    in_parts = held_out(module, loss, [batch], hidden_of, CONFIG, num_parts=4)
    assert asked == [slice(0, 6), *batch.parts(4)]
    assert in_parts.acceptance_length_95 == found.acceptance_length_95
    assert in_parts.loss == pytest.approx(found.loss, abs=2e-4)
    assert in_parts.agreement_per_position == pytest.approx(found.agreement_per_position, abs=2e-4)
    expected = figures(runs, max_tokens=1000)
    assert found.acceptance_length == expected.acceptance_length
    assert found.acceptance_length_95 == expected.acceptance_length_95
    assert 1.05 < expected.acceptance_length < 3.9


def test_the_head_is_multiplied_with_once(
    target: FrozenTarget, draft_dir: Path, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the teacher, and for each draft step: acceptance is read off what the loss computed."""
    monkeypatch.setattr("vllm_mtp.training.loss.objective.linear_kl", reference.linear_kl)  # no operator to look into
    ids_BL = torch.tensor([prompts[0][:24], prompts[1][:24]])
    batch = Batch(ids_BL, torch.ones(2, 23, dtype=torch.bool), torch.ones(2, 23, dtype=torch.bool))
    loss, hidden_BSD, module = Loss(target, None, CONFIG), target.hidden_states(ids_BL[:, :-1]), load_module(draft_dir)
    with FlopCounterMode(display=False) as counter:
        held_out(module, loss, [batch], lambda *_: hidden_BSD, CONFIG)
    with FlopCounterMode(display=False) as without:
        padded_BSD = functional.pad(hidden_BSD, (0, 0, 0, NUM_HELD_OUT_STEPS))
        draft(module, target, batch.padded(NUM_HELD_OUT_STEPS).ids_BL, padded_BSD, NUM_HELD_OUT_STEPS)
    of_head = counter.get_total_flops() - without.get_total_flops()
    assert of_head == 2 * 2 * 22 * loss.head.head_VD.numel() * (1 + NUM_HELD_OUT_STEPS)


def left_before(run: Simulated) -> list[int]:
    """How many tokens of the output are still to come before each round."""
    given = itertools.accumulate((1 + accepted for _, accepted in run.rounds or ()), initial=1)
    return [len(run.token_ids) - before for before in given][:-1]


@torch.no_grad()
def rounds_of(module: MTPModule, loss: Loss, batch: Batch) -> list[list[int]]:
    """Tokens of each row's rounds, as `held_out` counts them."""
    hidden_BSD = functional.pad(loss.target.hidden_states(batch.ids_BL[:, :-1]), (0, 0, 0, NUM_SPECULATIVE_TOKENS))
    padded = batch.padded(NUM_SPECULATIVE_TOKENS)
    states_KBTD = draft(module, loss.target, padded.ids_BL, hidden_BSD, NUM_SPECULATIVE_TOKENS)
    agrees_KBT = loss.measured(states_KBTD, padded, hidden_BSD).agrees_KBT
    assert agrees_KBT is not None
    accepted_BT = accepted_drafts(agrees_KBT)
    return [tokens_of_rounds(*row) for row in zip(accepted_BT.tolist(), padded.mask_BS.tolist(), strict=True)]
