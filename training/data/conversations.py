"""Conversations that a target wrote: token ids, and which of them are its answers (the loss mask), in one file."""

# Shapes: N tokens of all conversations, M conversations, G spans between answers.

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np

from vllm_mtp.common.files import replacing

CONVERSATIONS_FILE = "conversations.npz"
_SHINGLE = 8
_MANY = 64
"""A run that so many kept answers have says nothing of one of them; more are not remembered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """A prompt and its answer, or several of both in turn."""

    ids: tuple[int, ...]
    """Token ids, chat template included; an answer's end-of-turn token too, where it came to an end."""
    prompt_length: int
    """Tokens before the first answer."""
    temperature: float
    """Sampling temperature of the answers; 0: greedy."""
    given: tuple[tuple[int, int], ...] = ()
    """Start and stop of what is between answers, in order: later turns of the user."""

    @property
    def answers(self) -> tuple[tuple[int, int], ...]:
        """Start and stop of each answer."""
        starts = (self.prompt_length, *(stop for _, stop in self.given))
        stops = (*(start for start, _ in self.given), len(self.ids))
        return tuple(zip(starts, stops, strict=True))

    @property
    def answer(self) -> tuple[int, ...]:
        """Token ids of the answers, one after another."""
        return tuple(token for start, stop in self.answers for token in self.ids[start:stop])


def save_conversations(path: Path, conversations: Sequence[Conversation]) -> None:
    """Writes conversations to an .npz file, complete or not at all; ids as uint16 where they fit.

    Raises:
        OSError: for a full disk or a read-only folder.
    """
    ids_N = np.array([token for c in conversations for token in c.ids], dtype=np.uint32)
    if not len(ids_N) or ids_N.max() < 2**16:
        ids_N = ids_N.astype(np.uint16)
    arrays = {
        "ids": ids_N,
        "length": np.array([len(c.ids) for c in conversations], dtype=np.int32),
        "prompt_length": np.array([c.prompt_length for c in conversations], dtype=np.int32),
        "temperature": np.array([c.temperature for c in conversations], dtype=np.float32),
    }
    if any(c.given for c in conversations):
        arrays["num_given"] = np.array([len(c.given) for c in conversations], dtype=np.int32)
        arrays["given"] = np.array([span for c in conversations for span in c.given], dtype=np.int32)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


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
            num_given_M = arrays["num_given"] if "num_given" in arrays else np.zeros_like(length_M)
            given_G2 = arrays["given"] if "given" in arrays else np.zeros((0, 2), dtype=np.int32)
    except MemoryError:
        raise
    except Exception as error:  # of numpy and zipfile, of any kind where bytes are not what they should be
        raise ValueError(f"expected conversations of `vllm-mtp generate` in {path}: {error}") from error
    one_dimensional = all(one.ndim == 1 for one in (ids_N, length_M, prompt_M, temperature_M, num_given_M))
    if not one_dimensional or given_G2.shape[1:] != (2,) or {ids_N.dtype.kind, length_M.dtype.kind} - set("iu"):
        raise ValueError(f"{path} is damaged: its arrays are not those of conversations")
    sizes = {len(length_M), len(prompt_M), len(temperature_M), len(num_given_M)}
    if length_M.sum() != len(ids_N) or len(sizes) > 1 or num_given_M.sum() != len(given_G2) or (length_M < 0).any():
        raise ValueError(f"{path} is damaged: its lengths do not fit its {len(ids_N)} ids")
    if ((ids_N < 0) | (ids_N >= 2**31)).any():
        raise ValueError(f"{path} is damaged: it holds numbers that are no token ids")
    given = iter([(int(start), int(stop)) for start, stop in given_G2])
    conversations = [
        Conversation(
            ids=tuple(ids_N[end - n : end].tolist()),
            prompt_length=int(prompt),
            temperature=float(temperature),
            given=tuple(islice(given, int(num))),
        )
        for end, n, prompt, temperature, num in zip(
            length_M.cumsum(), length_M, prompt_M, temperature_M, num_given_M, strict=True
        )
    ]
    if any(start > stop or start < 0 for c in conversations for start, stop in c.answers):
        raise ValueError(f"{path} is damaged: its lengths do not fit its {len(ids_N)} ids")
    return conversations


def without_duplicates(
    conversations: Iterable[Conversation], most_shared: float = 0.7
) -> tuple[list[Conversation], int, int]:
    """Drops conversations that say what an earlier one said.

    An exact duplicate has the answer of an earlier conversation to the same prompt. A near duplicate shares more than
    `most_shared` of its answer's runs of eight tokens with the answer of one conversation that is kept before it. Runs
    that very many kept answers have, such as the keys of one JSON schema, do not count while there are others.

    Args:
        conversations: in the order in which they win.
        most_shared: share of the runs, in [0, 1]; at 1 no near duplicate is dropped.

    Returns:
        What is kept, in order, and the numbers of exact and of near duplicates.
    """
    kept: list[Conversation] = []
    seen_ids: set[tuple[int, ...]] = set()
    holders_of: dict[int, list[int]] = {}
    num_exact = num_near = 0
    for conversation in conversations:
        if conversation.ids in seen_ids:
            num_exact += 1
            continue
        seen_ids.add(conversation.ids)
        runs = _runs(conversation.answer) if most_shared < 1 else set()
        if _most_in_one(runs, holders_of) > most_shared:
            num_near += 1
            continue
        for run in runs:
            holders = holders_of.setdefault(run, [])
            if len(holders) < _MANY:
                holders.append(len(kept))
        kept.append(conversation)
    return kept, num_exact, num_near


def _runs(answer: tuple[int, ...]) -> set[int]:
    # Of numbers, unlike of texts, Python's hash is the same in every process.
    return {hash(answer[i : i + _SHINGLE]) for i in range(len(answer) - _SHINGLE + 1)}


def _most_in_one(runs: set[int], holders_of: dict[int, list[int]]) -> float:
    """The largest share of the runs that one kept answer has; one where every run is in very many."""
    if not runs:
        return 0.0
    telling = [run for run in runs if len(holders_of.get(run, ())) < _MANY]
    if not telling:
        return 1.0
    num_shared = Counter(chain.from_iterable(holders_of.get(run, ()) for run in telling))
    return max(num_shared.values(), default=0) / len(telling)
