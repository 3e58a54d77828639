"""An answer of the target as the message that a server gives back, to be put before the next turn."""

from collections.abc import Sequence
from typing import Any

from vllm_mtp.training.data.chat.dialog import Message


def answer_message(tokenizer: Any, ids: Sequence[int], *, ended: bool) -> Message:
    """A message of the assistant.

    Args:
        tokenizer: the target's.
        ids: the answer.
        ended: whether its last token is the one that ended it. The server leaves that out, special token or not.
    """
    text = tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=True)
    return {"role": "assistant", "content": text}
