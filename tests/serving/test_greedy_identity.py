"""Greedy output with drafting is the target's own, token for token, on real vLLM.

Catches: a draft token accepted without being the target's choice, keys and values of rejected tokens left in the
target's cache, a drafter that reads or writes the wrong slots when prompts come in chunks or from the prefix cache,
a drafter that takes no part at all, with which everything would be identical too, a draft head in 8 bits that is asked
for and not used, or that changes the output, logprobs and constraints of another token, and an engine that dies of a
seed.
"""

import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.drafts import change_config
from tests.serving.engine import acceptance, copied_tokens, counters, engine, greedy, model_runner
from vllm_mtp.contract.checkpoint import load_draft
from vllm_mtp.contract.config import ARCHITECTURE
from vllm_mtp.contract.tensors import draft_ids

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

NUM_TOKENS = 48
LONG_PROMPT_LENGTH = 400  # tokens: three blocks of the KV cache and a part
WAYS_OF_ASKING = ["method named", "method detected", "short arguments"]


def asking(way: str, draft_dir: Path, num_speculative_tokens: int) -> dict[str, Any]:
    """Arguments of `vllm.LLM` that ask for the drafter."""
    if way == "short arguments":
        return {"spec_method": "mtp", "spec_model": str(draft_dir), "spec_tokens": num_speculative_tokens}
    fields = {"model": str(draft_dir), "num_speculative_tokens": num_speculative_tokens}
    return {"speculative_config": {"method": "mtp", **fields} if way == "method named" else fields}


@pytest.mark.parametrize("way", WAYS_OF_ASKING)
def test_every_way_of_asking_gives_our_drafter(target_dir: Path, draft_dir: Path, way: str) -> None:
    from vllm.engine.arg_utils import EngineArgs

    arguments = EngineArgs(model=str(target_dir), max_model_len=512, **asking(way, draft_dir, 2))
    speculative = arguments.create_engine_config().speculative_config
    assert speculative.method == "mtp"
    assert speculative.num_speculative_tokens == 2
    assert speculative.draft_model_config.architectures == [ARCHITECTURE]


@pytest.mark.parametrize(("num_speculative_tokens", "way"), list(zip([1, 3, 5], WAYS_OF_ASKING, strict=True)))
def test_output_is_the_targets_own(
    target_dir: Path,
    draft_dir: Path,
    lookup_draft_dir: Path,
    prompts: list[list[int]],
    plain_outputs: list[list[int]],
    num_speculative_tokens: int,
    way: str,
) -> None:
    assert len(prompts) >= 20
    drafter = draft_dir if num_speculative_tokens == 3 else lookup_draft_dir
    with engine(target_dir, **asking(way, drafter, num_speculative_tokens)) as llm:
        outputs = greedy(llm, prompts, NUM_TOKENS)
        counted = acceptance(llm)
        alone = [greedy(llm, [prompt], 20)[0] for prompt in prompts[:4]]
    assert outputs == plain_outputs
    assert alone == [output[:20] for output in plain_outputs[:4]], "batch of one"

    assert counted.acceptance_length > 1.2, "the drafter's guesses are hardly ever right"
    assert len(counted.num_accepted_tokens_per_position) == num_speculative_tokens
    # Every token but the first comes from a round, which gives its accepted tokens and one more. vLLM verifies, and
    # counts, a whole draft also at the end, where up to K tokens too many are thrown away.
    assert counted.num_draft_tokens == num_speculative_tokens * counted.num_drafts
    num_too_many = counted.num_drafts + counted.num_accepted_tokens - len(prompts) * (NUM_TOKENS - 1)
    assert 0 <= num_too_many <= num_speculative_tokens * len(prompts)


def test_draft_vocabulary(
    target_dir: Path, few_lookup_draft_dir: Path, prompts: list[list[int]], plain_outputs: list[list[int]]
) -> None:
    """Tokens that are never drafted are the target's to give; both ways of choosing a draft token choose the same.

    With lookup, which may copy tokens from outside the draft vocabulary.
    """
    draft_ids_J = draft_ids(load_draft(few_lookup_draft_dir)[1]["d2t"])
    draftable = torch.isin(torch.tensor(plain_outputs), draft_ids_J).float().mean()
    assert 0.3 < draftable < 0.9
    counted = []
    for speculative in ({}, {"use_local_argmax_reduction": True}):
        with engine(target_dir, few_lookup_draft_dir, 3, speculative=speculative) as llm:
            assert greedy(llm, prompts, NUM_TOKENS) == plain_outputs
            counted.append(acceptance(llm))
            draft_model = model_runner(llm).drafter.model
            assert len(draft_model.chosen_head.weight) == len(draft_ids_J), "the rows of the draft vocabulary alone"
            with copied_tokens(llm) as copied:
                greedy(llm, prompts[:4], NUM_TOKENS)
            assert not set(copied) <= set(draft_ids_J.tolist()), "a copied token may be any"
    assert counted[0] == counted[1]
    assert counted[0].acceptance_length > 1.2


