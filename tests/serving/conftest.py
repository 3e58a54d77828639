"""What the serving tests share: the target's own greedy output, drafters with a draft vocabulary and with lookup."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from tests.drafts import with_draft_vocabulary, with_lookup
from tests.serving.engine import engine, greedy
from tests.shared import shared

NUM_TOKENS = 48
DRAFT_VOCAB_SIZE = 512  # of 2,048


@pytest.fixture(scope="session")
def plain_outputs(
    target_dir: Path, prompts: list[list[int]], tmp_path_factory: pytest.TempPathFactory
) -> list[list[int]]:
    """Token ids that follow each prompt without drafting, NUM_TOKENS each."""

    def make(path: Path) -> None:
        with engine(target_dir) as llm:
            path.write_text(json.dumps(greedy(llm, prompts, NUM_TOKENS)))

    outputs: list[list[int]] = json.loads(shared(tmp_path_factory, "plain_outputs.json", make).read_text())
    return outputs


@pytest.fixture(scope="session")
def few_draft_dir(
    draft_dir: Path,
    prompts: list[list[int]],
    plain_outputs: list[list[int]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The distilled drafter over a draft vocabulary: the most frequent tokens, but not every fourth of them."""
    counted = Counter(token for ids in prompts + plain_outputs for token in ids)
    by_frequency = [token for token, _ in counted.most_common()] + sorted(set(range(2048)) - set(counted))
    kept = [token for place, token in enumerate(by_frequency) if place % 4 != 3][:DRAFT_VOCAB_SIZE]
    return with_draft_vocabulary(draft_dir, tmp_path_factory.mktemp("few") / "draft", torch.tensor(sorted(kept)))


@pytest.fixture(scope="session")
def lookup_draft_dir(draft_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The distilled drafter with lookup, as `vllm-mtp train` writes it."""
    return with_lookup(draft_dir, tmp_path_factory.mktemp("lookup") / "draft")


@pytest.fixture(scope="session")
def few_lookup_draft_dir(few_draft_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drafter with a draft vocabulary and with lookup, which a single token's match is enough for."""
    return with_lookup(few_draft_dir, tmp_path_factory.mktemp("few_lookup") / "draft", min_match=1, module_steps=2)
