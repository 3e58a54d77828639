"""`vllm-mtp eval`: speculative decoding in plain PyTorch, exact and batch 1.

The target is run by transformers in float32 with a KV cache, the drafter by `DraftLoop`. Greedy verification accepts a
draft token that is the target's argmax. Sampling accepts draft token x with probability min(1, p(x) / q(x)) and draws
the recovered token from max(p - q, 0), so that the output is distributed as the target's own. No clock is read here:
acceptance is exact, speed is vLLM's to show.

A target with a chat template is asked through it and its answers end where it ends them, as when it is served. Without
one, or where it is switched off, a prompt is text to be continued, max_tokens long whatever comes.
"""

# Shapes: P prompt tokens, K draft tokens, V vocabulary, D hidden size.

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from vllm_mtp.benchmarks.harness.acceptance import Acceptance, acceptance_length_interval, total
from vllm_mtp.benchmarks.harness.prompts import tokenized
from vllm_mtp.benchmarks.simulation.config import SimulationConfig
from vllm_mtp.common.errors import InputError
from vllm_mtp.common.files import write_atomically
from vllm_mtp.contract.checkpoint import load_draft
from vllm_mtp.module.draft_loop import SOURCES, DraftLoop
from vllm_mtp.module.mtp import MTPModule
from vllm_mtp.training.data.prompts import read_prompts
from vllm_mtp.training.data.repetition import ends_in_loop, loop_window
from vllm_mtp.training.target.frozen import FrozenTarget, end_ids


