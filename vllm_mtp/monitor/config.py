"""What `vllm-mtp monitor` is told. Light: the command line is built from it."""

from dataclasses import dataclass

from vllm_mtp.common.settings import check_at_least, setting


@dataclass(frozen=True, kw_only=True, slots=True)
class MonitorConfig:
    """How a server is watched, and what is held against it."""

    interval: float = setting(10.0, "Seconds between two looks at the server; --once counts these alone.")
    window: float = setting(600.0, "Seconds back from now that the advice is judged over.")
    round_cost: float | None = setting(
        None,
        "What a round costs, in steps of the target without drafting, under this load: the gain is acceptance length / "
        "this. Of `bench acceptance`: tokens per forward / speedup.",
        none="not known, no gain is told",
    )
    expected_length: float | None = setting(
        None,
        "Acceptance length that is expected at the served k, such as `bench acceptance` found; in place of the "
        "held-out one of --draft.",
        none="that of --draft",
    )
    tolerance: float = setting(0.1, "Share of the expected acceptance length that may be missing before it is drift.")
    least_rate: float = setting(
        0.05, "Share of rounds in which a position must be accepted to pay; computed where --round-cost is given."
    )
    min_rounds: int = setting(500, "Rounds without which no advice is given.")
    timeout: float = setting(10.0, "Seconds to wait for the server's answer.")

    def __post_init__(self) -> None:
        check_at_least(
            self,
            interval=0.1,
            window=0.1,
            round_cost=1,
            expected_length=1,
            tolerance=0,
            least_rate=0,
            min_rounds=1,
            timeout=0.1,
        )
