"""`vllm-mtp eval`: acceptance of a drafter without vLLM.

The target is in float32. No clock is read here: acceptance is exact, speed is vLLM's to show.

A target with a chat template is asked through it and its answers end where it ends them, as when it is served. Without
one, or where it is switched off, a prompt is text to be continued, max_tokens long whatever comes.
"""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vllm_mtp.benchmarks.harness.figures import figures
from vllm_mtp.benchmarks.harness.prompts import tokenized
from vllm_mtp.benchmarks.simulation.config import SimulationConfig
from vllm_mtp.benchmarks.simulation.speculate import Simulated, generate_all, load_module
from vllm_mtp.benchmarks.simulation.table import table
from vllm_mtp.common.errors import InputError
from vllm_mtp.common.files import write_atomically
from vllm_mtp.contract.pair import beyond_training
from vllm_mtp.training.data.chat.template import ChatTemplate
from vllm_mtp.training.data.prompts import read_prompts
from vllm_mtp.training.frozen.context import context_of
from vllm_mtp.training.frozen.pair import check_pair
from vllm_mtp.training.frozen.target import FrozenTarget, config_and_tokenizer, end_ids


def simulate(
    config: SimulationConfig,
    *,
    target: str,
    draft: Path,
    prompts: Path,
    output: Path | None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> int:
    """Runs every K and temperature over all prompts, prints a table and writes the figures as JSON.

    Returns:
        0, or 1 if a greedy output differs from the target's own.

    Raises:
        ValueError: for a target, drafter or prompt file that cannot be used, before anything is run.
    """
    source: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    read = read_prompts([prompts])
    module = load_module(draft)
    target_config, tokenizer = config_and_tokenizer(target, by_transformers=True, **source)
    check_pair(module.config, target, target_config, tokenizer)
    template = ChatTemplate(tokenizer, config.template, plain=config.no_chat_template)
    chat = not template.is_plain
    ids_of_prompts = [prompt.token_ids for prompt in tokenized(read, template)]
    if chat:
        ids_of_prompts = [ids for ids in ids_of_prompts if len(ids) <= config.max_prompt_tokens]
    if not ids_of_prompts:
        raise InputError(
            "prompts",
            f"all {len(read)} are longer than {config.max_prompt_tokens} tokens in the target's chat template; give "
            "shorter ones or a larger max_prompt_tokens",
        )
    ids_of_prompts = [ids[-config.max_prompt_tokens :] for ids in ids_of_prompts]
    _check_ids(ids_of_prompts, target_config.get_text_config().vocab_size, len(tokenizer))
    longest, context = max(map(len, ids_of_prompts)), context_of(target_config)
    if context is not None and longest + config.max_tokens > context:
        raise InputError(
            "max_tokens",
            f"expected room for them in the target's context of {context:,} tokens beside a prompt of {longest:,}, got "
            f"{config.max_tokens:,}; max_prompt_tokens leaves longer prompts out, or cuts text",
        )
    if text := beyond_training(module.config, longest + config.max_tokens):
        print(f"Warning: {text}", file=sys.stderr)
    stops = end_ids(target, target_config, tokenizer, revision=revision) if chat else frozenset()
    frozen = FrozenTarget.load(target, dtype="float32", **source)
    module.to(frozen.device)

    def run(k: int, temperature: float) -> list[Simulated]:
        return generate_all(
            frozen,
            module if k else None,
            tqdm(ids_of_prompts, desc=f"temperature {temperature:g}, k {k}", leave=False),
            num_speculative_tokens=k,
            max_tokens=config.max_tokens,
            temperature=temperature,
            top_p=config.top_p,
            top_k=config.top_k,
            seed=config.seed,
            end_ids=stops,
        )

    rows = []
    for temperature in config.temperature:
        plain = run(0, temperature) if temperature == 0 else None
        for k in config.num_speculative_tokens:
            runs = run(k, temperature)
            found = figures(runs, max_tokens=config.max_tokens, without_speculation=plain)
            rows.append({"num_speculative_tokens": k, "temperature": temperature, **asdict(found), **sources_of(runs)})
    how = "in the target's chat template" if chat else "as text to be continued"
    print(f"{len(ids_of_prompts)} prompts {how}, {len(read) - len(ids_of_prompts)} left out as too long")
    print(table(rows))
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        result = {
            "target": frozen.name,
            "draft": draft.name,
            "prompts": prompts.name,
            "config": config.stored(),
            "chat_template": chat,
            "num_left_out": len(read) - len(ids_of_prompts),
        }
        write_atomically(output, json.dumps(result | {"rows": rows}, indent=1) + "\n")
    return int(any(row["num_identical"] not in (None, row["num_prompts"]) for row in rows))


def _check_ids(ids_of_prompts: Sequence[Sequence[int]], vocab_size: int, num_tokens: int) -> None:
    """Refuses tokens that the target has no embedding for."""
    largest = max(max(ids, default=0) for ids in ids_of_prompts)
    if largest >= vocab_size:
        raise InputError(
            "prompts",
            f"token {largest} is in them, and the target's embedding has rows 0 to {vocab_size - 1}: its "
            f"tokenizer has {num_tokens} tokens. Serving refuses such a token as well; leave it out of the "
            "prompts, or of the tokenizer",
        )


def sources_of(runs: Sequence[Simulated]) -> dict[str, Any]:
    """Where draft tokens came from, and the share of drafts whose first token was copied.

    Those are the drafts at which the text matched before the module had drafted anything.
    """
    drafts = [
        (sources, accepted)
        for run in runs
        for sources, (_, accepted) in zip(run.sources, run.rounds or (), strict=True)
        if sources
    ]
    num_matched = sum(sources[0] == "lookup" for sources, _ in drafts)
    return {
        "share_of_drafts_matched": round(num_matched / len(drafts), 4) if drafts else 0.0,
        "drafted_by_source": dict(Counter(source for sources, _ in drafts for source in sources)),
        "accepted_by_source": dict(Counter(source for sources, n in drafts for source in sources[:n])),
    }