@pytest.fixture
def with_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    """The draft model runs the operators of kernels/, as on a GPU; here, their plain twins."""
    from vllm.model_executor.layers.linear import ReplicatedLinear

    from vllm_mtp.serving import draft_model, projection

    class Unpacked(ReplicatedLinear):
        _cpu_skip_gemm_dispatch = True  # vLLM's own switch: the weight stays

    monkeypatch.setattr(projection, "has_kernels", lambda: True)
    monkeypatch.setattr(draft_model, "ReplicatedLinear", Unpacked)


@pytest.mark.parametrize("vocabulary", [pytest.param("all tokens", marks=pytest.mark.extended), "draft vocabulary"])
def test_operators_draft_what_vllms_layers_draft(
    target_dir: Path,
    draft_dir: Path,
    few_draft_dir: Path,
    prompts: list[list[int]],
    plain_outputs: list[list[int]],
    vocabulary: str,
    request: pytest.FixtureRequest,
) -> None:
    drafter = draft_dir if vocabulary == "all tokens" else few_draft_dir
    counted = []
    for operators in (False, True):
        if operators:
            request.getfixturevalue("with_operators")
        with engine(target_dir, drafter, 3, speculative={"use_local_argmax_reduction": True}) as llm:
            assert greedy(llm, prompts, NUM_TOKENS) == plain_outputs
            counted.append(acceptance(llm))
            draft_model = model_runner(llm).drafter.model
            assert draft_model.model.by_kernel == (operators, False)
            assert (type(draft_model.chosen_head).__name__ == "ArgmaxHead") == operators
    assert counted[0] == counted[1]
    assert counted[0].acceptance_length > 1.2


@pytest.mark.parametrize("dtype", [pytest.param("fp8", marks=pytest.mark.extended), "int8"])
def test_draft_head_in_8_bits(
    target_dir: Path,
    draft_dir: Path,
    prompts: list[list[int]],
    plain_outputs: list[list[int]],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
    dtype: str,
) -> None:
    """The output is the target's own; by vLLM's layers and by the operators it takes as many rounds, or nearly."""
    drafter = tmp_path / "draft"
    shutil.copytree(draft_dir, drafter)
    change_config(drafter, draft_head_dtype=dtype)
    with engine(target_dir, drafter, 3) as llm:
        assert greedy(llm, prompts[:2], 8) == [output[:8] for output in plain_outputs[:2]]
        assert type(model_runner(llm).drafter.model.chosen_head).__name__ == "TargetHead"
    assert "takes effect only with" in caplog.text
    lengths = []
    for operators in (False, True):
        if operators:
            request.getfixturevalue("with_operators")
        with engine(target_dir, drafter, 3, speculative={"use_local_argmax_reduction": True}) as llm:
            assert greedy(llm, prompts, NUM_TOKENS) == plain_outputs
            lengths.append(acceptance(llm).acceptance_length)
            head = model_runner(llm).drafter.model.chosen_head
            assert type(head).__name__ == ("ArgmaxHead" if operators else "DraftHead")
            assert (head.weight.dtype.itemsize == 1) == operators
    assert lengths[0] > 1.2
    assert abs(lengths[0] - lengths[1]) < 0.05


