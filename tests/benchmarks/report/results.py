"""Small results of each command that a page shows, as it writes them, made up for tests."""

from typing import Any

ORIGIN = {
    "command": "vllm-mtp bench",
    "seed": 0,
    "hardware": "a machine",
    "git_revision": None,
    "versions": {"vllm": "1"},
}
ABOUT = {"target": "small", "draft": "drafter", "origins": [ORIGIN]}


def settings(**more: Any) -> dict[str, Any]:
    common = {"draft": "0123", "dtype": "float32", "enforce_eager": True, "temperature": 0.0, "vllm": "1"}
    return common | {"max_tokens": 8, "hardware": "a machine", "bounds": []} | more


def served(method: str, k: int, concurrency: int, tokens_per_s: float, **more: Any) -> dict[str, Any]:
    """A row of `bench serving`."""
    about = {"method": method, "num_speculative_tokens": k, "concurrency": concurrency}
    latencies = {f"{name}_p{percent}_ms": percent / 10 for name in ("ttft", "tpot") for percent in (50, 90, 99)}
    rates = {"output_tokens_per_s": tokens_per_s, "requests_per_s": tokens_per_s / 8, "goodput_requests_per_s": None}
    return about | latencies | rates | more


def serving() -> dict[str, Any]:
    """Of three loads: faster, as fast, slower."""
    rows = []
    for concurrency, plain, ratio in ((1, 50.0, 2.0), (2, 100.0, 1.0), (8, 200.0, 0.5)):
        bounds = {"output_tokens_per_s_ratio": ratio, "output_tokens_per_s_ratio_95": [ratio - 0.1, ratio + 0.1]}
        rows.append(served("none", 0, concurrency, plain))
        rows.append(served("mtp", 3, concurrency, plain * ratio, acceptance_length=1.8, **bounds))
    about = {"target": "small", "origins": [ORIGIN], "repeats": 3}
    return about | {"settings": settings(), "missing": {"suffix k = 8": "needs <a package>"}, "rows": rows}


def rounds() -> dict[str, Any]:
    parts = ("target", "target_head", "sampling", "module", "draft_head", "lookup", "proposer", "runner", "rest")
    shares = dict(zip(parts, (0.5, 0.1, 0.05, 0.1, 0.05, 0.05, 0.05, 0.05, 0.05), strict=True))
    row = {
        "method": "mtp",
        "num_speculative_tokens": 3,
        "batch_size": 1,
        "num_rounds": 9,
        "shares": shares,
        "shares_95": {part: [share, share] for part, share in shares.items()},
        "time_with_profiler": 1.1,
        "time_with_profiler_95": [1.0, 1.2],
    }
    return ABOUT | {"kind": "round", "settings": settings(), "rows": [row]}


def tuned(*, pays: bool = True) -> dict[str, Any]:
    method = {"method": "mtp", "num_speculative_tokens": 3}
    predicted = [
        method | {"batch_size": size, "tokens_per_round": 2.0, "cost": cost, "speedup": 2 / cost}
        | {"tokens_per_round_95": [1.8, 2.2], "speedup_95": [1.8 / cost, 2.2 / cost]}
        for size, cost in ((1, 1.25), (4, 2.5))
    ]  # fmt: skip
    checked = {
        "batch_size": 1,
        "num_speculative_tokens": 3,
        "num_turns": 3,
        "predicted_speedup": 1.6,
        "predicted_speedup_95": [1.4, 1.8],
        "measured_speedup": 1.5,
        "measured_speedup_95": [1.3, 1.7],
        "relative_error": 0.0667,
        "tokens_per_second": 60.0,
        "tokens_per_second_without": 40.0,
    }
    choice = {
        "for_batch_size": 1,
        "pays": pays,
        "method": method,
        "by_batch_size": predicted,
        "lookup_command": None,
        "serve_command": "vllm serve small --speculative-config '{}'",
    }
    more = {"predictions": predicted, "choice": choice, "verification": [checked]}
    return ABOUT | {"settings": settings()} | more
