"""The module at the start of a run: its shape from the target's, and its weights."""

# Shapes: J draft vocabulary.

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vllm_mtp.common.errors import InputError
from vllm_mtp.contract.checkpoint import load_draft, read_config
from vllm_mtp.contract.config import MTPConfig, contract_faults
from vllm_mtp.contract.lookup import Lookup
from vllm_mtp.contract.pair import why_another_target
from vllm_mtp.contract.tensors import D2T, WEIGHTS_FILE, d2t_of, draft_ids
from vllm_mtp.module.mtp import MTPModule
from vllm_mtp.training.config import TrainConfig
from vllm_mtp.training.frozen.context import context_of
from vllm_mtp.training.frozen.last_layer import last_layer_shapes
from vllm_mtp.training.frozen.shape import TargetShape

_SHAPE = ("intermediate_size", "num_attention_heads", "num_key_value_heads", "qk_norm", "attention_bias")
"""Settings of a run that decide the module's shape beside the target."""
INTO_STREAM = ("o_proj.weight", "down_proj.weight")
"""Ends of the names of projections into the residual stream."""
SIZE_INTO_STREAM = 0.5
"""Their size beside that of other matrices, where both are random."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionKind:
    """Which tensors of the contract an attention has besides its four matrices."""

    qk_norm: bool = False
    attention_bias: bool = False

    @classmethod
    def of_target(cls, config: Any, head_dim: int) -> "AttentionKind":
        """That of the last layer of a target with this config; neither, where its layers have other names."""
        shapes = last_layer_shapes(config)
        return cls(
            qk_norm=shapes.get("self_attn.q_norm.weight") == (head_dim,),
            attention_bias="self_attn.q_proj.bias" in shapes,
        )

    @classmethod
    def of_draft(cls, fields: Mapping[str, Any]) -> "AttentionKind":
        """That of a finished drafter, from its config.json."""
        return cls(**{name: fields.get(name, False) for name in ("qk_norm", "attention_bias")})


def draft_config_for(
    target: Any,
    config: TrainConfig,
    fingerprint: dict[str, Any],
    draft_ids_J: Tensor | None = None,
    initial: Path | None = None,
) -> MTPConfig:
    """The module's shape: that of the target's last layer, unless the config says otherwise.

    Args:
        target: its text model's config.
        config: what is said of the shape.
        fingerprint: of the target.
        draft_ids_J: the draft vocabulary; None: the whole vocabulary.
        initial: folder of a drafter to go on from, whose kind of attention it is then, and whose head's dtype.

    Raises:
        ValueError: if the resulting shape breaks the checkpoint contract, or the target's context is too short.
    """
    shape = TargetShape.of(target)
    max_length = context_of(target)
    if max_length is not None and config.sequence_length > max_length:
        raise InputError("sequence_length", f"expected at most the target's {max_length}, got {config.sequence_length}")
    heads = config.num_attention_heads or shape.num_attention_heads
    kv_heads = config.num_key_value_heads or shape.num_key_value_heads
    known = {} if initial is None else _known(initial)
    kind = AttentionKind.of_target(target, shape.head_dim) if initial is None else AttentionKind.of_draft(known)
    asked = {name: getattr(config, name) for name in ("qk_norm", "attention_bias")}
    kind = replace(kind, **{name: value for name, value in asked.items() if value is not None})
    fields = {
        "hidden_size": shape.hidden_size,
        "intermediate_size": config.intermediate_size or shape.intermediate_size,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": shape.head_dim,
        "rms_norm_eps": shape.rms_norm_eps,
        "vocab_size": shape.vocab_size,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta},
        "qk_norm": kind.qk_norm,
        "attention_bias": kind.attention_bias,
        "target_fingerprint": fingerprint,
        "draft_vocab_size": None if draft_ids_J is None else len(draft_ids_J),
        "draft_head_dtype": known.get("draft_head_dtype"),
        "lookup": Lookup().fields(),
    }
    if faults := contract_faults(fields):  # there is no config.json yet that could be at fault
        raise ValueError(f"there is no module of that shape: {'; '.join(faults)}")
    draft: MTPConfig = MTPConfig.from_dict(fields)
    return draft


def _known(initial: Path) -> dict[str, Any]:
    """config.json of a drafter to go on from.

    Raises:
        InputError: if the folder is not that of a drafter.
    """
    try:
        return read_config(initial)
    except ValueError as error:
        raise InputError("initial", str(error)) from error


def make_module(
    draft_config: MTPConfig, draft_ids_J: Tensor | None, seed: int, initial: dict[str, Tensor] | None = None
) -> MTPModule:
    """A module with random weights, or with those of `initial_tensors`."""
    torch.manual_seed(seed)
    module = MTPModule(draft_config)
    initialize(module, draft_ids_J)
    if initial is not None:
        module.load_state_dict(initial)
    return module


@torch.no_grad()
def initialize(module: MTPModule, draft_ids_J: Tensor | None = None) -> None:
    """Normal weights of deviation fan-in^-1/2, half of that for projections into the residual stream; unit norms."""
    for name, parameter in module.named_parameters():
        if parameter.ndim == 2:
            scale = SIZE_INTO_STREAM if name.endswith(INTO_STREAM) else 1.0
            nn.init.normal_(parameter, std=scale * parameter.size(1) ** -0.5)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
    if draft_ids_J is not None:
        assert module.d2t is not None
        module.d2t.copy_(d2t_of(draft_ids_J))


def initial_tensors(
    folder: Path, draft: MTPConfig, draft_ids_J: Tensor | None, *, target: str, vocabulary: Mapping[str, int]
) -> dict[str, Tensor]:
    """The tensors of a finished drafter, to go on from. Its weights serve any draft vocabulary.

    Args:
        folder: of that drafter.
        draft: the shape of the module that takes them.
        draft_ids_J: that module's draft vocabulary, whatever the drafter's; None: the whole vocabulary.
        target: folder or Hub id.
        vocabulary: ids of the target's tokens.

    Raises:
        ValueError: if the folder is not that of a drafter, or has another tokenizer or shape; or a draft vocabulary,
            and the run none.
    """
    try:
        config, tensors = load_draft(folder)
    except ValueError as error:
        raise InputError("initial", str(error)) from error
    fault = why_another_target(
        config, target=target, hidden_size=draft.hidden_size, vocab_size=draft.vocab_size, vocabulary=vocabulary
    )
    if fault:
        raise InputError("initial", f"{folder}: {fault}")
    before, now = config.tensor_shapes(), draft.tensor_shapes()
    if before | {D2T: ()} != now | {D2T: ()}:
        others = [f"{name} {getattr(config, name)}" for name in _SHAPE if getattr(config, name) != getattr(draft, name)]
        raise InputError(
            "initial",
            f"{folder} has another shape than this run; repeat the settings that made it: {', '.join(others)}",
        )
    if D2T in before and draft_ids_J is None:
        raise InputError(
            "initial",
            f"{folder} drafts {config.draft_vocab_size:,} tokens: give the draft_vocab that made it or another",
        )
    if draft_ids_J is not None:
        tensors[D2T] = d2t_of(draft_ids_J)
    return tensors


def origin(folder: Path, fingerprint: Mapping[str, Any], draft_ids_J: Tensor | None) -> str:
    """A line that says which drafter a run goes on from, whether its target had other weights, and what it drafts anew.

    Args:
        folder: of that drafter.
        fingerprint: of the run's target.
        draft_ids_J: draft vocabulary of the run; None: the whole vocabulary.
    """
    from safetensors import safe_open

    made_for = read_config(folder).get("target_fingerprint") or {}
    known, found = made_for.get("weights_sha256"), fingerprint["weights_sha256"]
    others = ", whose embedding or head were others: a fine-tuned target?" if known and known != found else ""
    anew = ""
    with safe_open(str(folder / WEIGHTS_FILE), framework="pt") as file:  # of all tensors this one alone
        before_J = draft_ids(file.get_tensor(D2T)) if D2T in file.keys() else None
    if draft_ids_J is not None and before_J is not None:
        num_new = int((~torch.isin(draft_ids_J, before_J)).sum())
        anew = f"; {num_new:,} of the {len(draft_ids_J):,} drafted tokens it did not draft" if num_new else ""
    return f"goes on from {folder}, made for {made_for.get('name', 'a target not named')}{others}{anew}"


def trained_length(rows: Iterable[Tensor], initial: Path | None) -> int:
    """The longest context of a run in tokens: of its rows, or of the drafter that it goes on from.

    Args:
        rows: token ids of each row; the last of a row is predicted only.
        initial: folder of that drafter.
    """
    earlier = 0 if initial is None else read_config(initial).get("trained_length") or 0
    return max([earlier, *(len(ids_L) - 1 for ids_L in rows)])
