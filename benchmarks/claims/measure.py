"""What the claims study counts and times of a drafter: acceptance on held-out prompts, and tokens/s in turn."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from vllm_mtp.benchmarks.claims.config import ClaimsConfig
from vllm_mtp.benchmarks.harness.acceptance import Acceptance
from vllm_mtp.benchmarks.harness.engine import EngineProcess, can_compile
from vllm_mtp.benchmarks.harness.figures import counts_of
from vllm_mtp.benchmarks.harness.method import mtp
from vllm_mtp.benchmarks.harness.passes import Plan
from vllm_mtp.training.data.repetition import ends_in_loop, loop_window

TokenIds = Sequence[int]
Counts = dict[str, Any]
"""By temperature (as "0", "1"): of each prompt `num_drafts` and `accepted_per_position`, and `num_loops` in all."""


def acceptance(
    config: ClaimsConfig, prompts: Sequence[TokenIds], *, target: str, draft: Path, dtype: str, log: Path
) -> Counts:
    """Counts at every temperature: by vLLM, all prompts in one batch, or by the plain loop."""
    count = _count_in_vllm if config.engine == "vllm" else _count_in_torch
    found = {}
    for temperature, results in count(config, prompts, target, draft, dtype, log):
        window = loop_window(config.max_tokens)
        found[f"{temperature:g}"] = {
            "num_drafts": [counts.num_drafts for _, counts in results],
            "accepted_per_position": [list(counts.num_accepted_tokens_per_position) for _, counts in results],
            "num_loops": sum(ends_in_loop(ids, window=window) for ids, _ in results),
        }
    return found


_Found = Iterator[tuple[float, list[tuple[list[int], Acceptance]]]]


def _count_in_vllm(
    config: ClaimsConfig, prompts: Sequence[TokenIds], target: str, draft: Path, dtype: str, log: Path
) -> _Found:
    method = mtp(config.num_speculative_tokens)
    with _engine(config, prompts, target, draft, dtype, log, timed=False) as engine:
        for temperature in config.temperature:
            results = engine.measure(
                prompts,
                max_tokens=config.max_tokens,
                temperature=temperature,
                seed=0,
                batch_size=len(prompts) if engine.per_request_metrics else 1,
            )
            yield temperature, [(result["token_ids"], counts_of(result, method)) for result in results]


def _count_in_torch(
    config: ClaimsConfig, prompts: Sequence[TokenIds], target: str, draft: Path, dtype: str, log: Path
) -> _Found:
    """In float32, whatever the dtype: the plain loop has no other."""
    import torch

    from vllm_mtp.benchmarks.simulation.simulate import Sampler, generate
    from vllm_mtp.contract.checkpoint import load_draft
    from vllm_mtp.module.mtp import MTPModule
    from vllm_mtp.training.target.frozen import FrozenTarget

    draft_config, tensors = load_draft(draft)
    frozen = FrozenTarget.load(target, dtype="float32")
    module = MTPModule(draft_config)
    module.load_state_dict(tensors)
    module.float().to(frozen.device)
    for temperature in config.temperature:
        runs = [
            generate(
                frozen,
                module,
                torch.tensor(ids, device=frozen.device),
                num_speculative_tokens=config.num_speculative_tokens,
                max_tokens=config.max_tokens,
                sampler=Sampler(temperature, number),
            )
            for number, ids in enumerate(prompts)
        ]
        yield temperature, [(run.token_ids, run.acceptance) for run in runs]


def seconds_in_turn(
    config: ClaimsConfig, prompts: Sequence[TokenIds], drafts: Mapping[str, Path], *, target: str, dtype: str, log: Path
) -> dict[str, list[float]]:
    """Seconds of each greedy output of max_tokens tokens, batch 1, of two drafters.

    Both engines are alive; they take turns at every prompt, each of them first every other time, so that a machine
    that changes its speed changes it for both.

    Args:
        config: the study's.
        prompts: token ids.
        drafts: the drafters by name.
        target, dtype: what they are served with.
        log: file beside which the engines' logs are written.

    Returns:
        By name, the median over passes for each prompt.
    """
    (one, first), (two, second) = drafts.items()
    with (
        _engine(config, prompts, target, first, dtype, log.with_suffix(f".{one}.log"), timed=True) as engine_one,
        _engine(config, prompts, target, second, dtype, log.with_suffix(f".{two}.log"), timed=True) as engine_two,
    ):
        engines = {one: engine_one, two: engine_two}
        for engine in engines.values():
            engine.warm_up(prompts)
        seconds: dict[str, list[list[float]]] = {name: [[] for _ in prompts] for name in engines}
        for number in range(config.speed_passes):
            for place, ids in enumerate(prompts):
                order = [one, two] if (place + number) % 2 else [two, one]
                for name in order:
                    result = engines[name].measure([ids], max_tokens=config.max_tokens, temperature=0.0, seed=0)
                    seconds[name][place].append(result[0]["seconds"])
    return {name: [median(passes) for passes in of_prompts] for name, of_prompts in seconds.items()}


@contextmanager
def _engine(
    config: ClaimsConfig,
    prompts: Sequence[TokenIds],
    target: str,
    draft: Path,
    dtype: str,
    log: Path,
    *,
    timed: bool,
) -> Iterator[EngineProcess]:
    method = mtp(config.num_speculative_tokens)
    plan = Plan(
        target=Path(target),
        draft=draft,
        logs=log.parent,
        methods={},
        passes={},
        max_tokens=config.max_tokens,
        max_model_len=max(len(ids) for ids in prompts) + config.max_tokens + 16,
        dtype=dtype,
        enforce_eager=config.enforce_eager or not can_compile(),
        prefix_caching=False,
    )
    eager = plan.enforce_eager or not timed
    arguments = plan.engine_args(method, dtype=dtype, enforce_eager=eager, timed=timed, num_engines=2 if timed else 1)
    engine = EngineProcess(arguments, log)
    try:
        engine.wait_until_ready()
        yield engine
    finally:
        engine.close()
