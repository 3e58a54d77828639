"""From stored rows to predictions, and to the results.json of `vllm-mtp tune`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from statistics import median
from typing import Any

from vllm_mtp.benchmarks.harness.method import NONE, Method, method_of
from vllm_mtp.benchmarks.harness.rounds import Rounds
from vllm_mtp.benchmarks.harness.row_store import RowStore, origins_of
from vllm_mtp.benchmarks.tune.cells import ACCEPTANCE, CHECK, COST, Cell, Space
from vllm_mtp.benchmarks.tune.choose import Choice
from vllm_mtp.benchmarks.tune.predict import (
    Prediction,
    TokensPerRound,
    cost_of,
    predict,
    rates_per_position,
    tokens_per_round,
    usual,
)
from vllm_mtp.benchmarks.tune.serve import lookup_command, serve_command, speculative_config
from vllm_mtp.benchmarks.tune.setup import Setup
from vllm_mtp.benchmarks.tune.verify import verified
from vllm_mtp.common.provenance import relative

_INTERVALS = ("tokens_per_round_95", "cost_95", "speedup_95")

Measured = dict[tuple[Method, int], dict[int, Rounds]]
"""By setting and batch size: what each turn gave."""


def predictions(space: Space, store: RowStore) -> list[Prediction]:
    """Of every setting at every batch size."""
    seconds, counted = seconds_of(rows_of(store, COST)), rows_of(store, ACCEPTANCE)
    most, found = max(space.config.batch_size), []
    for method in space.methods:
        counts = counted[space.acceptance_of(method.lookup), most][0].outputs
        gain = tokens_per_round(counts, space.largest_k, method.num_speculative_tokens)
        for size in sorted(set(space.config.batch_size)):
            cost = cost_of(seconds[space.measured_as(method), size], seconds[NONE, size])
            found.append(predict(method, size, gain, cost))
    return found


def rows_of(store: RowStore, kind: str) -> Measured:
    """The rows of a kind."""
    found: Measured = {}
    for of_kind, row in store.all():
        if of_kind == kind:
            found.setdefault((method_of(row), row["batch_size"]), {})[row["turn"]] = Rounds.of(row)
    return found


def num_turns_done(store: RowStore) -> dict[int, int]:
    """By batch size: turns after which no cost is stored, so that a further one has both sides, timed together."""
    found: dict[int, int] = {}
    for (_, size), turns in rows_of(store, COST).items():
        found[size] = max(found.get(size, 0), max(turns) + 1)
    return found


def verification_of(space: Space, store: RowStore, choice: Choice) -> list[dict[str, Any]]:
    """Predicted beside measured, a row for each batch size."""
    counted = _of_cells(store, space.held_out(choice.settings, choice.best))
    by_k = {method.num_speculative_tokens: turns[0] for (method, _), turns in counted.items()}
    return verified(_of_cells(store, space.verification(choice.best, space.all_turns)), by_k, choice)


def checked(space: Space, store: RowStore, choice: Choice) -> Choice:
    """The choice, its costs those of the turns beside the verification, where there were such."""
    turns = space.all_turns
    cells = [*space.checks(choice.best, choice.settings, turns), *space.verification(choice.best, turns)]
    seconds = seconds_of(_of_cells(store, [cell for cell in cells if cell.kind == CHECK or cell.method == NONE]))
    found = dict(choice.by_batch_size)
    for size, one in choice.by_batch_size.items():
        key = space.measured_as(one.method), size
        if key in seconds and (NONE, size) in seconds:
            gain = TokensPerRound(mean=one.tokens_per_round, interval=one.tokens_per_round_95)
            found[size] = predict(one.method, size, gain, cost_of(seconds[key], seconds[NONE, size]))
    return replace(choice, by_batch_size=found)


def _of_cells(store: RowStore, cells: Sequence[Cell]) -> Measured:
    """The rows of these cells, as far as they are measured."""
    found: Measured = {}
    for cell in (cell for cell in cells if cell.name in store):
        found.setdefault((cell.method, cell.batch_size), {})[cell.turn] = Rounds.of(store.load(cell.name))
    return found


def seconds_of(measured: Measured) -> dict[tuple[Method, int], dict[int, float]]:
    """Seconds of a round, by turn."""
    return {key: {turn: usual(rounds.seconds) for turn, rounds in turns.items()} for key, turns in measured.items()}


def result_of(setup: Setup, store: RowStore, predicted: Sequence[Prediction], choice: Choice) -> dict[str, Any]:
    """Everything that results.json holds: plain rows, settings, where they come from; no prompt and no output."""
    rows = [row for _, row in store.all()]
    target, draft = setup.engine.target, str(setup.engine.draft)
    options = setup.config.engine_options.engine_args() | _decided(setup)
    return {
        "target": relative(target),
        "draft": relative(draft),
        "settings": setup.settings,
        "origins": origins_of(rows),
        "steps": _steps(store),
        "acceptance": _acceptance(setup.space, store),
        "predictions": [_row(one) for one in predicted],
        "choice": {
            "for_batch_size": setup.config.for_batch_size,
            "pays": choice.method != NONE,
            "method": choice.best.about(),
            "costs_beside_verification": setup.on_cpu,
            "by_batch_size": [_row(one) for one in choice.by_batch_size.values()],
            "config": speculative_config(choice.method, draft),
            "lookup_command": lookup_command(choice.method, setup.own_lookup, draft),
            "serve_command": serve_command(choice.method, target=target, draft=draft, engine_args=options),
        },
        "verification": verification_of(setup.space, store, choice),
    }


def summary(result: Mapping[str, Any]) -> dict[str, Any]:
    """What `--json` prints."""
    choice, rows = result["choice"], result["verification"]
    return {
        "pays": choice["pays"],
        "config": choice["config"],
        "lookup_command": choice["lookup_command"],
        "serve_command": choice["serve_command"],
        "predicted_speedup": {str(row["batch_size"]): row["predicted_speedup"] for row in rows},
        "measured_speedup": {str(row["batch_size"]): row["measured_speedup"] for row in rows},
        "relative_error": {str(row["batch_size"]): row["relative_error"] for row in rows},
    }


def _decided(setup: Setup) -> dict[str, Any]:
    """What the engines were given and a server would have otherwise; "auto" is vLLM's own."""
    dtype = {} if setup.engine.dtype == "auto" else {"dtype": setup.engine.dtype}
    return dtype | ({"enforce_eager": True} if setup.config.enforce_eager else {})


