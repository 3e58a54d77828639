"""Which tokens of a text a span of its characters is."""

from collections.abc import Sequence
from typing import Any


def common_length(left: Any, right: Any) -> int:
    """How long the beginning is that two texts, or two lists of tokens, share."""
    length = min(len(left), len(right))
    if left[:length] == right[:length]:
        return length
    return next(place for place in range(length) if left[place] != right[place])


def token_spans(
    tokenizer: Any, encoded: Any, row: int, text: str, spans: Sequence[tuple[int, int]]
) -> tuple[tuple[int, int], ...]:
    """Start and stop among the tokens, of each span of characters.

    Args:
        tokenizer: made `encoded`; asked again where it gives no offsets.
        encoded: its answer for several texts.
        row: which of them.
        text: that text.
        spans: start and stop of spans of its characters, in order.
    """
    if "offset_mapping" in encoded:
        offsets = encoded["offset_mapping"][row]
        starts = [next((i for i, (_, end) in enumerate(offsets) if end > start), len(offsets)) for start, _ in spans]
        stops = [sum(begin < stop for begin, _ in offsets) for _, stop in spans]
    else:
        ids = list(encoded["input_ids"][row])
        lengths = {place: _tokens_before(tokenizer, text, place, ids) for span in spans for place in span}
        starts, stops = [lengths[start] for start, _ in spans], [lengths[stop] for _, stop in spans]
    return tuple(zip(starts, stops, strict=True))


def _tokens_before(tokenizer: Any, text: str, place: int, ids: list[int]) -> int:
    if place >= len(text):
        return len(ids)
    return common_length(list(tokenizer(text[:place], add_special_tokens=False).input_ids), ids)
