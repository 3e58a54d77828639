"""What a tensor-parallel rank holds of a drafter, and what cannot be divided."""

import pytest

from tests.drafts import small_config
from vllm_mtp.contract.ranks import head_bytes, kv_bytes_per_token, weight_bytes, why_not_divided

# 4 query heads, 2 key-value heads of 8, hidden size 16, MLP of 24.


@pytest.mark.parametrize(
    ("sizes", "ranks", "fault"),
    [
        ({}, 2, None),
        ({}, 4, None),  # each key-value head on two ranks
        ({}, 8, "4 query heads cannot be split over 8 ranks"),
        ({"num_attention_heads": 6}, 3, "2 key-value heads can neither be split over 3 ranks nor repeated on them"),
        ({"intermediate_size": 25}, 2, "an intermediate_size of 25 cannot be split over 2 ranks"),
    ],
)
def test_what_cannot_be_divided(sizes: dict[str, int], ranks: int, fault: str | None) -> None:
    """Catches what ends in vLLM's AssertionError "25 is not divisible by 2" when the model is built."""
    text = why_not_divided(small_config(**sizes), ranks)
    assert (text is None) is (fault is None)
    assert fault is None or fault in str(text)


def test_bytes_of_a_rank() -> None:
    config = small_config()
    assert kv_bytes_per_token(config, element_size=2) == 2 * 2 * 8 * 2
    assert [kv_bytes_per_token(config, 2, ranks) for ranks in (2, 4)] == [32, 32], "at least one head on each rank"
    everywhere = 5 * 16 + 2 * 16 * 16  # norms, eh_proj
    divided = 2 * 32 * 16 + 2 * 16 * 16 + 3 * 24 * 16
    assert weight_bytes(config, element_size=2) == 2 * (everywhere + divided)
    assert weight_bytes(config, 2, 2) == 2 * (everywhere + divided // 2)
    assert weight_bytes(small_config(draft_vocab_size=10), 2) == weight_bytes(config, 2) + 8 * 10, "int64 offsets"


def test_bytes_of_rows_of_the_head() -> None:
    """Catches rows in 8 bits that are counted as 16 or 32, and a copy of all V rows that is counted as none."""
    as_it_is = {"is_rounded": False, "in_8_bits": True}
    rounded, in_8_bits = {"is_rounded": True, "in_8_bits": False}, {"is_rounded": True, "in_8_bits": True}
    whole, some = small_config(), small_config(draft_vocab_size=10)
    vocab_size = whole.vocab_size
    assert [head_bytes(whole, 2, **how) for how in (as_it_is, rounded, in_8_bits)] == [
        0,
        vocab_size * 16 * 2,
        vocab_size * (16 + 4),  # a scale for each row
    ]
    assert [head_bytes(some, 2, **how) for how in (as_it_is, rounded, in_8_bits)] == [10 * 32, 10 * 32, 10 * 20]
    assert head_bytes(some, 4, 3, **as_it_is) == 4 * 16 * 4, "10 rows on three ranks"
