"""Conversations that `vllm-mtp generate` wrote, as rows."""

from pathlib import Path
from typing import Any

from vllm_mtp.common.errors import InputError
from vllm_mtp.common.files import read_json
from vllm_mtp.contract.fingerprint import tokenizer_sha256
from vllm_mtp.training.data.conversations import CONVERSATIONS_FILE, load_conversations
from vllm_mtp.training.data.rows import Row, Source, conversation_source
from vllm_mtp.training.record import RUN_INFO


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
    rows = (Row.of_conversation(one.ids, one.answers, loss_on) for one in conversations)
    return conversation_source(str(path), rows, longest, max_tokens)


def _check_tokenizer(path: Path, tokenizer: Any) -> None:
    """Refuses a folder of `vllm-mtp generate` whose target had another tokenizer."""
    if not names_its_tokenizer(path):
        return
    info = read_json(path / RUN_INFO)
    target = info.get("target") if isinstance(info, dict) else None
    if not isinstance(target, dict) or not isinstance(target.get("tokenizer_sha256"), str):
        raise InputError(
            "data",
            f"{path / RUN_INFO} is not what `vllm-mtp generate` writes: it has no target's tokenizer_sha256. Restore "
            f"that file, or give {path / CONVERSATIONS_FILE} alone, whose tokenizer is not checked.",
        )
    if target["tokenizer_sha256"] != tokenizer_sha256(tokenizer.get_vocab()):
        raise InputError(
            "data",
            f"expected conversations in the target's own tokens, got {path}, which {target.get('name')} wrote with "
            "another tokenizer",
        )
