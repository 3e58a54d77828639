"""vLLM's drafter computes what the PyTorch module computes: token for token, hidden state for hidden state.

Catches: another shift between hidden states and tokens, other positions in RoPE, a column order of `eh_proj` other
than the trained one, a norm left out or applied twice, stale keys and values of rejected draft tokens, a target hidden
state taken before its final norm, weights loaded into the wrong place, ids of a draft vocabulary given as tokens, a
text that lookup reads from the wrong slots, or with rejected tokens in it.

The engine drafts; hooks on its draft model record every call. The same sequence is then drafted by `DraftLoop` from
transformers' hidden states of the target, and both are compared.
"""

# Shapes: S tokens of a sequence, T rows of a call, K draft tokens, D hidden size, V vocabulary.

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.drafts import config_for, write_random_draft
from tests.serving.engine import acceptance, engine, greedy, model_runner
from vllm_mtp.benchmarks.harness.acceptance import Acceptance
from vllm_mtp.contract.checkpoint import load_draft
from vllm_mtp.contract.tensors import draft_ids
from vllm_mtp.module.draft_loop import DraftLoop
from vllm_mtp.module.mtp import MTPModule
from vllm_mtp.training.frozen.target import FrozenTarget

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

NUM_SPECULATIVE_TOKENS = 3
NUM_PROMPTS = 4
NUM_TOKENS = 24
MAX_DIFFERENCE = 1e-4  # of normed hidden states, of size 1 on average; float32, other kernels
MAX_LOGIT_DIFFERENCE = 1e-3


@dataclass(kw_only=True, slots=True)
class Recording:
    """What vLLM gave to its draft model and got from it, in the order of the calls."""

    inputs: list[dict[str, Tensor]] = field(default_factory=list)
    """input_ids [T], positions [T] and hidden_states [T, D] of every forward call."""
    states_D: list[Tensor] = field(default_factory=list)
    """The hidden state that each draft token was chosen from."""
    logits_V: list[Tensor] = field(default_factory=list)
    """The logits that each draft token was chosen from."""


@contextmanager
def recording(draft_model: Any) -> Iterator[Recording]:
    """Records a draft model's calls while one request at a time is served."""
    record = Recording()
    compute_logits = draft_model.compute_logits

    def before_forward(module: Any, args: tuple[()], kwargs: dict[str, Tensor]) -> None:
        names = ("input_ids", "positions", "hidden_states")
        record.inputs.append({name: kwargs[name].clone() for name in names})

    def recorded_logits(hidden_states: Tensor, *args: Any) -> Tensor:
        [state_D] = hidden_states.clone()
        [logits_V] = logits = compute_logits(hidden_states, *args)
        record.states_D.append(state_D)
        record.logits_V.append(logits_V.clone())
        return logits  # type: ignore[no-any-return]

    handle = draft_model.register_forward_pre_hook(before_forward, with_kwargs=True)
    draft_model.compute_logits = recorded_logits
    try:
        yield record
    finally:
        handle.remove()
        del draft_model.compute_logits


@pytest.fixture(scope="module")
def target(target_dir: Path) -> FrozenTarget:
    """The target by transformers."""
    return FrozenTarget.load(str(target_dir), device="cpu", dtype="float32")


