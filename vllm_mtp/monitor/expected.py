"""The acceptance length that a drafter was measured to have, which what is served is held against."""

from dataclasses import dataclass
from pathlib import Path

from vllm_mtp.common.errors import InputError
from vllm_mtp.common.files import read_json
from vllm_mtp.monitor.config import MonitorConfig
from vllm_mtp.training.config import NUM_SPECULATIVE_TOKENS
from vllm_mtp.training.record import RUN_INFO, HeldOut


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """An acceptance length, and what is known of it."""

    low: float
    """It, or the lower bound of its interval."""
    num_speculative_tokens: int | None
    """K that it was measured at; None: the served one."""
    text: str
    """As a sentence says it."""


def expected_of(config: MonitorConfig, draft: Path | None, tuned: Expected | None = None) -> Expected | None:
    """What was told, else what `tune` measured, else what the drafter's folder has; None where none is there.

    Raises:
        InputError: for a folder without a held-out acceptance length.
        ValueError: for a run_info.json that is cut.
    """
    told = config.expected_length
    if told is not None:
        return Expected(low=told, num_speculative_tokens=None, text=f"{told:.2f} as expected")
    return tuned if tuned is not None or draft is None else _of_folder(draft)


def _of_folder(draft: Path) -> Expected:
    path = draft / RUN_INFO
    if not path.is_file():
        raise InputError("draft", f"expected a drafter's folder with {RUN_INFO}, found none in {draft}")
    stored = read_json(path).get("held_out")
    held_out = HeldOut(**stored) if stored else None
    if held_out is None or held_out.acceptance_length_95 is None:
        raise InputError(
            "draft",
            f"expected a held-out acceptance length in {path}, found none: the drafter was made before it was "
            "measured. Give --expected-length, from `vllm-mtp bench acceptance`",
        )
    return Expected(
        low=held_out.acceptance_length_95[0],
        num_speculative_tokens=NUM_SPECULATIVE_TOKENS,
        text=f"{held_out.length_text} on held-out text",
    )
