"""`vllm-mtp bench claims`: does what the paper says about training an MTP drafter hold here, at equal tokens?

Source of the claims: Xu et al., Evolving LLMs from NTP to MTP via Self-Distillation (Electronics 2026, 15(7), 1533).

Every arm of every claim is trained on every seed by `vllm_mtp.training`, and its acceptance length measured on held-out
prompts. An arm that several claims need is trained once. Each row is written when it is done and not measured again by
the same command; more seeds or claims in the same folder add rows.

    vllm-mtp bench claims --output runs/claims                          # the shipped target, seeds 0 1 2
    vllm-mtp bench claims --output runs/claims --seeds 3 4 5            # again with other seeds
    vllm-mtp bench claims --output runs/claims-smollm2 --claims objective --target runs/smollm2/target \\
        --generated examples/smollm2/conversations/tasks.npz --prompts examples/smollm2/prompts.jsonl \\
        --draft-vocab examples/smollm2/vocab.json --sequence-length 512 --batch-size 4 --max-tokens 48
"""

import gc
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vllm_mtp.benchmarks.claims.arms import DRAFT, FULL, Arm, arms_of, comparisons
from vllm_mtp.benchmarks.claims.config import ClaimsConfig
from vllm_mtp.benchmarks.claims.data import ClaimsData, Sources, prepare
from vllm_mtp.benchmarks.claims.measure import acceptance, seconds_in_turn
from vllm_mtp.benchmarks.claims.report import result_of, write_report
from vllm_mtp.benchmarks.claims.train import train_arm
from vllm_mtp.benchmarks.harness.engine import EngineError
from vllm_mtp.benchmarks.harness.prompts import sha256_of_tokens
from vllm_mtp.benchmarks.harness.row_store import RowStore, stored_setting
from vllm_mtp.common.provenance import hardware, provenance, relative
from vllm_mtp.contract.fingerprint import stored_weights_sha256
from vllm_mtp.training.target.frozen import config_and_tokenizer, fingerprint_of, serving_dtype

