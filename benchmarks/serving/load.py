"""One row's requests, by vLLM's own `vllm bench serve`."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vllm_mtp.benchmarks.serving.config import ServingConfig
from vllm_mtp.benchmarks.serving.server import VLLM, ServerError, environment

PERCENTILES = (50, 90, 99)
_KEPT = ("duration", "completed", "failed", "total_input_tokens", "total_output_tokens")
_KEPT_OF_DRAFTING = ("acceptance_length", "acceptance_rate", "num_drafts", "draft_tokens", "accepted_tokens")


def run_load(
    config: ServingConfig, *, url: str, target: str, requests: Path, concurrency: int, is_plain: bool, path: Path
) -> dict[str, Any]:
    """Sends the requests and waits for all answers.

    Args:
        config: how many there are, and how they are sampled.
        url: of the server.
        target: what it serves, for its tokenizer.
        requests: prompts as text, a line of JSON each.
        concurrency: how many are under way at once.
        is_plain: whether the tokenizer puts its special tokens around them.
        path: where `vllm bench serve` writes its result; what it says is beside it, in a file that ends in .log.

    Returns:
        Figures of the row, latencies in milliseconds, rates per second; under "requests" those of each request.

    Raises:
        ServerError: if it ends, or a request fails.
    """
    command = [*VLLM, "bench", "serve", "--base-url", url, "--model", target, "--backend", "openai"]
    command += ["--dataset-name", "custom", "--dataset-path", str(requests), "--skip-chat-template"]
    command += ["--disable-shuffle", "--custom-output-len", str(config.max_tokens), "--ignore-eos"]
    command += ["--num-prompts", str(config.num_requests(concurrency)), "--max-concurrency", str(concurrency)]
    command += ["--num-warmups", str(concurrency), "--temperature", str(config.temperature)]
    command += ["--seed", str(config.seed), "--extra-body", json.dumps({"add_special_tokens": is_plain})]
    command += ["--percentile-metrics", "ttft,tpot", "--metric-percentiles", ",".join(map(str, PERCENTILES))]
    command += ["--save-result", "--save-detailed", "--result-dir", str(path.parent), "--result-filename", path.name]
    command += ["--disable-tqdm"]
    command += ["--goodput", *config.bounds()] if config.bounds() else []
    command += ["--trust-remote-code"] if config.engine_options.trust_remote_code else []
    path.unlink(missing_ok=True)
    log = path.with_suffix(".log")
    with log.open("wb") as file:
        status = subprocess.run(command, env=environment(), stdout=file, stderr=subprocess.STDOUT).returncode
    if status or not path.is_file():
        raise ServerError(f"vllm bench serve ended with status {status}; its log is {log}")
    result = json.loads(path.read_text())
    if result["failed"]:
        raise ServerError(f"{result['failed']} of {config.num_requests(concurrency)} requests failed; the log is {log}")
    return figures(result) | {"requests": requests_of(result)}


def figures(result: Mapping[str, Any]) -> dict[str, Any]:
    """What a row keeps of vLLM's result, under names with units."""
    kept = {name: result[name] for name in _KEPT}
    for metric in ("ttft", "tpot"):
        kept |= {f"{metric}_p{percent}_ms": result[f"p{percent}_{metric}_ms"] for percent in PERCENTILES}
    kept["output_tokens_per_s"] = result["output_throughput"]
    kept["requests_per_s"] = result["request_throughput"]
    kept["goodput_requests_per_s"] = result["request_goodput"]
    drafting = {name: result.get(f"spec_decode_{name}") for name in _KEPT_OF_DRAFTING}
    return kept | {name: value for name, value in drafting.items() if value is not None}


def requests_of(result: Mapping[str, Any]) -> dict[str, list[float]]:
    """Seconds and tokens of each request, from vLLM's detailed result, in the order in which they were sent."""
    return {
        "ttft_s": result["ttfts"],
        "decode_s": [sum(between) for between in result["itls"]],
        "output_tokens": result["output_lens"],
    }
