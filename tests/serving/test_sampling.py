"""Sampled output with drafting has the target's own distribution, on real vLLM.

Catches: a sampler that verifies with wrong temperatures (stock vLLM on a CPU does), draft tokens accepted too often or
too rarely, recovered tokens drawn from the wrong remainder, an engine that dies of top_k, draft probabilities that are
not 0 outside a draft vocabulary, or not 1 for a token that was copied from the text.

Thousands of requests share one prompt. The first generated token comes from the prefill; those after it went through
rejection sampling, and are compared, given the first, with the target's probabilities as transformers computes them.
Every request asks for several outputs (n).
"""

# Shapes: V vocabulary.

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from tests.drafts import with_lookup
from tests.serving.engine import copied_tokens, counters, engine, model_runner

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

PROMPT = "import os\nimport sys\n\n\ndef main(args):\n    for name in "
NUM_SPECULATIVE_TOKENS = 3
NUM_OUTPUTS = 1500
OUTPUTS_PER_REQUEST = 10
MIN_EXPECTED = 5  # draws in a cell, the usual rule for a chi-square test
MIN_P_VALUE = 1e-4
OTHER = -1  # in a cell: any token that has no cell of its own

Logits = Callable[[tuple[int, ...]], Tensor]


@pytest.fixture(
    scope="module", params=["greedy, lookup", "probabilistic", "probabilistic, draft vocabulary and lookup"]
)
def llm(
    request: pytest.FixtureRequest,
    target_dir: Path,
    draft_dir: Path,
    few_lookup_draft_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Any]:
    """An engine with drafting, for each way in which vLLM chooses draft tokens. Lookup copies as often as it can."""
    method, _, more = request.param.partition(", ")
    drafter = few_lookup_draft_dir if "vocabulary" in more else draft_dir
    if more == "lookup":
        drafter = with_lookup(draft_dir, tmp_path_factory.mktemp("sampled") / "draft", min_match=1, module_steps=1)
    with engine(
        target_dir,
        drafter,
        NUM_SPECULATIVE_TOKENS,
        speculative={"draft_sample_method": method},
        max_model_len=256,
        max_num_seqs=256,
    ) as llm:
        yield llm


@pytest.fixture(scope="module")
def prompt(target_dir: Path) -> list[int]:
    from transformers import AutoTokenizer

    ids: list[int] = AutoTokenizer.from_pretrained(target_dir)(PROMPT)["input_ids"]
    return ids


