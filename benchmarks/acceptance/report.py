"""From stored rows to the results.json of `vllm-mtp bench acceptance`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from vllm_mtp.benchmarks.acceptance.context import by_trained_length
from vllm_mtp.benchmarks.acceptance.measurement import ACCEPTANCE, SPEED, WITHOUT_SPECULATION
from vllm_mtp.benchmarks.acceptance.setup import Setup
from vllm_mtp.benchmarks.harness.draft_folder import lookup_of
from vllm_mtp.benchmarks.harness.figures import acceptance_row
from vllm_mtp.benchmarks.harness.method import BASELINES, Method, method_of
from vllm_mtp.benchmarks.harness.record import Record
from vllm_mtp.benchmarks.harness.row_store import RowStore, origins_of
from vllm_mtp.benchmarks.harness.speed import Pair, speed_row
from vllm_mtp.common.provenance import relative
from vllm_mtp.contract.checkpoint import read_config


def result_of(setup: Setup, store: RowStore, missing: Mapping[str, str]) -> dict[str, Any]:
    """Everything that results.json holds: figures, settings, where they come from; no prompt and no output.

    Rows of a folder may come from several commands or commits: each has the place of its origin in `made_with`, one of
    several pairs of engines a list of them.
    """
    plain = None
    trained_length = read_config(setup.engine.draft).get("trained_length")
    if WITHOUT_SPECULATION.name in store:
        plain = _records(store.load(WITHOUT_SPECULATION.name)["records"])
    rows = []
    pairs: dict[tuple[Method, float, int], list[Pair]] = {}
    stored_rows = [(kind, stored) for kind, stored in store.all() if kind in (ACCEPTANCE, SPEED)]
    origins = origins_of(content for _, content in stored_rows)
    made_with: dict[tuple[Method, float, int], list[int]] = {}
    for kind, stored in stored_rows:
        origin = origins.index(stored["made_with"])
        method, temperature, records = method_of(stored), stored["temperature"], _records(stored["records"])
        if kind == SPEED:
            key = method, temperature, stored["batch_size"]
            pairs.setdefault(key, []).append((records, _records(stored["baseline"])))
            made_with.setdefault(key, []).append(origin)
            continue
        row = acceptance_row(
            method,
            temperature,
            records,
            max_tokens=setup.config.max_tokens,
            without_speculation=plain if temperature == 0 else None,
        )
        measured = {name: stored[name] for name in ("seconds", "peak_memory_mib")}
        rows.append(row | by_trained_length(records, trained_length) | measured | {"made_with": origin})
    speed_rows = []
    for key, some in pairs.items():
        of_pairs = made_with[key]
        speed_rows.append(speed_row(*key, some) | {"made_with": of_pairs if len(some) > 1 else of_pairs[0]})
    lookup = lookup_of(setup.engine.draft)
    return {
        "target": relative(setup.engine.target),
        "draft": relative(str(setup.engine.draft)),
        "draft_trained_length": trained_length,
        "draft_lookup": lookup.fields() if lookup else None,
        "prompts": {
            "file": setup.prompt_file.name,
            "sha256": setup.identity["prompts"],
            "num_prompts": len(setup.prompts),
            "num_left_out": setup.num_left_out,
            "tasks": dict(Counter(prompt.task for prompt in setup.prompts)),
            "chat_template": not setup.conversations.template.is_plain,
            "turns": dict(Counter(prompt.turn for prompt in setup.prompts)),
        },
        "config": asdict(setup.config) | {"template_options": setup.config.template_options.stored()},
        "settings": setup.settings(),
        "kv_bytes_per_token": setup.kv_bytes_per_token,
        "rows": sorted(rows, key=_order),
        "speed_rows": sorted(speed_rows, key=_order),
        "missing": dict(missing),
        "made_with": origins,
    }


def _records(stored: Sequence[Mapping[str, Any]]) -> list[Record]:
    return [Record(**record) for record in stored]


def _order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    position = ("none", "mtp", *BASELINES).index(row["method"])
    method = row["num_speculative_tokens"], row["local_argmax"], method_of(row).slug
    return row["temperature"], position, *method, row.get("batch_size", 0)
