"""Which target a drafter belongs to."""

import torch

from vllm_mtp.fingerprint import fingerprint_rows, tokenizer_sha256, weights_sha256


def test_tokenizer_hash_is_of_pairs_not_of_their_order() -> None:
    assert tokenizer_sha256({"a": 0, "b": 1}) == tokenizer_sha256({"b": 1, "a": 0})
    assert tokenizer_sha256({"a": 0, "b": 1}) != tokenizer_sha256({"a": 1, "b": 0})


def test_weights_hash_survives_bfloat16_and_sees_every_chosen_row() -> None:
    table = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    rows = fingerprint_rows(50)
    assert rows[0] == 0
    assert rows[-1] == 49
    stored = weights_sha256(table[rows], table[rows])
    assert weights_sha256(table.bfloat16()[rows], table.bfloat16()[rows]) == stored
    for row in rows:
        other = table.clone()
        other[row] += 1
        assert weights_sha256(other[rows], table[rows]) != stored
        assert weights_sha256(table[rows], other[rows]) != stored
