"""What a tensor-parallel rank holds of a drafter, and what cannot be divided."""

import pytest

from tests.drafts import small_config
from vllm_mtp.contract.ranks import kv_bytes_per_token, weight_bytes, why_not_divided

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
    rows = small_config(draft_vocab_size=10)
    assert weight_bytes(rows, 2) == weight_bytes(config, 2) + 2 * (10 + 10 * 16), "offsets, and rows of the head"
