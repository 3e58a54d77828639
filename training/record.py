"""What a run writes down: what it was made from, and what its steps gave. Checkpoints and run_info.json have these
fields by these names."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

RUN_INFO = "run_info.json"
"""In the folder of what a finished run made."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunIdentity:
    """What makes a run the same run: compared before an earlier one is gone on with."""

    config: dict[str, Any]
    """Fields of its TrainConfig."""
    target: dict[str, Any]
    """Fingerprint of the target."""
    target_weights_sha256: str | None
    """Hash of the target's weights; None in what was written before this was kept."""
    data_sha256: str
    draft_vocab_sha256: str | None
    draft_vocab_size: int | None
    initial_sha256: str | None
    dtype: str
    """dtype of the matrix products, as it was chosen."""

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any]) -> "RunIdentity":
        """The identity among the fields of a checkpoint or of run_info.json, of earlier versions too."""
        values: dict[str, Any] = {field.name: stored.get(field.name) for field in fields(cls)}
        return cls(**values)


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOut:
    """What was measured on held-out rows."""

    loss: float
    """Mean over the trained draft steps, by their weights."""
    agreement_per_position: list[float]
    overlap_per_position: list[float]
    positions: int
    """How many were measured."""
    acceptance_length: float | None = None
    """Tokens a round at k = NUM_SPECULATIVE_TOKENS, of the module alone (loss/acceptance.py); None where no row has a
    round, and in what was written before this was measured."""
    acceptance_length_95: tuple[float, float] | None = None

    @property
    def length_text(self) -> str:
        """The acceptance length with its interval, as it is said; a dash where there is none."""
        if self.acceptance_length is None or self.acceptance_length_95 is None:
            return "-"
        return "{:.2f} ({:.2f} to {:.2f})".format(self.acceptance_length, *self.acceptance_length_95)

    def acceptance(self) -> dict[str, float]:
        """The acceptance length and the bounds of its interval by name; nothing where there is none."""
        if self.acceptance_length is None or self.acceptance_length_95 is None:
            return {}
        low, high = self.acceptance_length_95
        name = "acceptance_length"
        return {name: self.acceptance_length, f"{name}_95_low": low, f"{name}_95_high": high}


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """What one step gave."""

    step: int
    """Steps done with this one."""
    loss: float
    agreement_per_position: list[float]
    """Agreement at each draft step that was trained."""
    held_out: HeldOut | None = None
    """Measured at checkpoints."""

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any]) -> "Entry":
        held_out = HeldOut(**stored["held_out"]) if "held_out" in stored else None
        return cls(**{**stored, "held_out": held_out})

    def to_stored(self) -> dict[str, Any]:
        """The fields as a checkpoint has them: without `held_out` where nothing was measured."""
        stored = asdict(self)
        if self.held_out is None:
            del stored["held_out"]
        return stored