_OF_ALL_ROWS = (
    *("tokens", "data_tokens", "sequence_length", "batch_size", "num_speculative_tokens", "temperature"),
    *("max_tokens", "num_prompts", "engine"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """A config made concrete."""

    config: ClaimsConfig
    target: str
    dtype: str
    output: Path
    data: ClaimsData
    store: RowStore
    made_with: dict[str, Any]

    def folder(self, arm: Arm, seed: int) -> Path:
        """Of an arm's drafters."""
        return self.output / "drafts" / _row_name(arm, seed)


def bench(config: ClaimsConfig, sources: Sources, *, target: str, output: Path, argv: Sequence[str]) -> int:
    """Trains and measures what is not in the output folder yet, then writes results.json, results.md and claims.png.

    Returns:
        0.

    Raises:
        ValueError: for inputs that cannot be used, a folder with rows of other settings, or an engine that ended.
    """
    vocabulary = DRAFT if sources.draft_vocab else FULL
    some = comparisons(config.claims, config.num_steps_unrolled, vocabulary)
    arms = arms_of(some)
    # A probe that comes out otherwise the second time must not make the rows of the first time useless.
    stored_dtype = stored_setting(output, "dtype") if config.dtype == "auto" else None
    dtype = stored_dtype or serving_dtype(target, config.dtype)
    whole_config, tokenizer = config_and_tokenizer(target)
    fingerprint = fingerprint_of(target, whole_config, tokenizer)
    data = prepare(replace(config, dtype=dtype), sources, arms, target=target, tokenizer=tokenizer, output=output)
    settings = {name: getattr(config, name) for name in _OF_ALL_ROWS} | {
        "target": fingerprint["weights_sha256"],
        "target_weights": stored_weights_sha256(target),
        "prompts_sha256": data.about["prompts_sha256"],
        "prompt_tokens": sha256_of_tokens(data.prompts),
        "dtype": dtype,
    }
    speed = settings | {name: getattr(config, name) for name in ("speed_passes", "speed_prompts", "enforce_eager")}
    speed["hardware"] = hardware()
    # Rows depend on the text of their own arm only: other claims may have other files.
    of_arms = {_kind(arm): settings | data.hashes_of(arm) for arm in arms}
    study = Study(
        config=config,
        target=target,
        dtype=dtype,
        output=output,
        data=data,
        store=RowStore(output, of_arms | ({"speed": speed} if config.speed_passes else {})),
        made_with=provenance(" ".join(argv), config.seeds[0]),
    )
    try:
        _measure_missing(study, arms)
        if config.speed_passes and any(comparison.metric == "speed" for comparison in some):
            _time_missing(study, *next((c.better, c.worse) for c in some if c.metric == "speed"))
    except EngineError as error:
        print(f"\n{error}", file=sys.stderr)
        raise ValueError(f"an engine ended; its log is in {output / 'logs'}") from error
    print(write_report(_result(study, some), output))
    return 0


def _result(study: Study, some: list[Any]) -> dict[str, Any]:
    config, store = study.config, study.store
    rows = {(arm.name, seed): store.load(_row_name(arm, seed)) for arm in arms_of(some) for seed in config.seeds}
    speeds = {seed: store.load(name) for seed in config.seeds if (name := _speed_name(seed)) in store}
    origins: list[dict[str, Any]] = []  # rows of a folder may come from several commands or commits
    for row in (*rows.values(), *speeds.values()):
        if row["made_with"] not in origins:
            origins.append(row["made_with"])
    about = {
        "target": relative(study.target),
        **{name: getattr(config, name) for name in _OF_ALL_ROWS},
        "num_prompts": len(study.data.prompts),
        "dtype": study.dtype,
        "data": study.data.about,
        "made_with": origins,
    }
    return result_of(some, rows, speeds, config.seeds, [f"{t:g}" for t in config.temperature], about)


def _release_memory() -> None:
    """Gives back what training took on a GPU: the engine that follows, another process, wants it."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()


def _measure_missing(study: Study, arms: Sequence[Arm]) -> None:
    """Seed by seed, so that an interrupted study has whole seeds."""
    wanted = [(arm, seed) for seed in study.config.seeds for arm in arms]
    todo = [(arm, seed) for arm, seed in wanted if _row_name(arm, seed) not in study.store]
    print(f"{len(arms)} arms, {len(todo)} of {len(wanted)} runs to do, in {study.dtype}", file=sys.stderr)
    logs = study.output / "logs"
    logs.mkdir(exist_ok=True)
    started = time.monotonic()
    for number, (arm, seed) in enumerate(todo, start=1):
        print(f"\n{number} of {len(todo)}: seed {seed}, {arm}", file=sys.stderr)
        trained = train_arm(
            arm,
            seed,
            study.config,
            study.data,
            target=study.target,
            dtype=study.dtype,
            store=study.output / "store",
            output=study.folder(arm, seed),
        )
        _release_memory()
        measuring = time.monotonic()
        counts = acceptance(
            study.config,
            [prompt.token_ids for prompt in study.data.prompts],
            target=study.target,
            draft=trained.draft,
            dtype=study.dtype,
            log=logs / f"{_row_name(arm, seed)}.log",
        )
        content = {
            "arm": arm.name,
            "seed": seed,
            "tokens_seen": trained.tokens_seen,
            "distinct_tokens": trained.distinct_tokens,
            "training_seconds": trained.seconds,
            "measuring_seconds": round(time.monotonic() - measuring, 1),
            "draft": str(trained.draft.relative_to(study.output)),
            "counts": counts,
            "made_with": study.made_with,
        }
        study.store.save(_row_name(arm, seed), _kind(arm), content)
        lengths = ", ".join(f"{_length(found):.3f} at temperature {name}" for name, found in counts.items())
        left = (time.monotonic() - started) / number * (len(todo) - number)
        print(f"acceptance length {lengths}; about {left / 60:.0f} min left", file=sys.stderr)


def _time_missing(study: Study, one: Arm, two: Arm) -> None:
    todo = [seed for seed in study.config.seeds if _speed_name(seed) not in study.store]
    for seed in todo:
        print(f"\ntokens/s: seed {seed}, {one} and {two} in turn", file=sys.stderr)
        drafts = {arm.name: study.output / study.store.load(_row_name(arm, seed))["draft"] for arm in (one, two)}
        seconds = seconds_in_turn(
            study.config,
            [prompt.token_ids for prompt in study.data.prompts[: study.config.speed_prompts]],
            drafts,
            target=study.target,
            dtype=study.dtype,
            log=study.output / "logs" / f"{_speed_name(seed)}.log",
        )
        content = {"seed": seed, "seconds": seconds, "made_with": study.made_with}
        study.store.save(_speed_name(seed), "speed", content | {"max_tokens": study.config.max_tokens})


def _length(found: dict[str, Any]) -> float:
    num_accepted: int = sum(map(sum, found["accepted_per_position"]))
    num_drafts: int = sum(found["num_drafts"])
    return 1 + num_accepted / num_drafts


def _kind(arm: Arm) -> str:
    """Of rows that depend on the same data."""
    return f"arm-{'-'.join(arm.stages)}-{arm.vocabulary}"


def _row_name(arm: Arm, seed: int) -> str:
    return f"{arm.name}-s{seed}"


def _speed_name(seed: int) -> str:
    return f"speed-vocabulary-s{seed}"
