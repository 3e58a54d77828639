"""What a server did between two looks at it."""

from collections import Counter as Sums
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vllm_mtp.benchmarks.harness.acceptance import Acceptance, total
from vllm_mtp.monitor.scrape import (
    ACCEPTED_PER_POSITION,
    DRAFT_TOKENS,
    DRAFTS,
    LATENCY_COUNT,
    LATENCY_SUM_S,
    RUNNING,
    TOKENS,
    WAITING,
    Counter,
    Scrape,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Traffic:
    """Counts of all engines over some seconds."""

    seconds: float
    num_running: int
    """Requests that run at the end."""
    num_waiting: int
    """Requests that wait at the end."""
    num_tokens: int
    """Generated."""
    num_latencies: int
    """Times between two outputs of a request that were measured."""
    latencies_s: float
    """Their sum."""
    acceptance: Acceptance | None
    """None: the server has no drafter."""

    @classmethod
    def between(cls, before: Scrape, now: Scrape) -> "Traffic":
        """What came since; an engine that started again meanwhile counts from its start."""
        sums: Sums[Counter] = Sums()
        for engine, counters in now.counters.items():
            sums.update(_since(before.counters.get(engine, {}), counters))
        return cls(
            seconds=now.time_s - before.time_s,
            num_running=round(now.gauges[RUNNING]),
            num_waiting=round(now.gauges[WAITING]),
            num_tokens=round(sums[TOKENS, 0]),
            num_latencies=round(sums[LATENCY_COUNT, 0]),
            latencies_s=sums[LATENCY_SUM_S, 0],
            acceptance=_acceptance(sums),
        )


def joined(parts: Sequence[Traffic]) -> Traffic:
    """One stretch of time out of several, of which each follows the one before.

    What was drafted with another k than that of the last part is left out.
    """
    last = parts[-1]
    counted = [part.acceptance for part in parts if part.acceptance is not None]
    alike = [one for one in counted if last.acceptance is not None and _k(one) == _k(last.acceptance)]
    return Traffic(
        seconds=sum(part.seconds for part in parts),
        num_running=last.num_running,
        num_waiting=last.num_waiting,
        num_tokens=sum(part.num_tokens for part in parts),
        num_latencies=sum(part.num_latencies for part in parts),
        latencies_s=sum(part.latencies_s for part in parts),
        acceptance=total(alike) if alike else None,
    )


def _k(acceptance: Acceptance) -> int:
    return len(acceptance.num_accepted_tokens_per_position)


def _since(before: Mapping[Counter, float], now: Mapping[Counter, float]) -> dict[Counter, float]:
    """Differences; counters that fell, or changed their names, are those of an engine that started again."""
    if before.keys() != now.keys() or any(now[name] < before[name] for name in now):
        return dict(now)
    return {name: now[name] - before[name] for name in now}


def _acceptance(sums: Mapping[Counter, float]) -> Acceptance | None:
    """Of counters; several server processes may be read between two of their increments: no position beats another."""
    num_positions = sum(name == ACCEPTED_PER_POSITION for name, _ in sums)
    if not num_positions:
        return None
    counts = [round(sums[DRAFTS, 0])]
    for position in range(num_positions):
        counts.append(min(round(sums[ACCEPTED_PER_POSITION, position]), counts[-1]))
    return Acceptance(
        num_drafts=counts[0],
        num_draft_tokens=round(sums[DRAFT_TOKENS, 0]),
        num_accepted_tokens_per_position=tuple(counts[1:]),
    )
