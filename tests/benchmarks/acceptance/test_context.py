"""Acceptance within and beyond the trained length."""

from tests.benchmarks.records import record
from vllm_mtp.benchmarks.acceptance.context import about_trained_length, by_trained_length


def test_rounds_count_to_the_side_that_they_are_on() -> None:
    records = [record(range(100), [(3, 1), (3, 3), (3, 0)], k=3, num_prompt_tokens=125)]  # contexts 126, 128, 132
    row = by_trained_length(records, 128)
    found = {name: (part["num_drafts"], part["acceptance_length"]) for name, part in row["by_trained_length"].items()}
    assert found == {"within": (2, 3.0), "beyond": (1, 1.0)}
    assert "within and beyond the 128 tokens" in str(about_trained_length({"draft_trained_length": 128, "rows": [row]}))


def test_where_nothing_is_known_or_nothing_is_longer_nothing_is_said() -> None:
    records = [record(range(100), [(3, 1)], k=3)]
    assert by_trained_length(records, None) == {}
    row = by_trained_length(records, 512)
    assert list(row["by_trained_length"]) == ["within"]
    assert about_trained_length({"draft_trained_length": 512, "rows": [row]}) is None
    assert about_trained_length({"rows": [{}]}) is None, "published before it was measured"
