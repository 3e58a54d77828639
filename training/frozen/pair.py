"""A drafter and the target that it is to be used with."""

from typing import Any

from vllm_mtp.common.errors import InputError
from vllm_mtp.contract.config import MTPConfig
from vllm_mtp.contract.pair import why_another_target


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
