"""docs/architectures.md: which architectures train, are simulated and served, and that it is so.

Catches: a size read under the name of one architecture, a rejected token that a recurrent state keeps, a head, cap or
scale that is not the target's.
"""

# Shapes: P prompt tokens, T tokens of the text so far.

import json
from pathlib import Path

import pytest
import torch

from tests.architectures import ALL, NOTHING_TO_SHARE, ROOT, SERVED, Architecture, page, write_target
from vllm_mtp.benchmarks.simulation.speculate import Sampler, generate, load_module, reading_of
from vllm_mtp.contract.pair import why_not_served
from vllm_mtp.training.config import TrainConfig
from vllm_mtp.training.frozen.target import FrozenTarget, config_and_tokenizer, fingerprint_of
from vllm_mtp.training.loop import train
from vllm_mtp.training.run import TrainInputs

_NUM_TOKENS = 24
_BY_DEFAULT = (
    "Llama", "Gemma 4", "OLMoE", "Llama 4", "DeepSeek V3", "Qwen 3 Next", "Falcon H1", "LFM 2", "Mamba 2",
    "Gemma 3, multimodal",
)  # fmt: skip
CASES = [pytest.param(one, id=one.name, marks=() if one.name in _BY_DEFAULT else pytest.mark.extended) for one in ALL]


def test_the_page_is_made_from_the_list() -> None:
    assert (ROOT / "docs" / "architectures.md").read_text() == page(), "run: python -m tests.architectures"


def test_what_is_tried_by_default_is_in_the_list() -> None:
    assert {one.name for one in ALL} >= set(_BY_DEFAULT)
    assert len({one.name for one in ALL}) == len(ALL)


@pytest.mark.parametrize("architecture", CASES)
def test_it_trains_and_is_simulated(architecture: Architecture, target_dir: Path, tmp_path: Path) -> None:
    """One step of training, then greedy output with drafts, which is that of whole passes without any cache."""
    folder = str(write_target(tmp_path / "target", architecture, tokenizer_from=target_dir))
    is_told_by = {"yes": False, NOTHING_TO_SHARE: True}
    is_told = why_not_served(folder) is not None
    assert is_told == is_told_by.get(SERVED.get(architecture.name, "not tried"), is_told)
    target = FrozenTarget.load(folder, device="cpu", dtype="float32")
    fingerprint = fingerprint_of(folder, *config_and_tokenizer(folder))
    assert fingerprint == target.fingerprint(), "read from the files, as when it is served"
    (tmp_path / "text.jsonl").write_text(json.dumps({"text": "def f(x):\n    return x + 1\n" * 40}) + "\n")
    config = TrainConfig(tokens=64, sequence_length=32, batch_size=2, dtype="float32", warmup_steps=1)
    inputs = TrainInputs(
        target=folder, data=[tmp_path / "text.jsonl"], output=tmp_path / "draft", device="cpu", show_progress=False
    )
    assert train(config, inputs)["tokens_seen"] > 0
    module = load_module(tmp_path / "draft")
    prompt_ids_P = torch.arange(1, 41) * 5 % target.vocab_size
    expected = greedy_without_cache(target, prompt_ids_P)
    way = reading_of(target)
    for k in (0, 3):
        found = generate(
            target,
            module if k else None,
            prompt_ids_P,
            num_speculative_tokens=k,
            max_tokens=_NUM_TOKENS,
            sampler=Sampler(0.0, 0),
            how_to_read=way,
        )
        assert found.token_ids == expected


@torch.inference_mode()
def greedy_without_cache(target: FrozenTarget, ids_T: torch.Tensor) -> list[int]:
    """The model's own next tokens, each from a pass over the whole text."""
    num_prompt = len(ids_T)
    for _ in range(_NUM_TOKENS):
        next_id = target.model(input_ids=ids_T[None], use_cache=False).logits[0, -1].argmax()
        ids_T = torch.cat((ids_T, next_id[None]))
    return [int(token) for token in ids_T[num_prompt:]]
