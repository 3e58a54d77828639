"""Measures until what is chosen, and what it gives, are known.

All settings have a few turns; which of them leads has many. So minutes go where they decide, and what led by luck is
found out.
"""

from collections.abc import Callable, Sequence

from vllm_mtp.benchmarks.harness.row_store import RowStore
from vllm_mtp.benchmarks.tune.cells import Cell, Space
from vllm_mtp.benchmarks.tune.choose import Choice, choose
from vllm_mtp.benchmarks.tune.predict import Prediction, width
from vllm_mtp.benchmarks.tune.result import predictions, verification_of
from vllm_mtp.contract.lookup import Lookup

Measure = Callable[[Sequence[Cell]], bool]
"""Stores rows of these cells; whether there was one to measure, and time for it."""


def choose_by(
    measure: Measure, space: Space, store: RowStore, own_lookup: Lookup | None
) -> tuple[list[Prediction], Choice]:
    """The fastest setting, when its cost at every batch size is known, and it leads still; with all predictions."""
    config = space.config
    measure(space.cells())
    while True:
        predicted = predictions(space, store)
        choice = choose(predicted, config.for_batch_size, config.tolerance, own_lookup)
        leading = choice.by_batch_size.items()
        unsure = {size: one for size, one in leading if width(one.cost, one.cost_95) > config.precision}
        turns = space.further_turns({size: one.num_turns for size, one in unsure.items()})
        if not measure(space.again({size: one.method for size, one in unsure.items()}, turns)):
            return predicted, choice


def verify_by(measure: Measure, space: Space, store: RowStore, choice: Choice) -> None:
    """Measures what was chosen until its speedup at every batch size is known."""
    measure(space.verification(choice.best, space.first_turns))
    while True:
        num_turns = {
            row["batch_size"]: row["num_turns"]
            for row in verification_of(space, store, choice)
            if width(row["measured_speedup"], row["measured_speedup_95"]) > space.config.precision
        }
        if not measure(space.verification(choice.best, space.further_turns(num_turns))):
            return