@pytest.fixture(scope="module")
def long_prompts(target_dir: Path, corpus: ModuleType) -> list[list[int]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(target_dir)
    ids = (
        tokenizer(text, add_special_tokens=False, verbose=False).input_ids for _, text in corpus.documents("held_out")
    )
    return list(islice((tokens[:LONG_PROMPT_LENGTH] for tokens in ids if len(tokens) >= LONG_PROMPT_LENGTH), 4))


@dataclass(frozen=True, kw_only=True, slots=True)
class Plain:
    """What follows the long prompts without a drafter."""

    greedy: list[list[int]]
    of_kinds: dict[str, Any]
    """`of_kinds` of the first prompt."""


@pytest.fixture(scope="module")
def plain_long(target_dir: Path, long_prompts: list[list[int]]) -> Plain:
    with engine(target_dir, max_num_seqs=8) as llm:
        return Plain(greedy=greedy(llm, long_prompts, 40), of_kinds=of_kinds(llm, long_prompts[0]))


KINDS: dict[str, dict[str, Any]] = {
    "logprobs": {"logprobs": 3, "prompt_logprobs": 2},
    "penalties": {"frequency_penalty": 1.2, "presence_penalty": 0.5, "repetition_penalty": 1.2},
    "at least": {"min_tokens": 20, "ignore_eos": False},
    "bad words": {"bad_words": ["self", " name"]},
    "stop": {"stop": ["\n"], "include_stop_str_in_output": True},
    "allowed": {"allowed_token_ids": list(range(20, 300))},
    "grammar": {"structured_outputs": {"regex": "[a-z]{3,12}[.][0-9]{2}"}, "ignore_eos": False},
}


def of_kinds(llm: Any, prompt: list[int]) -> dict[str, Any]:
    """Greedy answers to requests of every kind in one batch: tokens, text and logprobs, of the prompt's tokens too."""
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    params = []
    for kind in KINDS.values():
        fields = {"temperature": 0.0, "max_tokens": 30, "ignore_eos": True, **kind}
        if "structured_outputs" in kind:
            fields["structured_outputs"] = StructuredOutputsParams(**kind["structured_outputs"])
        params.append(SamplingParams(**fields))
    answers = llm.generate([{"prompt_token_ids": prompt}] * len(KINDS), params, use_tqdm=False)
    return {
        kind: {
            "token_ids": list(answer.outputs[0].token_ids),
            "text": answer.outputs[0].text,
            "logprobs": [
                tokens[token].logprob
                for tokens in [*(answer.prompt_logprobs or []), *(answer.outputs[0].logprobs or [])]
                for token in tokens or {}
            ],
        }
        for kind, answer in zip(KINDS, answers, strict=True)
    }


@pytest.fixture(scope="module", params=["module alone", pytest.param("lookup", marks=pytest.mark.extended)])
def chunking(
    request: pytest.FixtureRequest,
    target_dir: Path,
    draft_dir: Path,
    lookup_draft_dir: Path,
    plain_long: Plain,
) -> Iterator[Any]:
    """An engine with drafting that takes at most 64 tokens a step and keeps prefixes."""
    drafter = lookup_draft_dir if request.param == "lookup" else draft_dir
    limits = {"max_num_seqs": 8, "max_num_batched_tokens": 64, "enable_prefix_caching": True}
    with engine(target_dir, drafter, 3, **limits) as llm:
        yield llm


def test_prompts_in_chunks_then_from_the_prefix_cache(
    chunking: Any, long_prompts: list[list[int]], plain_long: Plain
) -> None:
    assert greedy(chunking, long_prompts, 40) == plain_long.greedy, "in chunks of 64 tokens"
    first = counters(chunking)
    has_lookup = model_runner(chunking).drafter.model.lookup is not None
    with copied_tokens(chunking) if has_lookup else nullcontext([]) as copied:
        assert greedy(chunking, long_prompts, 40) == plain_long.greedy, "from the prefix cache"
    second = counters(chunking)
    assert first["prefix_cache_hits"] == 0
    assert second["prefix_cache_hits"] >= 128 * len(long_prompts)
    # The drafter's keys and values come from the cache too: a drafter with wrong ones would guess worse.
    accepted, total = first["spec_decode_num_accepted_tokens"], second["spec_decode_num_accepted_tokens"]
    assert accepted > 0
    # Nearly: vLLM tells a wrong next token at the end of each chunk, and the chunks of the second time are others.
    assert abs(total - 2 * accepted) < accepted / 5
    assert len(copied) > 20 or not has_lookup


def test_requests_of_every_kind(chunking: Any, long_prompts: list[list[int]], plain_long: Plain) -> None:
    """In one batch; test_requests.py asks a server for more."""
    accepted = counters(chunking)["spec_decode_num_accepted_tokens"]
    for kind, answer in of_kinds(chunking, long_prompts[0]).items():
        expected = plain_long.of_kinds[kind]
        assert answer | {"logprobs": []} == expected | {"logprobs": []}, kind
        assert answer["logprobs"] == pytest.approx(expected["logprobs"], abs=1e-3)
    assert counters(chunking)["spec_decode_num_accepted_tokens"] > accepted


def test_seeds_of_prompts_that_are_read_in_parts(
    chunking: Any, long_prompts: list[list[int]], plain_long: Plain
) -> None:
    """Stock vLLM 0.32 on a CPU ends with the first of them. The draws are the seed's, alone and beside others, where
    the parts are others and after the first token something else can be drafted (docs/limits.md)."""
    from vllm import SamplingParams

    def drawn(requests: list[tuple[int, int]]) -> list[list[int]]:
        params = [SamplingParams(temperature=1.0, seed=seed, max_tokens=12, ignore_eos=True) for _, seed in requests]
        # A token before each prompt: the prefix cache has none of them.
        inputs = [{"prompt_token_ids": [100 + seed, *long_prompts[number][:200]]} for number, seed in requests]
        outputs = chunking.generate(inputs, params, use_tqdm=False)
        chunking.reset_prefix_cache()
        return [list(output.outputs[0].token_ids) for output in outputs]

    requests = [(number, seed) for number in range(2) for seed in (1, 2)]
    together = drawn(requests)
    assert len({tuple(tokens) for tokens in together}) == len(requests)
    alone, again = ([drawn([request])[0] for request in requests] for _ in range(2))
    assert alone == again
    assert [tokens[0] for tokens in alone] == [tokens[0] for tokens in together]
    assert greedy(chunking, long_prompts[:1], 40) == plain_long.greedy[:1]
