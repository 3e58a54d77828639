"""What `vllm-mtp report` reckons with. Light: the command line is built from it."""

from dataclasses import dataclass

from vllm_mtp.common.errors import InputError
from vllm_mtp.common.settings import setting

HOURS_OF_A_MONTH = 730.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportConfig:
    """What a page reckons with."""

    price_per_hour: float | None = setting(
        None, "Price of an hour of the machine that was measured, for costs.", none="no costs"
    )
    currency: str = setting("USD", "What prices are in.")
    training_cost: float | None = setting(
        None, "What training the drafter cost: the page says when it is paid back.", none="not reckoned"
    )
    hours: float = setting(
        HOURS_OF_A_MONTH, "Hours of serving within which training should be paid back; the default is a month."
    )

    def __post_init__(self) -> None:
        for name in ("price_per_hour", "training_cost", "hours"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise InputError(name, f"expected more than 0, got {value:g}")
        if self.training_cost is not None and self.price_per_hour is None:
            raise InputError("training_cost", "expected --price-per-hour beside it")