class Sampler:
    """Chooses and verifies tokens at one temperature; 0 is greedy."""

    def __init__(self, temperature: float, seed: int) -> None:
        self.temperature = temperature
        self.generator = torch.Generator().manual_seed(seed)

    def probabilities(self, logits_V: Tensor) -> Tensor:
        return (logits_V.float() / self.temperature).softmax(-1)

    def choose(self, logits_V: Tensor) -> int:
        if self.temperature == 0:
            return int(logits_V.argmax())
        return self._draw(self.probabilities(logits_V))

    def accepts(self, draft: int, target_logits_V: Tensor, draft_logits_V: Tensor) -> bool:
        if self.temperature == 0:
            return draft == int(target_logits_V.argmax())
        p, q = self.probabilities(target_logits_V)[draft], self.probabilities(draft_logits_V)[draft]
        return bool(torch.rand((), generator=self.generator) * q < p)

    def recover(self, target_logits_V: Tensor, draft_logits_V: Tensor) -> int:
        """The token in place of a rejected one."""
        if self.temperature == 0:
            return int(target_logits_V.argmax())
        residual_V = (self.probabilities(target_logits_V) - self.probabilities(draft_logits_V)).clamp(min=0)
        return self._draw(residual_V)

    def _draw(self, weights_V: Tensor) -> int:
        return int(torch.multinomial(weights_V.cpu(), 1, generator=self.generator))


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """Where draft tokens came from: "module", "lookup", or "guess" (vllm_mtp.module.draft_loop.Draft)."""

    num_drafts: int = 0
    num_matched: int = 0
    """Drafts whose first token was copied: the text matched before the module had drafted anything."""
    drafted: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of_round(cls, sources: Sequence[str], num_accepted: int) -> "Sources":
        return cls(
            num_drafts=1,
            num_matched=int(sources[0] == "lookup"),
            drafted=Counter(sources),
            accepted=Counter(sources[:num_accepted]),
        )

    def __add__(self, other: "Sources") -> "Sources":
        return Sources(
            num_drafts=self.num_drafts + other.num_drafts,
            num_matched=self.num_matched + other.num_matched,
            drafted=self.drafted + other.drafted,
            accepted=self.accepted + other.accepted,
        )

    def figures(self) -> dict[str, Any]:
        return {
            "num_drafts": self.num_drafts,
            "share_of_drafts_matched": round(self.num_matched / self.num_drafts, 4) if self.num_drafts else 0.0,
            "drafted_by_source": dict(self.drafted),
            "accepted_by_source": dict(self.accepted),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Generated:
    """What one prompt gave."""

    token_ids: list[int]
    acceptance: Acceptance
    sources: Sources


@torch.inference_mode()
def generate(
    target: FrozenTarget,
    module: MTPModule | None,
    prompt_ids_P: Tensor,
    *,
    num_speculative_tokens: int,
    max_tokens: int,
    sampler: Sampler,
    end_ids: Collection[int] = (),
) -> Generated:
    """Generates max_tokens tokens, drafting num_speculative_tokens of them per round (0: none).

    The first of end_ids ends the output, and is its last token. The round that brings it counts whole, as in vLLM.
    """
    from transformers import DynamicCache

    # Without the config, which would make caches of the sliding window's length: those forget what a rejected draft
    # token has pushed out. The window is in the attention mask all the same.
    cache = DynamicCache()

    def forward(ids: Tensor) -> tuple[Tensor, Tensor]:
        output = target.model.base_model(input_ids=ids[None], past_key_values=cache, use_cache=True)
        hidden_TD = output.last_hidden_state[0]
        return hidden_TD, target.head.logits(hidden_TD)

    loop = DraftLoop(module, target.head) if module is not None else None
    hidden_TD, logits_TV = forward(prompt_ids_P)
    generated = [sampler.choose(logits_TV[-1])]
    next_ids_T = torch.cat((prompt_ids_P[1:], prompt_ids_P.new_tensor(generated)))
    rounds, num_new, sources = [], 1, Sources()
    while len(generated) < max_tokens and not any(token in end_ids for token in generated[-num_new:]):
        num_drafts = min(num_speculative_tokens, max_tokens - len(generated) - 1)
        drafts: list[int] = []
        draft_logits_KV, draft_sources = logits_TV[:0], []
        if loop is not None and num_drafts > 0:
            draft = loop.propose(hidden_TD, next_ids_T, num_drafts, sampler.choose)
            drafts, draft_logits_KV, draft_sources = draft.tokens, draft.logits_KV, draft.sources
        hidden_TD, logits_TV = forward(prompt_ids_P.new_tensor([generated[-1], *drafts]))
        new_ids: list[int] = []
        for token, target_logits_V, draft_logits_V in zip(drafts, logits_TV, draft_logits_KV, strict=False):
            if not sampler.accepts(token, target_logits_V, draft_logits_V):
                new_ids.append(sampler.recover(target_logits_V, draft_logits_V))
                break
            new_ids.append(token)
        else:
            new_ids.append(sampler.choose(logits_TV[len(drafts)]))
        rounds.append((len(drafts), len(new_ids) - 1))
        if drafts:
            sources += Sources.of_round(draft_sources, len(new_ids) - 1)
        generated += new_ids
        num_new = len(new_ids)
        hidden_TD, next_ids_T = hidden_TD[: len(new_ids)], prompt_ids_P.new_tensor(new_ids)
        if num_rejected := len(drafts) + 1 - len(new_ids):
            cache.crop(-num_rejected)
    end = next((index for index, token in enumerate(generated) if token in end_ids), max_tokens)
    return Generated(
        token_ids=generated[: end + 1],
        acceptance=Acceptance.of_rounds(rounds, num_speculative_tokens),
        sources=sources,
    )


def simulate(config: SimulationConfig, *, target: str, draft: Path, prompts: Path, output: Path | None) -> int:
    """Runs every K and temperature over all prompts, prints a table and writes the figures as JSON.

    Returns:
        0, or 1 if a greedy output differs from the target's own.

    Raises:
        ValueError: for a target, drafter or prompt file that cannot be used, before anything is run.
    """
    read = read_prompts([prompts])
    draft_config, tensors = load_draft(draft)
    frozen = FrozenTarget.load(target, dtype="float32")
    _check_pair(draft_config.target_fingerprint, frozen.fingerprint())
    module = MTPModule(draft_config)
    module.load_state_dict(tensors)
    module.float().to(frozen.device)
    chat = bool(frozen.tokenizer.chat_template) and not config.no_chat_template
    ids_of_prompts = [prompt.token_ids for prompt in tokenized(read, frozen.tokenizer, chat=chat)]
    if chat:
        ids_of_prompts = [ids for ids in ids_of_prompts if len(ids) <= config.max_prompt_tokens]
    if not ids_of_prompts:
        raise InputError(
            "prompts",
            f"all {len(read)} are longer than {config.max_prompt_tokens} tokens in the target's chat template; give "
            "shorter ones or a larger max_prompt_tokens",
        )
    prompt_ids = [torch.tensor(ids[-config.max_prompt_tokens :], device=frozen.device) for ids in ids_of_prompts]
    stops = end_ids(target, frozen.config, frozen.tokenizer) if chat else frozenset()
    rows = []
    for temperature in config.temperature:
        reference: list[list[int]] = []
        for k in (0, *config.num_speculative_tokens):
            if k == 0 and temperature > 0:
                continue
            runs = [
                generate(
                    frozen,
                    module if k else None,
                    ids,
                    num_speculative_tokens=k,
                    max_tokens=config.max_tokens,
                    sampler=Sampler(temperature, config.seed + number),
                    end_ids=stops,
                )
                for number, ids in enumerate(tqdm(prompt_ids, desc=f"temperature {temperature:g}, k {k}", leave=False))
            ]
            if k == 0:
                reference = [run.token_ids for run in runs]
            else:
                rows.append(_row(k, temperature, runs, reference, loop_window(config.max_tokens)))
    how = "in the target's chat template" if chat else "as text to be continued"
    print(f"{len(prompt_ids)} prompts {how}, {len(read) - len(prompt_ids)} left out as too long")
    print(_table(rows))
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        result = {
            "target": frozen.name,
            "draft": draft.name,
            "prompts": prompts.name,
            "config": asdict(config),
            "chat_template": chat,
            "num_left_out": len(read) - len(prompt_ids),
        }
        write_atomically(output, json.dumps(result | {"rows": rows}, indent=1) + "\n")
    return int(any(row["num_identical"] not in (None, row["num_prompts"]) for row in rows))


def _check_pair(fingerprint: dict[str, Any] | None, found: dict[str, Any]) -> None:
    for name in ("hidden_size", "vocab_size", "tokenizer_sha256"):
        if fingerprint and fingerprint.get(name, found[name]) != found[name]:
            raise InputError(
                "draft",
                f"this drafter was made for another target ({fingerprint.get('name', 'not named')}): {name} "
                f"{fingerprint[name]}, {found['name']} has {found[name]}",
            )


def _row(
    k: int, temperature: float, runs: Sequence[Generated], reference: Sequence[list[int]], window: int
) -> dict[str, Any]:
    outputs, counts = [run.token_ids for run in runs], [run.acceptance for run in runs]
    acceptance = total(counts)
    straight = [part for ids, part in zip(outputs, counts, strict=True) if not ends_in_loop(ids, window=window)]
    return {
        "num_speculative_tokens": k,
        "temperature": temperature,
        "acceptance_length": round(acceptance.acceptance_length, 4),
        "acceptance_length_95": [round(bound, 4) for bound in acceptance_length_interval(counts)],
        "acceptance_rate_per_position": [round(rate, 4) for rate in acceptance.acceptance_rate_per_position],
        "num_loops": len(outputs) - len(straight),
        "acceptance_length_without_loops": round(total(straight).acceptance_length, 4) if straight else None,
        "num_identical": sum(a == b for a, b in zip(outputs, reference, strict=True)) if temperature == 0 else None,
        "num_prompts": len(outputs),
        **sum((run.sources for run in runs), Sources()).figures(),
    }


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "acceptance length with 95% interval over prompts",
        "temperature  k  length  [95%]         without loops (loops)  identical  matched  accepted per draft from "
        "module + lookup + guess  rate per position",
    ]
    for row in rows:
        low, high = row["acceptance_length_95"]
        without = row["acceptance_length_without_loops"]
        identical = "-" if row["num_identical"] is None else f"{row['num_identical']}/{row['num_prompts']}"
        rates = " ".join(f"{rate:.2f}" for rate in row["acceptance_rate_per_position"])
        lines.append(
            f"{row['temperature']:<11g} {row['num_speculative_tokens']:>2}  {row['acceptance_length']:.2f}    "
            f"[{low:.2f}, {high:.2f}]  {'-' if without is None else f'{without:.2f}'} ({row['num_loops']})"
            f"{'':<14} {identical:<9}  {row['share_of_drafts_matched']:.2f}     {_by_source(row):<50} {rates}"
        )
    return "\n".join(lines)


def _by_source(row: Mapping[str, Any]) -> str:
    return " + ".join(f"{row['accepted_by_source'].get(name, 0) / max(1, row['num_drafts']):.2f}" for name in SOURCES)
