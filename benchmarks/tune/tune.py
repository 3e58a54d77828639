"""`vllm-mtp tune`: measures what a drafter costs and gains, chooses how to serve it, and checks the choice by a run.

Acceptance does not depend on the batch size, so it is counted once for each lookup, many prompts together. Rounds are
timed at every batch size. From both follows the speed of every setting; the chosen one is then measured on prompts that
were kept apart, in fresh engines. Every row is written when it is done, and not measured again by the same command.
"""

import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from vllm_mtp.benchmarks.harness.report import write_report
from vllm_mtp.benchmarks.harness.row_store import RowStore
from vllm_mtp.benchmarks.tune.cells import ACCEPTANCE, CHECK, COST, HELD_OUT, VERIFICATION
from vllm_mtp.benchmarks.tune.config import TuneConfig
from vllm_mtp.benchmarks.tune.costs import costs
from vllm_mtp.benchmarks.tune.measure import Meter
from vllm_mtp.benchmarks.tune.plot import plot
from vllm_mtp.benchmarks.tune.result import result_of, summary
from vllm_mtp.benchmarks.tune.setup import set_up
from vllm_mtp.benchmarks.tune.sure import choose_by, verify_by
from vllm_mtp.benchmarks.tune.table import table
from vllm_mtp.common.errors import InputError
from vllm_mtp.common.provenance import provenance

_TO_CHOOSE = 0.6
"""Share of the minutes; the others are kept for the verification."""


def tune(
    config: TuneConfig,
    *,
    target: str,
    draft: Path | None,
    prompts: Path,
    output: Path,
    command: str,
    as_json: bool = False,
) -> int:
    """Measures what is not in the output folder yet, then writes results.json, table.md and plot.png.

    Without a drafter `costs` does, of one that is not trained.

    Returns:
        0.

    Raises:
        ValueError: for inputs that cannot be used, a folder with rows of other settings, or an engine that ended.
    """
    start, seconds = time.monotonic(), 60 * config.max_minutes if config.max_minutes is not None else float("inf")

    def is_late(share: float = 1.0) -> bool:
        return time.monotonic() > start + share * seconds

    if draft is None:
        inputs: dict[str, Any] = {"target": target, "prompts": prompts, "output": output, "command": command}
        return costs(config, **inputs, is_late=is_late, as_json=as_json)
    if config.draft_vocab_size is not None:
        raise InputError("draft_vocab_size", f"is of a drafter to be trained; {draft} has a vocabulary of its own")
    setup = set_up(config, target=target, draft=draft, prompts=prompts, output=output)
    store = RowStore(output, dict.fromkeys((ACCEPTANCE, COST, VERIFICATION, HELD_OUT, CHECK), setup.settings))
    made_with = provenance(command, config.seed)
    about = f"{len(setup.measured)} prompts to measure with, {len(setup.held_out)} to verify with"
    print(f"{about}, {setup.engine.dtype}", file=sys.stderr)
    with Meter(setup, store, made_with) as meter:
        until = partial(is_late, _TO_CHOOSE)
        predicted, choice = choose_by(partial(meter, is_late=until), setup.space, store, setup.own_lookup)
        measure = partial(meter, is_late=is_late)
        choice = verify_by(measure, setup.space, store, choice, with_checks=setup.on_cpu)
    result = result_of(setup, store, predicted, choice)
    text = write_report(result, output, table, plot)
    print(json.dumps(summary(result), indent=1) if as_json else text)
    return 0
