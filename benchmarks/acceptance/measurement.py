"""What `vllm-mtp bench acceptance` measures, one by one."""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

from vllm_mtp.benchmarks.acceptance.config import AcceptanceConfig
from vllm_mtp.benchmarks.harness.method import NONE, Method

ACCEPTANCE, SPEED = "acceptance", "speed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """A method at one temperature: to be measured, or in the store."""

    kind: str
    """ACCEPTANCE or SPEED."""
    method: Method
    temperature: float
    batch_size: int = 0
    """Where speed is measured."""
    pair: int = 1
    """Which pair of engines measures speed: the table joins all pairs."""

    @property
    def name(self) -> str:
        """The name of its row in the store."""
        name = f"{self.kind}-{self.method.slug}-t{self.temperature:g}"
        name = f"{name}-b{self.batch_size}" if self.kind == SPEED else name
        return f"{name}-pair{self.pair}" if self.pair > 1 else name

    def about(self) -> dict[str, Any]:
        """What its row in the store says of it."""
        about = self.method.about() | {"temperature": self.temperature, "batch_size": self.batch_size}
        return about | ({"pair": self.pair} if self.pair > 1 else {})

    def __str__(self) -> str:
        what = f"{self.method}, temperature {self.temperature:g}"
        what = f"{what}, batch {self.batch_size}" if self.kind == SPEED else what
        return f"{what}, pair {self.pair}" if self.pair > 1 else what


WITHOUT_SPECULATION = Measurement(kind=ACCEPTANCE, method=NONE, temperature=0.0)
"""What greedy outputs are compared with."""


def measurements_of(config: AcceptanceConfig) -> list[Measurement]:
    """Everything that a config asks for, in the order of measuring."""
    found = [WITHOUT_SPECULATION] if 0 in config.temperature else []
    for method in config.methods:
        found += [Measurement(kind=ACCEPTANCE, method=method, temperature=t) for t in config.temperature]
        if config.speed_prompts_per_task:
            found += [
                Measurement(
                    kind=SPEED, method=config.speed_method(method, t), temperature=t, batch_size=size, pair=pair
                )
                for pair in range(1, config.speed_pairs + 1)
                for t in config.temperature
                for size in config.speed_batch
            ]
    return found


def still_to_do(wanted: Sequence[Measurement], stored: Set[str]) -> tuple[list[Measurement], dict[str, str]]:
    """What is not stored and can be measured here; of the methods that cannot, why."""
    todo = [one for one in wanted if one.name not in stored]
    missing = {str(one.method): why for one in todo if (why := one.method.why_missing())}
    return [one for one in todo if str(one.method) not in missing], missing


def by_engine(todo: Sequence[Measurement]) -> list[list[Measurement]]:
    """What one engine can measure: a method and pair all, or one each where a method remembers what it generated."""
    groups = []
    for method, pair in dict.fromkeys((one.method, one.pair) for one in todo):
        group = [one for one in todo if (one.method, one.pair) == (method, pair)]
        groups += [[one] for one in group] if method.remembers else [group]
    return groups
