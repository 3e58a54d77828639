"""Measures until what is chosen, and what it gives, are known.

All settings have a few turns; what leads, and what comes next, have many, together. So minutes go where they decide,
and what led by luck is found out. On a CPU, whose speed drifts, and the share of the drafter in a round with it, the
cost of what was chosen is timed once more in turn with the verification: what differs then is not the hour.
"""

from collections.abc import Callable, Mapping, Sequence

from vllm_mtp.benchmarks.harness.row_store import RowStore
from vllm_mtp.benchmarks.tune.cells import Cell, Space, some_of_each_first
from vllm_mtp.benchmarks.tune.choose import Choice, choose, contenders
from vllm_mtp.benchmarks.tune.predict import Prediction, width
from vllm_mtp.benchmarks.tune.result import checked, num_turns_done, predictions, verification_of
from vllm_mtp.contract.lookup import Lookup

Measure = Callable[[Sequence[Cell]], bool]
"""Stores rows of these cells; whether there was one to measure, and time for it."""
_CONTENDERS = 3
"""Settings that are timed again together, what is chosen among them."""


def choose_by(
    measure: Measure, space: Space, store: RowStore, own_lookup: Lookup | None
) -> tuple[list[Prediction], Choice]:
    """The fastest setting, when its cost at every batch size is known, and it leads still; with all predictions.

    Where minutes have ended before, lookup is one of what was timed again: of many that were not one leads by luck.
    """
    config = space.config
    measure(space.cells())
    while True:
        predicted = predictions(space, store)
        choice = choose(predicted, config.for_batch_size, config.tolerance, own_lookup)
        chosen = choice.by_batch_size.items()
        unsure = [
            size
            for size, one in chosen
            if one.num_turns < config.turns or width(one.cost, one.cost_95) > config.precision
        ]
        if choice.by_batch_size[config.for_batch_size].num_turns < config.turns:
            unsure = [config.for_batch_size]  # lookup is chosen there, and what may lead elsewhere depends on it
        done = num_turns_done(store)
        turns = space.further_turns({size: done[size] for size in unsure})
        leading = {size: contenders(predicted, choice, config.for_batch_size, size)[:_CONTENDERS] for size in unsure}
        if not measure(space.again(leading, turns)):
            known = [one for one in predicted if one.num_turns >= config.turns]
            return predicted, choose(predicted, config.for_batch_size, config.tolerance, own_lookup, known)


def verify_by(measure: Measure, space: Space, store: RowStore, choice: Choice, *, with_checks: bool) -> Choice:
    """Counts what was chosen on the prompts kept apart, and times it until its cost at every batch size is known.

    Args:
        measure: as for `choose_by`.
        space: of the command.
        store: for rows.
        choice: by `choose_by`.
        with_checks: whether the predicted cost is timed once more, in turn with it.

    Returns:
        The choice; with the costs of these turns, where they were timed.
    """
    counted = space.held_out(choice.settings, choice.best)
    measure([*counted, *_verification(space, choice, space.first_turns, with_checks=with_checks)])
    while True:
        num_turns = {
            row["batch_size"]: row["num_turns"]
            for row in verification_of(space, store, choice)
            if width(row["cost"], row["cost_95"]) > space.config.precision
        }
        if not measure(_verification(space, choice, space.further_turns(num_turns), with_checks=with_checks)):
            return checked(space, store, choice)


def _verification(space: Space, choice: Choice, turns: Mapping[int, range], *, with_checks: bool) -> list[Cell]:
    found: list[Cell] = []
    for size, turn in some_of_each_first(turns):
        one = {size: range(turn, turn + 1)}
        found += space.verification(choice.best, one)
        if with_checks:
            found += space.checks(choice.best, choice.settings, one)
    return found
