"""A drafter and the target that it is to be used with."""

from pathlib import Path
from typing import Any

from torch import Tensor

from vllm_mtp.common.errors import InputError
from vllm_mtp.contract.checkpoint import load_draft
from vllm_mtp.contract.config import MTPConfig
from vllm_mtp.contract.pair import why_another_target
from vllm_mtp.training.frozen.target import config_and_tokenizer


def load_draft_of(target: str, draft: Path, **source: Any) -> tuple[MTPConfig, dict[str, Tensor], Any]:
    """A finished drafter of this target.

    Args:
        target: folder or Hub id.
        draft: folder of the drafter.
        source: revision and trust_remote_code of the target.

    Returns:
        The drafter's config and tensors, and the target's config of transformers.

    Raises:
        InputError: for a folder that is no drafter's, or a drafter of another target.
    """
    try:
        config, tensors = load_draft(draft)
    except ValueError as error:
        raise InputError("draft", str(error)) from error
    target_config, tokenizer = config_and_tokenizer(target, **source)
    check_pair(config, target, target_config, tokenizer)
    return config, tensors, target_config


def check_pair(draft: MTPConfig, target: str, target_config: Any, tokenizer: Any) -> None:
    """Refuses a drafter of another target.

    Args:
        draft: the drafter's config.
        target: folder or Hub id.
        target_config, tokenizer: the target's (`training.frozen.target.config_and_tokenizer`).

    Raises:
        InputError: for another hidden size, vocabulary size or tokenizer.
    """
    text_config = target_config.get_text_config()
    fault = why_another_target(
        draft,
        target=target,
        hidden_size=text_config.hidden_size,
        vocab_size=text_config.vocab_size,
        vocabulary=tokenizer.get_vocab(),
    )
    if fault:
        raise InputError("draft", fault)