def _steps(store: RowStore) -> list[dict[str, Any]]:
    """What was measured of rounds, a row for each setting and batch size."""
    measured = rows_of(store, COST)
    return [
        {
            **method.about(),
            "batch_size": size,
            "seconds_per_round": round(median(seconds.values()), 6),
            "seconds_per_round_of_turns": [round(seconds[turn], 6) for turn in sorted(seconds)],
            "num_rounds": sum(len(rounds.seconds) for rounds in measured[method, size].values()),
            "tokens_per_round": round(_tokens_per_round(measured[method, size], size), 4),
        }
        for (method, size), seconds in seconds_of(measured).items()
    ]


def _tokens_per_round(turns: Mapping[int, Rounds], batch_size: int) -> float:
    num_rounds = sum(len(rounds.tokens) for rounds in turns.values())
    return sum(sum(rounds.tokens) for rounds in turns.values()) / num_rounds / batch_size


def _acceptance(space: Space, store: RowStore) -> list[dict[str, Any]]:
    """A row for each lookup, counted with the largest K."""
    found, counted, size = [], rows_of(store, ACCEPTANCE), max(space.config.batch_size)
    for method in map(space.acceptance_of, space.lookups):
        outputs = counted[method, size][0].outputs
        gain = tokens_per_round(outputs, space.largest_k, space.largest_k)
        rates = rates_per_position(outputs, space.largest_k)
        found.append(
            {
                **method.about(),
                "num_outputs": len(outputs),
                "tokens_per_round": round(gain.mean, 4),
                "tokens_per_round_95": [round(end, 4) for end in gain.interval],
                "acceptance_rate_per_position": [round(rate, 4) for rate in rates],
            }
        )
    return found


def _row(one: Prediction) -> dict[str, Any]:
    found = {name: value for name, value in asdict(one).items() if name != "method"}
    intervals = {name: [round(end, 4) for end in found.pop(name)] for name in _INTERVALS}
    rounded = {name: round(value, 6 if "seconds" in name else 4) for name, value in found.items()}
    return one.method.about() | rounded | intervals
