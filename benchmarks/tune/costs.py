"""`vllm-mtp tune TARGET` without a drafter: how much one must give to pay here, measured before it is trained.

What a round costs does not depend on what the drafter says, so one of random weights, in the shape that training would
give it, tells it. A drafter pays where its acceptance length is above the cost of a round.
"""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vllm_mtp.benchmarks.harness.method import NONE, Method, method_of
from vllm_mtp.benchmarks.harness.report import Result, made_on, markdown, options_text, write_report
from vllm_mtp.benchmarks.harness.row_store import RowStore, origins_of
from vllm_mtp.benchmarks.tune.cells import COST
from vllm_mtp.benchmarks.tune.config import TuneConfig
from vllm_mtp.benchmarks.tune.measure import Meter
from vllm_mtp.benchmarks.tune.predict import cost_of
from vllm_mtp.benchmarks.tune.result import rows_of, seconds_of
from vllm_mtp.benchmarks.tune.setup import set_up
from vllm_mtp.common.provenance import provenance, relative
from vllm_mtp.training.config import TrainConfig
from vllm_mtp.training.untrained import write_untrained


def costs(
    config: TuneConfig,
    *,
    target: str,
    prompts: Path,
    output: Path,
    command: str,
    is_late: Callable[[], bool],
    as_json: bool = False,
) -> int:
    """Measures what is not in the output folder yet, then writes results.json and table.md.

    Returns:
        0.

    Raises:
        ValueError: for inputs that cannot be used, a folder with rows of other settings, or an engine that ended.
    """
    draft = output / "untrained"
    source = config.engine_options.source()
    write_untrained(target, draft, TrainConfig(), draft_vocab_size=config.draft_vocab_size, **source)
    setup = set_up(replace(config, lookup="off"), target=target, draft=draft, prompts=prompts, output=output)
    store = RowStore(output, {COST: setup.settings})
    print(f"a drafter of random weights, {setup.engine.dtype}", file=sys.stderr)
    cells = [cell for cell in setup.space.cells() if cell.kind == COST]
    with Meter(setup, store, provenance(command, config.seed)) as meter:
        meter(cells, is_late)
    rows = break_even(seconds_of(rows_of(store, COST)))
    origins = origins_of(row for _, row in store.all())
    result = {"target": relative(target), "settings": setup.settings, "origins": origins, "break_even": rows}
    text = write_report(result | {"draft_vocab_size": config.draft_vocab_size}, output, table)
    print(json.dumps({"break_even": rows}, indent=1) if as_json else text)
    return 0


def break_even(seconds: Mapping[tuple[Method, int], Mapping[int, float]]) -> list[dict[str, Any]]:
    """A row for each K and batch size: the acceptance length from which on a drafter pays.

    Args:
        seconds: of a round, by turn, of each setting and batch size; of no speculation too.
    """
    rows = []
    for (method, size), by_turn in seconds.items():
        if method.num_speculative_tokens:
            cost = cost_of(by_turn, seconds[NONE, size])
            interval = [round(end, 4) for end in cost.ratio_95]
            about = {"batch_size": size, "acceptance_length": round(cost.ratio, 4), "acceptance_length_95": interval}
            rows.append(method.about() | about)
    return sorted(rows, key=lambda row: (row["num_speculative_tokens"], row["batch_size"]))


def table(result: Result) -> str:
    """A line for each K."""
    settings, vocabulary = result["settings"], result["draft_vocab_size"] or "all"
    about = (
        f"No drafter yet: one of random weights for {result['target']}, which drafts {vocabulary} of its tokens, "
        f"without lookup, temperature {settings['temperature']:g}, {settings['dtype']}{options_text(settings)}. "
        f"{made_on(*result['origins'])}."
    )
    title = (
        "**Break-even**: the acceptance length that a drafter must have to pay, by requests at once (95%). One of "
        "acceptance length L makes generating L / this times as fast. It is the cost of a round, in rounds without "
        "speculation."
    )
    cells: dict[int, dict[int, str]] = {}
    for row in result["break_even"]:
        low, high = row["acceptance_length_95"]
        cell = f"{row['acceptance_length']:.2f} ({low:.2f}-{high:.2f})"
        cells.setdefault(method_of(row).num_speculative_tokens, {})[row["batch_size"]] = cell
    sizes = sorted({row["batch_size"] for row in result["break_even"]})
    lines = [[str(k), *(of_size[size] for size in sizes)] for k, of_size in cells.items()]
    return "\n\n".join([about, title, markdown(["k", *map(str, sizes)], lines)])
