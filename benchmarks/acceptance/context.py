"""Acceptance within and beyond the contexts that the drafter was trained on."""

from collections.abc import Mapping, Sequence
from typing import Any

from vllm_mtp.benchmarks.harness.figures import lengths_by
from vllm_mtp.benchmarks.harness.record import Record

WITHIN, BEYOND = "within", "beyond"


def by_trained_length(records: Sequence[Record], trained_length: int | None) -> dict[str, Any]:
    """A row's acceptance lengths of rounds with at most trained_length tokens before them, and with more.

    Args:
        records: one for each prompt.
        trained_length: of the drafter's config.json; None, as in earlier ones: nothing is known of it.
    """
    if trained_length is None:
        return {}
    found = lengths_by(records, lambda context: int(context > trained_length), lambda part: (WITHIN, BEYOND)[part])
    return {"by_trained_length": found}


def about_trained_length(result: Mapping[str, Any]) -> str | None:
    """What the table says of it; None where nothing is known, or no round was longer."""
    length = result.get("draft_trained_length")
    parts = [part for row in result["rows"] for part in row.get("by_trained_length", {})]
    if length is None or BEYOND not in parts:
        return None
    return (
        f"Acceptance length (95%) within and beyond the {length:,} tokens of context that the drafter was trained on "
        "(train on longer rows where it falls: `vllm-mtp train --sequence-length`)"
    )
