"""A results.json of tune, made up for tests of what is drawn from it."""

from typing import Any

from vllm_mtp.benchmarks.harness.method import OFF, mtp
from vllm_mtp.contract.lookup import Lookup

ORIGIN = {"hardware": "some machine", "versions": {"vllm": "0.32.0"}}


def row(k: int, batch_size: int, speedup: float, lookup: Lookup | str = OFF) -> dict[str, Any]:
    return {
        **mtp(k, lookup=lookup).about(),
        "batch_size": batch_size,
        "tokens_per_round": 1.0 + k / 2,
        "speedup": speedup,
        "speedup_95": [speedup - 0.1, speedup + 0.1],
    }


def result(*, pays: bool = True) -> dict[str, Any]:
    rows = [row(k, size, 1 + k / size) for k in (0, 2) for size in (1, 4)]
    settings = {"num_prompts": 8, "max_tokens": 96, "temperature": 0.7, "top_p": 0.9, "top_k": 0, "dtype": "float32"}
    verified = {
        "num_speculative_tokens": 2,
        "num_turns": 3,
        "predicted_speedup": 1.5,
        "predicted_speedup_95": [1.4, 1.6],
        "measured_speedup": 1.6,
        "measured_speedup_95": [1.45, 1.7],
        "relative_error": -0.0625,
        "tokens_per_second": 80.0,
        "tokens_per_second_without": 50.0,
        "predicted_tokens_per_round": 2.0,
        "tokens_per_round": 2.1,
        "predicted_cost": 1.3,
        "cost": 1.31,
    }
    return {
        "target": "target",
        "draft": "draft",
        "settings": settings,
        "origins": [ORIGIN],
        "acceptance": [
            mtp(2, lookup=OFF).about()
            | {
                "num_outputs": 4,
                "tokens_per_round": 2.0,
                "tokens_per_round_95": [1.9, 2.1],
                "acceptance_rate_per_position": [0.6, 0.4],
            }
        ],
        "predictions": rows,
        "choice": {
            "for_batch_size": 4,
            "pays": pays,
            "method": mtp(2, lookup=OFF).about(),
            "by_batch_size": rows[2:],
            "config": {"num_speculative_tokens": 2} if pays else None,
            "lookup_command": "vllm-mtp lookup draft --off" if pays else None,
            "serve_command": "vllm serve target ...",
        },
        "verification": [{"batch_size": size} | verified for size in (1, 4)],
    }
