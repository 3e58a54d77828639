"""What the claims study counts and times of a drafter: acceptance on held-out prompts, and tokens/s in turn."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from vllm_mtp.benchmarks.claims.setup import Study
from vllm_mtp.benchmarks.harness.engine import EngineProcess, can_compile
from vllm_mtp.benchmarks.harness.engine_args import EngineArgs
from vllm_mtp.benchmarks.harness.method import Method, mtp
from vllm_mtp.benchmarks.harness.record import Record, Request
from vllm_mtp.benchmarks.harness.turns import in_turn


def acceptance(study: Study, draft: Path, log: Path, method: Method | None = None) -> dict[float, Sequence[Record]]:
    """Records by temperature: by vLLM, all prompts in one batch, or by the plain loop, always in float32.

    Args:
        study: its prompts, and how many tokens.
        draft: the drafter's folder.
        log: file for the engine's log.
        method: how vLLM drafts; None: with an MTP drafter.
    """
    config, prompts = study.config, study.data.prompts
    if config.engine == "torch":
        return _in_torch(study, draft)
    with _engine(study, draft, log, method) as engine:
        size = len(prompts) if engine.per_request_metrics else 1
        request = Request(prompts=prompts, max_tokens=config.max_tokens, batch_size=size)
        return {t: engine.measure(replace(request, temperature=t)) for t in config.temperature}


def _in_torch(study: Study, draft: Path) -> dict[float, Sequence[Record]]:
    from vllm_mtp.benchmarks.simulation.speculate import generate_all, load_module
    from vllm_mtp.training.frozen.target import FrozenTarget

    frozen = FrozenTarget.load(study.target, dtype="float32", **study.config.engine_options.source())
    module = load_module(draft).to(frozen.device)
    return {
        temperature: generate_all(
            frozen,
            module,
            [prompt.token_ids for prompt in study.data.prompts],
            num_speculative_tokens=study.config.num_speculative_tokens,
            max_tokens=study.config.max_tokens,
            temperature=temperature,
        )
        for temperature in study.config.temperature
    }


def seconds_in_turn(study: Study, drafts: Mapping[str, Path], log: Path) -> dict[str, list[float]]:
    """Seconds of each greedy output of max_tokens tokens, batch 1, of two drafters, which take turns at every prompt.

    Args:
        study: of which the first prompts are taken.
        drafts: the drafters by name.
        log: file beside which the engines' logs are written.

    Returns:
        By name, the median over passes for each prompt.
    """
    config, prompts = study.config, study.data.prompts[: study.config.speed_prompts]

    def engine(name: str) -> EngineProcess:
        return _engine(study, drafts[name], log.with_suffix(f".{name}.log"), num_timed=2)

    one, two = drafts
    with engine(one) as first, engine(two) as second:
        request = Request(prompts=prompts, max_tokens=config.max_tokens)
        for each in (first, second):
            each.warm_up(request)
        found = in_turn((first, second), request, prompts_per_turn=1, num_passes=config.speed_passes)
    return {
        name: [median(record.seconds for record in of_prompt) for of_prompt in zip(*passes, strict=True)]
        for name, passes in zip(drafts, found, strict=True)
    }


def _engine(study: Study, draft: Path, log: Path, method: Method | None = None, *, num_timed: int = 0) -> EngineProcess:
    """One of num_timed engines that are timed in turn, or eager, where nothing is."""
    config = study.config
    args = EngineArgs(
        target=study.target,
        draft=draft,
        variants=log.parent,
        dtype=study.dtype,
        enforce_eager=config.enforce_eager or not num_timed or not can_compile(),
        max_model_len=max(len(prompt.token_ids) for prompt in study.data.prompts) + config.max_tokens + 16,
        max_num_seqs=config.max_num_seqs,
        num_engines=max(1, num_timed),
        options=config.engine_options,
    )
    return EngineProcess(args.of(method or mtp(config.num_speculative_tokens)), log)
