"""Lookup inside vLLM's drafter: exact in batches that change, under preemption, and to the end of the context.

Catches: a text that is read from another request's slots, a step that is left out although a request of the batch needs
it, a round that is taken for a step of the one before, a draft beyond the context, a schedule by which no token is
drafted, a step of a dropped round that is counted.

The other modes run beside what they change: batches of one, draft vocabularies, local argmax and prefix hits in
test_greedy_identity.py, sampling in test_sampling.py, two ranks in test_tensor_parallel.py, the same drafts as plain
PyTorch in test_parity.py.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.drafts import with_lookup
from tests.serving.engine import acceptance, copied_tokens, counters, engine, greedy, model_runner
from vllm_mtp.serving.lookup_on_device import DeviceLookup
from vllm_mtp.serving.lookup_on_host import HostLookup

draft_model = pytest.importorskip("vllm_mtp.serving.draft_model", exc_type=ImportError)
pytestmark = [pytest.mark.vllm, pytest.mark.slow]

MAX_MODEL_LEN = 160
NUM_BLOCKS = 9  # of 128 tokens, one of them vLLM's own: room for four requests of 160 tokens


def mixed(llm: Any, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Greedy outputs of requests that join and leave at other times, some of them where the context ends."""
    from vllm import SamplingParams

    lengths = [7 + 13 * number % 60 if number % 4 else MAX_MODEL_LEN for number in range(len(prompts))]
    params = [SamplingParams(temperature=0.0, max_tokens=length, ignore_eos=True) for length in lengths]
    outputs = llm.generate([{"prompt_token_ids": list(ids)} for ids in prompts], params, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]


@pytest.fixture(scope="module")
def uneven_prompts(prompts: list[list[int]]) -> list[list[int]]:
    return [ids[: 16 + 5 * number % 48] for number, ids in enumerate(prompts)]


@pytest.fixture(scope="module")
def plain(target_dir: Path, uneven_prompts: list[list[int]]) -> list[list[int]]:
    with engine(target_dir, max_model_len=MAX_MODEL_LEN) as llm:
        outputs = mixed(llm, uneven_prompts)
    assert MAX_MODEL_LEN in {len(one) + len(two) for one, two in zip(uneven_prompts, outputs, strict=True)}
    return outputs


@pytest.mark.parametrize(
    "num_speculative_tokens", [pytest.param(k, marks=[] if k == 8 else [pytest.mark.extended]) for k in range(1, 9)]
)
def test_batches_that_change_under_preemption(
    target_dir: Path,
    lookup_draft_dir: Path,
    uneven_prompts: list[list[int]],
    plain: list[list[int]],
    num_speculative_tokens: int,
) -> None:
    limits = {
        "max_model_len": MAX_MODEL_LEN,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 96,  # prompts come in parts, beside requests that draft
        "num_gpu_blocks_override": NUM_BLOCKS,
    }
    with engine(
        target_dir,
        lookup_draft_dir,
        num_speculative_tokens,
        speculative={"use_local_argmax_reduction": True},
        **limits,
    ) as llm:
        assert mixed(llm, uneven_prompts) == plain
        assert counters(llm)["num_preemptions"] > 0
        assert acceptance(llm).acceptance_length > 1.2
        assert isinstance(model_runner(llm).drafter.model.lookup, HostLookup)


SCHEDULE = [[1, 2, 4], [3, 5, 0], [6, 64, 2]]


def test_dynamic_schedule(
    target_dir: Path, draft_dir: Path, uneven_prompts: list[list[int]], plain: list[list[int]], tmp_path: Path
) -> None:
    """More tokens for few requests, none in between; a text of one token's match copies at nearly every step."""
    drafter = with_lookup(draft_dir, tmp_path / "draft", min_match=1)
    speculative = {"num_speculative_tokens_per_batch_size": SCHEDULE}
    with engine(target_dir, drafter, 4, speculative=speculative, max_model_len=MAX_MODEL_LEN, max_num_seqs=8) as llm:
        with copied_tokens(llm) as copied:
            assert mixed(llm, uneven_prompts) == plain
        assert len(copied) > 100
        counted = acceptance(llm)
        assert counted.num_accepted_tokens_per_position[2] > 0, "few requests: four tokens"
        assert counted.num_draft_tokens < 4 * counted.num_drafts, "more: two"


def test_on_a_gpu_the_same_is_drafted(
    target_dir: Path,
    few_draft_dir: Path,
    prompts: list[list[int]],
    plain_outputs: list[list[int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is captured in CUDA graphs, run here by the plain twin of its kernel: as many tokens accepted.

    Far from the end of the context: beyond it vLLM leaves the drafter out, and both tables keep what they had.
    """
    drafter = with_lookup(few_draft_dir, tmp_path / "draft", module_steps=9)
    prompts, plain_outputs = prompts[:12], plain_outputs[:12]
    counted = []
    for kind, speculative in (
        (HostLookup, {"use_local_argmax_reduction": True}),
        (DeviceLookup, {"use_local_argmax_reduction": True}),
        (DeviceLookup, {}),
    ):
        monkeypatch.setattr(draft_model, "HostLookup", kind)
        with engine(target_dir, drafter, 4, speculative=speculative, max_num_seqs=8) as llm:
            assert greedy(llm, prompts, len(plain_outputs[0])) == plain_outputs
            assert isinstance(model_runner(llm).drafter.model.lookup, kind)
            counted.append(acceptance(llm))
    assert counted[0] == counted[1] == counted[2]
