"""From stored rows to results.json, table.md and acceptance.png of `vllm-mtp bench acceptance`."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from vllm_mtp.benchmarks.acceptance.plot import plot
from vllm_mtp.benchmarks.acceptance.setup import Setup
from vllm_mtp.benchmarks.acceptance.table import table
from vllm_mtp.benchmarks.harness.draft_folder import lookup_of
from vllm_mtp.benchmarks.harness.figures import acceptance_row
from vllm_mtp.benchmarks.harness.method import RIVALS, Method, method_of
from vllm_mtp.benchmarks.harness.row_store import RowStore
from vllm_mtp.benchmarks.harness.speed import Pair, speed_row
from vllm_mtp.common.files import write_atomically
from vllm_mtp.common.provenance import relative

_REFERENCE = "acceptance-none-k0-t0"


def report(setup: Setup, store: RowStore, missing: Mapping[str, str]) -> str:
    """Writes the three files from every row in the folder.

    Returns:
        The table.
    """
    result = result_of(setup, store, missing)
    write_atomically(setup.output / "results.json", json.dumps(result, indent=1) + "\n")
    text = table(result)
    write_atomically(setup.output / "table.md", text + "\n")
    try:
        plot(result, setup.output / "acceptance.png")
    except ImportError:
        text += "\n\nNo plot, for want of matplotlib."
    return text


def result_of(setup: Setup, store: RowStore, missing: Mapping[str, str]) -> dict[str, Any]:
    """Everything that results.json holds: figures, settings, where they come from; no prompt and no output.

    Rows of a folder may come from several commands or commits: each has the place of its origin in `made_with`, one of
    several pairs of engines a list of them.
    """
    reference = None
    if _REFERENCE in store:
        reference = {record["number"]: record["token_ids"] for record in store.load(_REFERENCE)["records"]}
    rows = []
    pairs: dict[tuple[Method, float, int], list[tuple[Pair, int]]] = {}
    origins: list[dict[str, Any]] = []
    for name in store.names():
        stored = store.load(name)
        if stored["made_with"] not in origins:
            origins.append(stored["made_with"])
        origin = origins.index(stored["made_with"])
        method = method_of(stored)
        temperature = stored["temperature"]
        if stored["kind"] == "speed":
            pair = (stored["records"], stored["baseline"]), origin
            pairs.setdefault((method, temperature, stored["batch_size"]), []).append(pair)
            continue
        row = acceptance_row(
            method,
            temperature,
            stored["records"],
            reference=reference if temperature == 0 else None,
            max_tokens=setup.config.max_tokens,
        )
        measured = {name: stored[name] for name in ("seconds", "peak_memory_mib")}
        rows.append(row | measured | {"made_with": origin})
    speed_rows = []
    for of_row, some in pairs.items():
        of_pairs = [origin for _, origin in some]
        row = speed_row(*of_row, [pair for pair, _ in some])
        speed_rows.append(row | {"made_with": of_pairs if len(some) > 1 else of_pairs[0]})
    lookup = lookup_of(setup.draft)
    return {
        "target": relative(setup.target),
        "draft": relative(str(setup.draft)),
        "draft_lookup": lookup.fields() if lookup else None,
        "prompts": {
            "file": setup.prompt_file.name,
            "sha256": setup.identity["prompts"],
            "num_prompts": len(setup.prompts),
            "num_left_out": setup.num_left_out,
            "tasks": dict(Counter(prompt.task for prompt in setup.prompts)),
            "chat_template": setup.chat_template,
        },
        "config": asdict(setup.config),
        "settings": setup.settings(),
        "kv_bytes_per_token": setup.kv_bytes_per_token,
        "rows": sorted(rows, key=_order),
        "speed_rows": sorted(speed_rows, key=_order),
        "missing": dict(missing),
        "made_with": origins,
    }


def _order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    position = ("none", "mtp", *RIVALS).index(row["method"])
    method = row["num_speculative_tokens"], row["local_argmax"], method_of(row).slug
    return row["temperature"], position, *method, row.get("batch_size", 0)
