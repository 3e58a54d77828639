"""The prompts of a benchmark: read from a file, made token ids, each with its category and its task.

Spec-Bench's file (https://github.com/hemingkx/Spec-Bench, `question.jsonl`) is read as it is. It has six tasks; one of
them, MT-Bench, is spread over eight categories.
"""

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from vllm_mtp.training.data.chat.template import ChatTemplate
from vllm_mtp.training.data.prompts import Prompt
from vllm_mtp.training.data.record_formats import is_hub
from vllm_mtp.training.data.records import data_files

MT_BENCH = "mt_bench"
_MT_BENCH_CATEGORIES = frozenset(
    ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
)
NO_TASK = "prompts"


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkPrompt:
    """One prompt as it is sent to an engine."""

    number: int
    """Place in the file, from 0; of several turns each has a number of its own, in the order of the file."""
    category: str
    task: str
    token_ids: tuple[int, ...]
    turn: int = 1
    """Which turn of its conversation it asks for."""


def task_of(category: str) -> str:
    """The task that a category counts to: MT-Bench for its eight, otherwise the category itself."""
    return MT_BENCH if category in _MT_BENCH_CATEGORIES else category or NO_TASK


def tokenized(prompts: Sequence[Prompt], template: ChatTemplate) -> list[BenchmarkPrompt]:
    """Token ids up to where the answer begins; says what of the prompts the template does not read."""
    if note := template.note_of_passed_over(prompts):
        print(note, file=sys.stderr)
    return [
        BenchmarkPrompt(
            number=number,
            category=prompt.category or NO_TASK,
            task=task_of(prompt.category),
            token_ids=tuple(template.prompt_ids(prompt)),
        )
        for number, prompt in enumerate(prompts)
    ]


def sha256_of_tokens(prompts: Sequence[BenchmarkPrompt]) -> str:
    """Hash of what is sent: the file's text, the tokenizer's rules and the chat template together."""
    return hashlib.sha256(json.dumps([prompt.token_ids for prompt in prompts]).encode()).hexdigest()


def limited(prompts: Sequence[BenchmarkPrompt], per_task: int | None) -> list[BenchmarkPrompt]:
    """The first prompts of each task, at most per_task (None: all), in turn from its categories; in file order."""
    if per_task is None:
        return list(prompts)
    kept: list[BenchmarkPrompt] = []
    for task in dict.fromkeys(prompt.task for prompt in prompts):
        by_category: dict[str, list[BenchmarkPrompt]] = {}
        for prompt in prompts:
            if prompt.task == task:
                by_category.setdefault(prompt.category, []).append(prompt)
        # First prompts of all categories, then second ones, ...
        in_turn = [prompt for places in zip_longest(*by_category.values()) for prompt in places if prompt]
        kept += in_turn[:per_task]
    return sorted(kept, key=lambda prompt: prompt.number)


def sha256_of(*paths: Path) -> str:
    """Hash of the files' content, one after another: of a folder all data in it, of a dataset of the Hub its name."""
    digest = hashlib.sha256()
    for path in paths:
        for file in [path] if path.is_file() else data_files([path], "prompts"):
            digest.update(str(file).encode() if is_hub(file) else file.read_bytes())
    return digest.hexdigest()
