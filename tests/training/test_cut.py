"""A finished drafter with another vocabulary: the same states, other rows of the head.

Catches: offsets of other tokens, a drafter of another target, a folder that is written over, a card that speaks of the
vocabulary before.
"""

import json
import re
from pathlib import Path

import pytest
import torch

from tests.drafts import small_config, write_random_draft
from vllm_mtp.benchmarks.simulation.speculate import load_module
from vllm_mtp.cli import main
from vllm_mtp.contract.checkpoint import load_draft
from vllm_mtp.training.cut import cut_draft


def command(target: Path, draft: Path, output: Path, data: Path, size: int) -> list[str]:
    words = ["vocab", target, "--draft", draft, "--output", output, "--data", data, "--size", size]
    return [str(word) for word in words]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("def f(x):\n    return x\n" * 200)
    return path


def test_the_weights_of_one_and_the_ids_of_the_other(
    target_dir: Path, draft_dir: Path, data: Path, tmp_path: Path
) -> None:
    assert main(command(target_dir, draft_dir, tmp_path / "cut", data, 300)) == 0
    of_file = ["vocab", str(target_dir), "--output", str(tmp_path / "vocab.json"), "--data", str(data), "--size", "300"]
    assert main(of_file) == 0
    module = load_module(tmp_path / "cut")
    assert module.config.draft_vocab_size == 300
    whole = load_module(draft_dir)
    assert module.d2t is not None
    for name, parameter in whole.named_parameters():
        assert torch.equal(dict(module.named_parameters())[name], parameter)
    written = json.loads((tmp_path / "vocab.json").read_text())["draft_ids"]
    assert (module.d2t + torch.arange(300)).tolist() == written
    info = json.loads((tmp_path / "cut" / "run_info.json").read_text())
    assert info["draft_vocab_size"] == 300
    assert info["cut_after_training"]["trained_on"] is None
    card = (tmp_path / "cut" / "README.md").read_text()
    assert "| tokens that can be drafted | 300 of" in card
    assert "as it was trained: on all tokens" in card


def test_a_cut_drafter_gets_the_whole_vocabulary_back(target_dir: Path, draft_dir: Path, tmp_path: Path) -> None:
    cut_draft(draft_dir, torch.tensor([3, 5, 8]), tmp_path / "cut", {})
    cut_draft(tmp_path / "cut", None, tmp_path / "again", {})
    (config, tensors), (expected_config, expected) = load_draft(tmp_path / "again"), load_draft(draft_dir)
    assert config.contract() == expected_config.contract()
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def test_what_cannot_be_cut(
    target_dir: Path, draft_dir: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_random_draft(tmp_path / "other", small_config())
    for draft, output, message in (
        (other, tmp_path / "cut", "draft: This drafter was made for another target"),
        (tmp_path, tmp_path / "cut", "draft: .* expected a drafter"),
        (draft_dir, draft_dir, "output: expected no such folder or an empty one"),
    ):
        assert main(command(target_dir, draft, output, data, 300)) == 2
        assert re.search(message, capsys.readouterr().err)