@pytest.fixture(scope="module")
def target_logits(target_dir: Path, prompt: list[int]) -> Logits:
    """The target's logits after the prompt and further tokens, [V], in float32 by plain PyTorch."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(target_dir, dtype=torch.float32).eval()
    known: dict[tuple[int, ...], Tensor] = {}

    @torch.inference_mode()
    def logits(tokens: tuple[int, ...]) -> Tensor:
        if tokens not in known:
            known[tokens] = model(torch.tensor([[*prompt, *tokens]])).logits[0, -1]
        return known[tokens]

    return logits


def generate(llm: Any, prompt: list[int], params: list[Any]) -> list[tuple[int, ...]]:
    """One request per sampling parameters; the generated token ids of all its outputs."""
    results = llm.generate([{"prompt_token_ids": prompt}] * len(params), params, use_tqdm=False)
    return [tuple(output.token_ids) for result in results for output in result.outputs]


def cells_of(logits: Logits, first: int, temperature: float, num_draws: int) -> dict[tuple[int, ...], float]:
    """Splits what may follow `first` into cells with their probabilities, as finely as the number of draws allows.

    A cell is a sequence of NUM_SPECULATIVE_TOKENS tokens, or a shorter one that ends in OTHER.
    """
    cells: dict[tuple[int, ...], float] = {}

    def split(tokens: tuple[int, ...], probability: float) -> None:
        if len(tokens) == NUM_SPECULATIVE_TOKENS:
            cells[tokens] = probability
            return
        p_V = (logits((first, *tokens)).double() / temperature).softmax(-1) * probability
        likely = (p_V * num_draws >= MIN_EXPECTED).nonzero().flatten().tolist()
        cells[(*tokens, OTHER)] = probability - float(p_V[likely].sum())
        for token in likely:
            split((*tokens, token), float(p_V[token]))

    split((), 1.0)
    return cells


def cell_of(tokens: tuple[int, ...], cells: dict[tuple[int, ...], float]) -> tuple[int, ...]:
    """The cell that a continuation falls into."""
    return next(
        cell
        for length in range(len(tokens), -1, -1)
        if (cell := tokens if length == len(tokens) else (*tokens[:length], OTHER)) in cells
    )


def p_value(outputs: list[tuple[int, ...]], logits: Logits, temperature: float) -> float:
    """P-value of Pearson's chi-square for the tokens after the first, summed over the frequent first tokens.

    Cells below MIN_EXPECTED draws are pooled, for each first token.
    """
    statistic, num_degrees = 0.0, 0
    for first, num_draws in Counter(output[0] for output in outputs).items():
        if num_draws < 20 * MIN_EXPECTED:
            continue
        cells = cells_of(logits, first, temperature, num_draws)
        observed = Counter(cell_of(output[1:], cells) for output in outputs if output[0] == first)
        pairs = sorted((num_draws * probability, observed[cell]) for cell, probability in cells.items())
        pooled_expected, pooled_observed = 0.0, 0
        while pairs and (pairs[0][0] < MIN_EXPECTED or 0 < pooled_expected < MIN_EXPECTED):
            expected, count = pairs.pop(0)
            pooled_expected, pooled_observed = pooled_expected + expected, pooled_observed + count
        if pooled_expected > 0:
            pairs.append((pooled_expected, pooled_observed))
        statistic += sum((count - expected) ** 2 / expected for expected, count in pairs)
        num_degrees += len(pairs) - 1
    assert num_degrees >= 10, "too few draws of the same first token for a test"
    return float(stats.chi2.sf(statistic, num_degrees))


@pytest.mark.parametrize("temperature", [pytest.param(0.7, marks=pytest.mark.extended), 1.0])
def test_output_has_the_targets_distribution(
    llm: Any, prompt: list[int], target_logits: Logits, temperature: float
) -> None:
    from vllm import SamplingParams

    before = counters(llm)
    params = SamplingParams(
        n=OUTPUTS_PER_REQUEST, temperature=temperature, max_tokens=NUM_SPECULATIVE_TOKENS + 2, ignore_eos=True
    )
    has_lookup = model_runner(llm).drafter.model.lookup is not None
    with copied_tokens(llm) if has_lookup else nullcontext([]) as copied:
        outputs = generate(llm, prompt, [params] * (NUM_OUTPUTS // OUTPUTS_PER_REQUEST))
    assert len(outputs) == NUM_OUTPUTS
    assert len(copied) > NUM_OUTPUTS / 10 or not has_lookup
    after = counters(llm)
    num_drafts, num_accepted = (
        after[f"spec_decode_num_{what}"] - before[f"spec_decode_num_{what}"] for what in ("drafts", "accepted_tokens")
    )
    # Drafting took part: without accepted tokens the test would pass for a sampler that rejects everything.
    assert num_drafts >= NUM_OUTPUTS
    assert num_accepted > num_drafts / 20

    outputs = [output[: 1 + NUM_SPECULATIVE_TOKENS] for output in outputs]
    assert p_value(outputs, target_logits, temperature) > MIN_P_VALUE
    # The same draws tell a temperature that is off by a quarter: the test can fail.
    assert p_value(outputs, target_logits, 1.25 * temperature) < MIN_P_VALUE


def test_every_kind_of_request_in_one_batch(llm: Any, prompt: list[int], target_logits: Logits) -> None:
    from vllm import SamplingParams

    kinds: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {"temperature": 1.0, "top_k": 1},
        {"temperature": 1.0, "top_k": 3},
        {"temperature": 1.0, "top_p": 0.5},
        {"temperature": 0.7, "top_k": 20, "top_p": 0.8},
    ]
    params = [SamplingParams(**kind, max_tokens=8, ignore_eos=True) for kind in kinds for _ in range(4)]
    outputs = generate(llm, prompt, params)
    assert outputs[0:4] == outputs[4:8] == [outputs[0]] * 4, "top_k = 1 is greedy"
    assert len(set(outputs[8:])) > 8, "sampled requests differ"
    for output, request in zip(outputs, params, strict=True):
        for position, token in enumerate(output):
            logits_V = target_logits(output[:position])
            assert is_allowed(logits_V, token, request.temperature or 1.0, request.top_k, request.top_p), (
                f"{request}: token {token} at position {position} of {output}"
            )
            if request.temperature == 0:
                assert logits_V[token] >= logits_V.max() - 1e-3
    # The engine has survived and still answers as it did.
    assert generate(llm, prompt, params[:1]) == outputs[:1]


def is_allowed(logits_V: Tensor, token: int, temperature: float, top_k: int, top_p: float) -> bool:
    """Whether the token is among the top_k, and the more likely ones of those make up less than top_p."""
    p_V = (logits_V.double() / temperature).softmax(-1)
    tolerance = 1e-4  # of probabilities: float32 in vLLM, other kernels
    likelier_V = p_V > p_V[token] + tolerance
    if top_k > 0:
        if likelier_V.sum() >= top_k:
            return False
        p_V = p_V / p_V.topk(top_k).values.sum()
    return bool(p_V[likelier_V].sum() < top_p + tolerance)
