"""What `vllm-mtp tune` runs: its config made concrete, and checked, before any engine is started."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vllm_mtp.benchmarks.acceptance import setup as acceptance
from vllm_mtp.benchmarks.acceptance.config import AcceptanceConfig
from vllm_mtp.benchmarks.harness.draft_folder import lookup_of
from vllm_mtp.benchmarks.harness.engine_args import EngineArgs
from vllm_mtp.benchmarks.harness.method import OFF
from vllm_mtp.benchmarks.harness.prompts import BenchmarkPrompt
from vllm_mtp.benchmarks.tune.cells import SLICE, TURN, Space
from vllm_mtp.benchmarks.tune.config import TuneConfig
from vllm_mtp.common.errors import InputError
from vllm_mtp.common.provenance import hardware
from vllm_mtp.contract.lookup import Lookup

_SAMPLING = ("top_p", "top_k", "max_tokens", "seed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """A config made concrete for a target, a drafter and prompts."""

    config: TuneConfig
    space: Space
    engine: EngineArgs
    environment: dict[str, str]
    on_cpu: bool
    own_lookup: Lookup | None
    """What the drafter's config.json says."""
    measured: Sequence[BenchmarkPrompt]
    held_out: Sequence[BenchmarkPrompt]
    """For the verification alone."""
    settings: dict[str, Any]
    """Everything that decides figures."""


def set_up(config: TuneConfig, *, target: str, draft: Path, prompts: Path, output: Path) -> Setup:
    """Reads target, drafter and prompts as far as settings depend on them.

    Raises:
        ValueError: for a target, drafter or prompt file that cannot be used.
    """
    import torch

    found = acceptance.set_up(_as_acceptance(config), target=target, draft=draft, prompts=prompts, output=output)
    some = spread(found.prompts, config.max_prompts)
    if len(some) < 2:
        raise InputError("prompts", "expected at least two that fit, one to measure with and one to verify with")
    own, on_cpu = lookup_of(draft), not torch.cuda.is_available()
    return Setup(
        config=config,
        space=Space(config=config, lookups=lookups(config, own, on_cpu=on_cpu)),
        engine=replace(found.engine, prefix_caching=True, num_engines=1),
        environment=found.environment(),
        on_cpu=on_cpu,
        own_lookup=own,
        measured=some[::2],
        held_out=some[1::2],
        settings=found.identity
        | {name: getattr(config, name) for name in ("temperature", "top_p", "top_k", "max_tokens", "seed", "seconds")}
        | {
            "slices": [SLICE, TURN],
            "max_prompts": config.max_prompts,
            "dtype": found.engine.dtype,
            "hardware": hardware(),
        }
        | {"enforce_eager": found.engine.enforce_eager, "num_prompts": len(some)}
        | config.template_options.stored()
        | config.engine_options.settings(),
    )


def lookups(config: TuneConfig, own: Lookup | None, *, on_cpu: bool) -> list[Lookup | str]:
    """What lookup is chosen from: the drafter's own with other module_steps, or the usual one, and none."""
    base = own or Lookup()
    steps = sorted({*config.module_steps, base.module_steps}) if on_cpu else [base.module_steps]
    on = [replace(base, module_steps=number) for number in steps]
    return [*(on if config.lookup != "off" else []), *([OFF] if config.lookup != "on" else [])]


def spread(prompts: Sequence[BenchmarkPrompt], most: int) -> list[BenchmarkPrompt]:
    """At most so many prompts, from all over the file, neighbours alike; what comes first is as any other."""
    ordered = sorted(prompts, key=lambda prompt: (prompt.task, prompt.number))
    number = min(most, len(ordered))
    found = [ordered[place * len(ordered) // number] for place in range(number)]
    pairs = [found[place : place + 2] for place in range(0, number - 1, 2)]
    random.Random(0).shuffle(pairs)
    return [prompt for pair in [*pairs, found[2 * len(pairs) :]] for prompt in pair]


def _as_acceptance(config: TuneConfig) -> AcceptanceConfig:
    """What `bench acceptance` would be asked for, which reads the same inputs."""
    sampling = {name: getattr(config, name) for name in _SAMPLING}
    return AcceptanceConfig(
        **sampling | config.serving_options(),
        temperature=(config.temperature,),
        num_speculative_tokens=config.num_speculative_tokens,
        max_num_seqs=max(*config.batch_size, len(config.num_speculative_tokens) + 1),
    )
