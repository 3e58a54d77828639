"""From stored rows to results.json, table.md and acceptance.png of `vllm-mtp bench acceptance`."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from vllm_mtp.benchmarks.acceptance_plot import plot
from vllm_mtp.benchmarks.acceptance_row import acceptance_row
from vllm_mtp.benchmarks.acceptance_setup import Setup
from vllm_mtp.benchmarks.acceptance_table import table
from vllm_mtp.benchmarks.method import method_of
from vllm_mtp.benchmarks.row_store import RowStore
from vllm_mtp.benchmarks.speed_row import speed_row
from vllm_mtp.checkpoint import write_atomically
from vllm_mtp.training.export import relative

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

    Rows of a folder may come from several commands or commits: each has the place of its origin in `made_with`.
    """
    reference = None
    if _REFERENCE in store:
        reference = {record["number"]: record["token_ids"] for record in store.load(_REFERENCE)["records"]}
    rows, speed_rows = [], []
    origins: list[dict[str, Any]] = []
    for name in store.names():
        stored = store.load(name)
        if stored["made_with"] not in origins:
            origins.append(stored["made_with"])
        origin = {"made_with": origins.index(stored["made_with"])}
        method = method_of(stored)
        temperature = stored["temperature"]
        if stored["kind"] == "speed":
            row = speed_row(method, temperature, stored["batch_size"], stored["records"], stored["baseline"])
            speed_rows.append(row | origin)
            continue
        row = acceptance_row(
            method,
            temperature,
            stored["records"],
            reference=reference if temperature == 0 else None,
            max_tokens=setup.config.max_tokens,
        )
        rows.append(row | {"seconds": stored["seconds"], "peak_memory_mib": stored["peak_memory_mib"]} | origin)
    return {
        "target": relative(setup.target),
        "draft": relative(str(setup.draft)),
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
    names = ("none", "mtp", "ngram", "suffix")
    position = names.index(row["method"])
    return row["temperature"], position, row["num_speculative_tokens"], row["local_argmax"], row.get("batch_size", 0)
