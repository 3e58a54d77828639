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
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vllm_mtp.benchmarks.claims.arms import EAGLE3, Arm
from vllm_mtp.benchmarks.claims.config import ClaimsConfig
from vllm_mtp.benchmarks.claims.data import Sources
from vllm_mtp.benchmarks.claims.eagle3 import eagle3
from vllm_mtp.benchmarks.claims.measure import acceptance, seconds_in_turn
from vllm_mtp.benchmarks.claims.plot import plot
from vllm_mtp.benchmarks.claims.report import result_of, table
from vllm_mtp.benchmarks.claims.rows import ArmRow, SpeedRow, arm_row
from vllm_mtp.benchmarks.claims.setup import OF_ALL_ROWS, SPEED, Study, kind_of, set_up
from vllm_mtp.benchmarks.claims.train import train_arm
from vllm_mtp.benchmarks.harness.acceptance import total
from vllm_mtp.benchmarks.harness.engine import EngineError
from vllm_mtp.benchmarks.harness.figures import ends_in_loop_of
from vllm_mtp.benchmarks.harness.report import write_report
from vllm_mtp.benchmarks.harness.row_store import RowStore, origins_of
from vllm_mtp.common.provenance import provenance, relative


def bench(config: ClaimsConfig, sources: Sources, *, target: str, output: Path, command: str) -> int:
    """Trains and measures what is not in the output folder yet, then writes results.json, table.md and plot.png.

    Returns:
        0.

    Raises:
        ValueError: for inputs that cannot be used, a folder with rows of other settings, or an engine that ended.
    """
    study = set_up(config, sources, target=target, output=output)
    store, made_with = study.store(), provenance(command, config.seeds[0])
    (output / "logs").mkdir(exist_ok=True)
    try:
        _measure_missing(study, store, made_with)
        timed = next(((c.better, c.worse) for c in study.comparisons if c.metric == SPEED), None)
        if config.speed_passes and timed:
            _time_missing(study, store, timed, made_with)
    except EngineError as error:
        print(f"\n{error}", file=sys.stderr)
        raise ValueError(f"an engine ended; its log is in {output / 'logs'}") from error
    print(write_report(_result(study, store), output, table, plot))
    return 0


def _result(study: Study, store: RowStore) -> dict[str, Any]:
    config = study.config
    arms = {(arm.name, seed): store.load(_row_name(arm, seed)) for arm in study.arms for seed in config.seeds}
    speeds = {seed: store.load(name) for seed in config.seeds if (name := _speed_name(seed)) in store}
    about = {
        "target": relative(study.target),
        **{name: getattr(config, name) for name in OF_ALL_ROWS},
        "num_prompts": len(study.data.prompts),
        "dtype": study.dtype,
        **config.engine_options.settings(),
        "data": study.data.about,
        "made_with": origins_of([*arms.values(), *speeds.values()]),
    }
    return about | result_of(
        study.comparisons,
        {key: arm_row(content) for key, content in arms.items()},
        {seed: SpeedRow(**content) for seed, content in speeds.items()},
        config.seeds,
        [len(prompt.token_ids) for prompt in study.data.prompts],
    )


def _measure_missing(study: Study, store: RowStore, made_with: dict[str, Any]) -> None:
    """Seed by seed, so that an interrupted study has whole seeds."""
    wanted = [(arm, seed) for seed in study.config.seeds for arm in study.arms]
    todo = [(arm, seed) for arm, seed in wanted if _row_name(arm, seed) not in store]
    print(f"{len(study.arms)} arms, {len(todo)} of {len(wanted)} runs to do, in {study.dtype}", file=sys.stderr)
    started = time.monotonic()
    for number, (arm, seed) in enumerate(todo, start=1):
        print(f"\n{number} of {len(todo)}: seed {seed}, {arm}", file=sys.stderr)
        name = _row_name(arm, seed)
        trained = train_arm(study, arm, seed, study.output / "drafts" / name)
        _release_memory()
        measuring = time.monotonic()
        method = eagle3(trained.draft, study.config.num_speculative_tokens) if arm.drafter == EAGLE3 else None
        records = acceptance(study, trained.draft, study.output / "logs" / f"{name}.log", method)
        by_name = {f"{temperature:g}": found for temperature, found in records.items()}
        counts = {at: [record.acceptance for record in found] for at, found in by_name.items()}
        max_tokens = study.config.max_tokens
        loops = {at: sum(ends_in_loop_of(record, max_tokens) for record in found) for at, found in by_name.items()}
        row = ArmRow(
            arm=arm.name,
            seed=seed,
            tokens_seen=trained.tokens_seen,
            distinct_tokens=trained.distinct_tokens,
            training_seconds=trained.seconds,
            measuring_seconds=round(time.monotonic() - measuring, 1),
            draft=str(trained.draft.relative_to(study.output)),
            counts=counts,
            num_loops=loops,
            made_with=made_with,
        )
        store.save(name, kind_of(arm), asdict(row))
        lengths = ", ".join(f"{total(found).acceptance_length:.3f} at temperature {t}" for t, found in counts.items())
        left = (time.monotonic() - started) / number * (len(todo) - number)
        print(f"acceptance length {lengths}; about {left / 60:.0f} min left", file=sys.stderr)


def _release_memory() -> None:
    """Gives back what training took on a GPU: the engine that follows, another process, wants it."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()


def _time_missing(study: Study, store: RowStore, arms: Sequence[Arm], made_with: dict[str, Any]) -> None:
    for seed in study.config.seeds:
        name = _speed_name(seed)
        if name in store:
            continue
        print(f"\ntokens/s: seed {seed}, {' and '.join(map(str, arms))} in turn", file=sys.stderr)
        drafts = {arm.name: study.output / store.load(_row_name(arm, seed))["draft"] for arm in arms}
        seconds = seconds_in_turn(study, drafts, study.output / "logs" / f"{name}.log")
        row = SpeedRow(seed=seed, seconds=seconds, max_tokens=study.config.max_tokens, made_with=made_with)
        store.save(name, SPEED, asdict(row))


def _row_name(arm: Arm, seed: int) -> str:
    return f"{arm.name}-s{seed}"


def _speed_name(seed: int) -> str:
    return f"speed-vocabulary-s{seed}"
