"""What `vllm-mtp tune` measured: the acceptance length that is expected, and what a round costs at each load."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_mtp.common.errors import InputError
from vllm_mtp.common.files import read_json
from vllm_mtp.monitor.expected import Expected
from vllm_mtp.monitor.figures import Figures

_RESULTS = "results.json"
_ROW_HAS = ("batch_size", "num_speculative_tokens", "tokens_per_round", "tokens_per_round_95", "cost")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuned:
    """What was chosen, a row for each batch size as `vllm-mtp tune` stored it."""

    rows: tuple[dict[str, Any], ...]
    for_batch_size: int

    @classmethod
    def read(cls, folder: Path) -> "Tuned":
        """From the folder that tune wrote.

        Raises:
            InputError: for a folder of something else.
            ValueError: for a file that is cut.
        """
        path = folder / _RESULTS
        if not path.is_file():
            raise InputError("tune", f"expected the --output of `vllm-mtp tune`, found no {_RESULTS} in {folder}")
        stored = read_json(path)
        choice = (isinstance(stored, dict) and stored.get("choice")) or {}
        rows = choice.get("by_batch_size", ())
        if not rows or not all(name in row for row in rows for name in _ROW_HAS):
            raise InputError(
                "tune",
                f"expected what `vllm-mtp tune TARGET DRAFT_DIR` chose in {path}, with {', '.join(_ROW_HAS)}. Of an "
                "earlier version: the same command writes it again from what was measured",
            )
        return cls(rows=tuple(rows), for_batch_size=choice["for_batch_size"])

    @property
    def expected(self) -> Expected:
        """At the batch size that was tuned for."""
        row = next(row for row in self.rows if row["batch_size"] == self.for_batch_size)
        length, (low, high) = row["tokens_per_round"], row["tokens_per_round_95"]
        return Expected(
            low=low,
            num_speculative_tokens=row["num_speculative_tokens"],
            text=f"{length:.2f} ({low:.2f} to {high:.2f}) when it was tuned",
        )

    def round_cost(self, figures: Figures) -> float | None:
        """Of a round at the measured batch size nearest to the requests that run, in steps of the target.

        None where nothing is drafted, or another K than the one that was measured there.
        """
        row = min(self.rows, key=lambda row: abs(row["batch_size"] - figures.requests_running))
        drafted = figures.drafted_per_round
        if drafted is None or round(drafted) != row["num_speculative_tokens"]:
            return None
        return max(1.0, float(row["cost"]))
