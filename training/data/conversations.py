"""Conversations that a target wrote: token ids with the length of each prompt, which is the loss mask, in one file."""

# Shapes: N tokens of all conversations, M conversations.

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

CONVERSATIONS_FILE = "conversations.npz"
_SHINGLE = 8
_MAX_SEEN_SHARE = 0.7


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """A prompt and its answer."""

    ids: tuple[int, ...]
    """Token ids, chat template included; the answer's end-of-turn token too, where it came to an end."""
    prompt_length: int
    """Tokens before the answer."""
    temperature: float
    """Sampling temperature of the answer; 0: greedy."""

    @property
    def answer(self) -> tuple[int, ...]:
        return self.ids[self.prompt_length :]


def save_conversations(path: Path, conversations: Sequence[Conversation]) -> None:
    """Writes conversations to an .npz file, complete or not at all; ids as uint16 where they fit."""
    ids_N = np.array([token for c in conversations for token in c.ids], dtype=np.uint32)
    if not len(ids_N) or ids_N.max() < 2**16:
        ids_N = ids_N.astype(np.uint16)
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.savez_compressed(
            file,
            ids=ids_N,
            length=np.array([len(c.ids) for c in conversations], dtype=np.int32),
            prompt_length=np.array([c.prompt_length for c in conversations], dtype=np.int32),
            temperature=np.array([c.temperature for c in conversations], dtype=np.float32),
        )
    os.replace(temporary, path)


def load_conversations(path: Path) -> list[Conversation]:
    """Reads what `save_conversations` wrote; a folder stands for the conversations.npz in it.

    Raises:
        ValueError: for a file that is missing, damaged or holds something else.
    """
    path = path / CONVERSATIONS_FILE if path.is_dir() else path
    try:
        with np.load(path, allow_pickle=False) as arrays:
            ids_N, length_M, prompt_M = arrays["ids"], arrays["length"], arrays["prompt_length"]
            temperature_M = arrays["temperature"]
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise ValueError(f"expected conversations of `vllm-mtp generate` in {path}: {error}") from error
    if length_M.sum() != len(ids_N) or len(prompt_M) != len(length_M) or (prompt_M > length_M).any():
        raise ValueError(f"{path} is damaged: its lengths do not fit its {len(ids_N)} ids")
    ends_M = length_M.cumsum()
    return [
        Conversation(
            ids=tuple(ids_N[end - n : end].tolist()), prompt_length=int(prompt), temperature=float(temperature)
        )
        for end, n, prompt, temperature in zip(ends_M, length_M, prompt_M, temperature_M, strict=True)
    ]


def without_duplicates(conversations: Iterable[Conversation]) -> tuple[list[Conversation], int, int]:
    """Drops conversations that say what earlier ones said.

    An exact duplicate has the answer of an earlier conversation to the same prompt. A near duplicate shares more than
    70% of its answer's runs of eight tokens with all conversations before it together.

    Returns:
        What is kept, in order, and the numbers of exact and of near duplicates.
    """
    kept: list[Conversation] = []
    seen_ids: set[tuple[int, ...]] = set()
    seen_shingles: set[int] = set()
    num_exact = num_near = 0
    for conversation in conversations:
        answer = conversation.answer
        shingles = {hash(answer[i : i + _SHINGLE]) for i in range(len(answer) - _SHINGLE + 1)}
        if conversation.ids in seen_ids:
            num_exact += 1
        elif shingles and len(shingles & seen_shingles) > _MAX_SEEN_SHARE * len(shingles):
            num_near += 1
        else:
            kept.append(conversation)
        seen_ids.add(conversation.ids)
        seen_shingles |= shingles
    return kept, num_exact, num_near
