"""Two tensor-parallel ranks draft what one rank drafts, and the output is the target's own, on real vLLM.

Catches: a rank that drafts from its own part of the vocabulary alone, a draft vocabulary whose rows are cut by the
wrong rank's part, or that leaves a rank without any row, ranks of which one leaves a step out and the other does not.
"""

from pathlib import Path
from typing import Any

import pytest

from tests.drafts import with_draft_vocabulary
from tests.serving.engine import acceptance, engine, greedy
from vllm_mtp.contract.checkpoint import load_draft
from vllm_mtp.contract.tensors import draft_ids

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.extended]

NUM_SPECULATIVE_TOKENS = 3


@pytest.fixture(scope="module", params=["all tokens", "draft vocabulary, lookup", "draft vocabulary of the first rank"])
def drafter(
    request: pytest.FixtureRequest,
    draft_dir: Path,
    few_draft_dir: Path,
    few_lookup_draft_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    if request.param == "all tokens":
        return draft_dir
    if request.param == "draft vocabulary, lookup":
        return few_lookup_draft_dir
    config, tensors = load_draft(few_draft_dir)
    ids_J = draft_ids(tensors["d2t"])
    first_J = ids_J[ids_J < config.vocab_size // 2]
    return with_draft_vocabulary(draft_dir, tmp_path_factory.mktemp("first") / "draft", first_J)


@pytest.mark.parametrize("speculative", [{}, {"use_local_argmax_reduction": True}], ids=["logits", "local argmax"])
def test_two_ranks_draft_what_one_drafts(
    target_dir: Path,
    drafter: Path,
    prompts: list[list[int]],
    plain_outputs: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
    speculative: dict[str, Any],
) -> None:
    counted = []
    for num_ranks in (1, 2):
        if num_ranks > 1:  # a core for each; by default both would take the same
            monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")
        with engine(
            target_dir, drafter, NUM_SPECULATIVE_TOKENS, speculative=speculative, tensor_parallel_size=num_ranks
        ) as llm:
            assert greedy(llm, prompts, len(plain_outputs[0])) == plain_outputs
            counted.append(acceptance(llm))
    assert counted[0] == counted[1]
    assert counted[0].num_accepted_tokens > 0
