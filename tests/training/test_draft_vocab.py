"""The draft vocabulary: which ids, how much they cover, what a wrong file says."""

import json
from pathlib import Path

import pytest
import torch

from vllm_mtp.training.data import Row
from vllm_mtp.training.draft_vocab import choose_draft_ids, count_tokens, coverage, load_draft_vocab, save_draft_vocab


def test_special_tokens_and_the_most_frequent() -> None:
    counts_V = torch.tensor([0, 5, 9, 0, 7, 5, 0])
    assert choose_draft_ids(counts_V, 3, [6]).tolist() == [2, 4, 6]
    assert choose_draft_ids(counts_V, 4, [6, 0, 99]).tolist() == [0, 2, 4, 6]
    assert choose_draft_ids(counts_V, 3, []).tolist() == [1, 2, 4]  # of 1 and 5, equally frequent, the lower
    assert choose_draft_ids(counts_V, 7, []).tolist() == list(range(7))
    for size in (0, 1, 8):
        with pytest.raises(ValueError, match=rf"--size: expected 2 .* to 7 .*, got {size}"):
            choose_draft_ids(counts_V, size, [6, 0])


def test_counts_and_coverage() -> None:
    rows = [Row(ids_L=torch.tensor([1, 1, 2, 3], dtype=torch.int32), loss_from=loss_from) for loss_from in (0, 2)]
    counts_V = count_tokens([rows], 6)
    assert counts_V.tolist() == [0, 2, 2, 2, 0, 0]
    assert coverage(counts_V, torch.tensor([0, 2, 3])) == pytest.approx(4 / 6)
    assert coverage(torch.zeros(6, dtype=torch.int64), torch.tensor([0])) == 0


def test_the_file(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "vocab.json"
    save_draft_vocab(path, torch.tensor([0, 4, 9]), {"size": 3})
    assert load_draft_vocab(path, 10).tolist() == [0, 4, 9]
    with pytest.raises(ValueError, match="ascending token ids below 9"):
        load_draft_vocab(path, 9)
    for content in ({"draft_ids": [3, 3]}, {"draft_ids": [-1, 3]}, {"draft_ids": []}, {"draft_ids": "x"}, {}, []):
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=r"^--draft-vocab: expected"):
            load_draft_vocab(path, 10)
    with pytest.raises(ValueError, match=r"^--draft-vocab: expected a file of `vllm-mtp vocab`"):
        load_draft_vocab(tmp_path / "absent.json", 10)
