"""A drafter without training: what it costs to serve one can be measured before there is one."""

# Shapes: J draft vocabulary.

from pathlib import Path
from typing import Any

import torch

from vllm_mtp.common.errors import InputError
from vllm_mtp.contract.checkpoint import save_draft
from vllm_mtp.contract.config import MTPConfig
from vllm_mtp.training.config import TrainConfig
from vllm_mtp.training.frozen.target import config_and_tokenizer
from vllm_mtp.training.start.initial import draft_config_for, make_module


def write_untrained(
    target: str, folder: Path, config: TrainConfig, *, draft_vocab_size: int | None = None, **source: Any
) -> None:
    """Writes a drafter of random weights, in the shape that `vllm-mtp train` would give it, without lookup.

    Args:
        target: folder or Hub id; its weights are not read.
        folder: of the drafter.
        config: settings of training, of which those of the shape count.
        draft_vocab_size: tokens that it may draft, evenly spaced in the target's vocabulary; None: all.
        source: revision and trust_remote_code of the target.

    Raises:
        ValueError: for a target that cannot be read, or a draft vocabulary that is larger than its own.
    """
    target_config, _ = config_and_tokenizer(target, **source)
    text_config = target_config.get_text_config()
    draft_ids_J = None
    if draft_vocab_size is not None:
        if draft_vocab_size > text_config.vocab_size:
            expected = f"expected at most the {text_config.vocab_size} tokens of the target"
            raise InputError("draft_vocab_size", f"{expected}, got {draft_vocab_size}")
        draft_ids_J = torch.linspace(0, text_config.vocab_size - 1, draft_vocab_size, dtype=torch.float64).long()
    shape = draft_config_for(text_config, config, {}, draft_ids_J)
    draft: MTPConfig = MTPConfig.from_dict(shape.contract() | {"lookup": None, "target_fingerprint": None})
    tensors = make_module(draft, draft_ids_J, seed=0).state_dict()
    in_bfloat16 = {name: one.bfloat16() if one.is_floating_point() else one for name, one in tensors.items()}
    save_draft(folder, draft, in_bfloat16)