@pytest.fixture(
    scope="module",
    params=["distilled", "draft vocabulary", "lookup", "q and k norms, biases", "other heads than the target's"],
    name="drafter",
)
def drafter_fixture(
    request: pytest.FixtureRequest,
    target_dir: Path,
    draft_dir: Path,
    few_draft_dir: Path,
    few_lookup_draft_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The distilled drafter, nearly always accepted or rejected late, and random ones, nearly always rejected."""
    distilled = {"distilled": draft_dir, "draft vocabulary": few_draft_dir, "lookup": few_lookup_draft_dir}
    if request.param in distilled:
        return distilled[request.param]
    folder = tmp_path_factory.mktemp("random") / "draft"
    if request.param == "q and k norms, biases":
        return write_random_draft(folder, config_for(target_dir, qk_norm=True, attention_bias=True))
    return write_random_draft(folder, config_for(target_dir, num_attention_heads=4, num_key_value_heads=2))


@pytest.fixture(scope="module")
def llm(target_dir: Path, drafter: Path) -> Iterator[Any]:
    from vllm.v1.spec_decode.llm_base_proposer import SpecDecodeBaseProposer

    share = SpecDecodeBaseProposer._maybe_share_embeddings

    def as_in_vllm_0_26(proposer: Any, target: Any) -> None:
        """That version reads the draft model's own weight before it shares the target's."""
        assert proposer.model.model.embed_tokens.weight is None
        share(proposer, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SpecDecodeBaseProposer, "_maybe_share_embeddings", as_in_vllm_0_26)
        with engine(target_dir, drafter, NUM_SPECULATIVE_TOKENS) as llm:
            yield llm


@torch.inference_mode()
def check_request(
    target: FrozenTarget, loop: DraftLoop, record: Recording, prompt: list[int], output: list[int]
) -> tuple[list[tuple[int, int]], Counter[str]]:
    """Drafts a served sequence again and compares every round.

    Args:
        target: the target by transformers.
        loop: drafts by the PyTorch module.
        record: of the draft model's calls for this request.
        prompt: token ids.
        output: what follows it, K tokens more than were asked for in the recorded request.

    Returns:
        (draft tokens, accepted tokens) of every round, and where the draft tokens came from. vLLM verifies, and
        counts, the whole draft also where fewer tokens were still to be generated.
    """
    sequence_S = torch.tensor(prompt + output)
    end = len(sequence_S) - NUM_SPECULATIVE_TOKENS
    hidden_SD = target.hidden_states(sequence_S[None])[0]
    states_D: list[Tensor] = []
    hook = loop.module.register_forward_hook(lambda module, args, state_TD: states_D.append(state_TD[-1]))
    rounds = []
    sources: Counter[str] = Counter()
    known = len(prompt) + 1
    while known < end:
        first, last = len(loop.cache), known - 1
        start = len(rounds) * NUM_SPECULATIVE_TOKENS
        # What vLLM feeds: row t is h_t with the token after it, at position t. Rows of rejected tokens may follow.
        fed = {name: rows[: last - first] for name, rows in record.inputs[start].items()}
        assert fed["positions"].tolist() == list(range(first, last))
        assert fed["input_ids"].tolist() == sequence_S[first + 1 : last + 1].tolist()
        assert (fed["hidden_states"] - hidden_SD[first:last]).abs().max() < MAX_DIFFERENCE

        states_D.clear()
        draft = loop.propose(hidden_SD[first:last], sequence_S[first + 1 : last + 1], NUM_SPECULATIVE_TOKENS)
        drafts, stop = draft.tokens, start + NUM_SPECULATIVE_TOKENS
        assert [int(logits_V.argmax()) for logits_V in record.logits_V[start:stop]] == drafts
        assert_close(torch.stack(record.logits_V[start:stop]), draft.logits_KV, rtol=0, atol=MAX_LOGIT_DIFFERENCE)
        # Where a step was left out there is no state of its own; the first pass is computed in any case.
        computed = [step for step, source in enumerate(draft.sources) if step == 0 or source == "module"]
        found_D = [record.states_D[start + step] for step in computed]
        assert (torch.stack(found_D) - torch.stack(states_D)).abs().max() < MAX_DIFFERENCE
        sources.update(draft.sources)

        following = sequence_S[known : known + NUM_SPECULATIVE_TOKENS].tolist()
        accepted = next((i for i, token in enumerate(drafts) if token != following[i]), len(drafts))
        rounds.append((len(drafts), accepted))
        known += accepted + 1
    hook.remove()
    return rounds, sources


def test_drafter_equals_module(llm: Any, drafter: Path, target: FrozenTarget, prompts: list[list[int]]) -> None:
    config, tensors = load_draft(drafter)
    module = MTPModule(config)
    module.load_state_dict(tensors)
    prompts = prompts[:NUM_PROMPTS]
    outputs = greedy(llm, prompts, NUM_TOKENS + NUM_SPECULATIVE_TOKENS)
    before = acceptance(llm)
    rounds, sources = [], Counter[str]()
    for prompt, output in zip(prompts, outputs, strict=True):
        with recording(model_runner(llm).drafter.model) as record:
            assert greedy(llm, [prompt], NUM_TOKENS) == [output[:NUM_TOKENS]]
        of_request, of_tokens = check_request(target, DraftLoop(module, target.head), record, prompt, output)
        rounds, sources = rounds + of_request, sources + of_tokens
    assert set(sources) == ({"module", "lookup", "guess"} if config.lookup else {"module"})

    # The counters say the same of these requests, and of all of them in one batch.
    alone = acceptance(llm)
    expected = Acceptance.of_rounds(rounds, NUM_SPECULATIVE_TOKENS)
    assert expected.num_drafts >= NUM_PROMPTS * (NUM_TOKENS - 1) / (NUM_SPECULATIVE_TOKENS + 1)
    assert alone == before + expected
    assert greedy(llm, prompts, NUM_TOKENS) == [output[:NUM_TOKENS] for output in outputs]
    assert acceptance(llm) == alone + expected


def test_drafter_has_the_targets_logits(
    llm: Any, drafter: Path, target: FrozenTarget, prompts: list[list[int]]
) -> None:
    hidden_SD = target.hidden_states(torch.tensor(prompts[:1]))[0]
    runner = model_runner(llm)
    d2t_J = load_draft(drafter)[1].get("d2t")
    with torch.inference_mode():
        drafters_SV = runner.drafter.model.compute_logits(hidden_SD)
        expected_SV, reference_SV = runner.model.compute_logits(hidden_SD), target.head.logits(hidden_SD)
        if d2t_J is None:
            assert torch.equal(drafters_SV, expected_SV)
        else:
            others = ~torch.isin(torch.arange(drafters_SV.size(1)), draft_ids(d2t_J))
            expected_SV[:, others] = reference_SV[:, others] = float("-inf")
            assert_close(drafters_SV, expected_SV, rtol=1e-5, atol=1e-5)
        assert torch.equal(drafters_SV.argmax(-1), runner.drafter.model.get_top_tokens(hidden_SD))
        assert_close(drafters_SV, reference_SV, rtol=0, atol=MAX_LOGIT_DIFFERENCE)
