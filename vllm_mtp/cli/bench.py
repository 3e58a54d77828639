"""`vllm-mtp bench`: measure a drafter in vLLM; in a checkout also what this project measures of itself."""

import argparse
import importlib.util

from vllm_mtp.cli import (
    bench_acceptance,
    bench_claims,
    bench_kernels,
    bench_round,
    bench_serving,
    bench_training,
    bench_tune_kernels,
)


def add(parser: argparse.ArgumentParser) -> None:
    what = parser.add_subparsers(dest="what", required=True)
    bench_acceptance.add(what.add_parser("acceptance", help="acceptance and speed by task, beside baselines"))
    bench_serving.add(what.add_parser("serving", help="latency and throughput of a server, over requests at once"))
    bench_round.add(what.add_parser("round", help="where a round goes: target, drafter, lookup, vLLM"))
    bench_training.add(what.add_parser("training", help="a step of training by its parts, beside its arithmetic"))
    # Studies of this project's own are in no wheel.
    if importlib.util.find_spec("vllm_mtp.benchmarks.kernels"):
        bench_kernels.add(what.add_parser("kernels", help="time and memory of the kernels, beside the floor"))
        bench_tune_kernels.add(what.add_parser("tune-kernels", help="find the fastest launches on this GPU"))
    if importlib.util.find_spec("vllm_mtp.benchmarks.claims"):
        bench_claims.add(what.add_parser("claims", help="train and compare what the paper compares, on several seeds"))
