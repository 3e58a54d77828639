"""What the serving tests share: the target's own greedy output, the reference for everything with drafting."""

from pathlib import Path

import pytest

from tests.serving.engine import engine, greedy

NUM_TOKENS = 64


@pytest.fixture(scope="session")
def plain_outputs(target_dir: Path, prompts: list[list[int]]) -> list[list[int]]:
    """Token ids that follow each prompt without drafting, NUM_TOKENS each."""
    with engine(target_dir) as llm:
        return greedy(llm, prompts, NUM_TOKENS)
