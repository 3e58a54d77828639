"""What is asked of a target, in batches that the settings alone fix."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import torch

from vllm_mtp.training.data.chat.render import RenderedPrompt
from vllm_mtp.training.data.generate_config import GenerateConfig


@dataclass(frozen=True, slots=True)
class Start:
    """A question whose user turn the target writes first."""

    text: str
    """How the turn begins; may be empty."""


Question = RenderedPrompt | Start


def batches_of(asked: Sequence[RenderedPrompt], starts: Sequence[str], config: GenerateConfig) -> list[list[Question]]:
    """What each batch answers, in a random order that the seed fixes."""
    turns = islice(cycle(starts or [""]), config.self_prompts)
    questions: list[Question] = [*asked, *map(Start, turns)]
    order = torch.randperm(len(questions), generator=torch.Generator().manual_seed(config.seed)).tolist()
    mixed = [questions[index] for index in order]
    assert config.batch_size is not None
    return [mixed[start : start + config.batch_size] for start in range(0, len(mixed), config.batch_size)]
