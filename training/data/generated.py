"""Conversations that `vllm-mtp generate` wrote, as rows."""

import json
from pathlib import Path
from typing import Any

import torch

from vllm_mtp.common.errors import InputError
from vllm_mtp.contract.fingerprint import tokenizer_sha256
from vllm_mtp.training.checkpoint import RUN_INFO
from vllm_mtp.training.data.conversations import CONVERSATIONS_FILE, Conversation, load_conversations
from vllm_mtp.training.data.rows import Row, Source, conversation_source


def is_generated(path: Path) -> bool:
    """Whether a path is what `vllm-mtp generate` writes."""
    return path.suffix == ".npz" or (path / CONVERSATIONS_FILE).is_file()


def names_its_tokenizer(path: Path) -> bool:
    """Whether a path says which tokenizer it was written with; an .npz alone does not."""
    return (path / RUN_INFO).is_file()


def generated_source(path: Path, tokenizer: Any, longest: int | None, max_tokens: int, loss_on: str) -> Source:
    """Rows of a folder or .npz file of `vllm-mtp generate`.

    Args:
        path: of it.
        tokenizer: the target's.
        longest: tokens that a row is cut off at; None: conversations stay whole.
        max_tokens: reads no more than about this many.
        loss_on: "all", or "answers": those of the target.

    Raises:
        ValueError: for a file that is damaged, or was written with another tokenizer.
    """
    _check_tokenizer(path, tokenizer)
    try:
        conversations = load_conversations(path)
    except ValueError as error:
        raise InputError("data", str(error)) from error
    rows = (_row(conversation, loss_on) for conversation in conversations)
    return conversation_source(str(path), rows, longest, max_tokens)


def _row(conversation: Conversation, loss_on: str) -> Row:
    ids_L = torch.tensor(conversation.ids, dtype=torch.int32)
    if loss_on == "all":
        return Row.counted_from(ids_L, 1)
    return Row.counted_in(ids_L, conversation.answers)


def _check_tokenizer(path: Path, tokenizer: Any) -> None:
    """Refuses a folder of `vllm-mtp generate` whose target had another tokenizer."""
    if not names_its_tokenizer(path):
        return
    target = json.loads((path / RUN_INFO).read_text(encoding="utf-8"))["target"]
    if target["tokenizer_sha256"] != tokenizer_sha256(tokenizer.get_vocab()):
        raise InputError(
            "data",
            f"expected conversations in the target's own tokens, got {path}, which {target['name']} wrote with "
            "another tokenizer",
        )
