"""What the claims study trains and measures on, made once in the output folder where it is not given.

For the shipped target: prompts cut out of the standard library's files (examples/stdlib/corpus.py), its own
continuations of those of the training split, and the held-out ones to measure on. Another target brings its own.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from vllm_mtp.benchmarks.claims.arms import FULL, GENERAL, GENERATED, Arm
from vllm_mtp.benchmarks.claims.config import ClaimsConfig
from vllm_mtp.benchmarks.claims.text import write_documentation
from vllm_mtp.benchmarks.harness.checkout import ROOT, run_command
from vllm_mtp.benchmarks.harness.prompts import BenchmarkPrompt, sha256_of, tokenized
from vllm_mtp.common.errors import InputError
from vllm_mtp.common.files import write_atomically
from vllm_mtp.common.flags import words_of
from vllm_mtp.training.data.chat.template import ChatTemplate
from vllm_mtp.training.data.conversations import CONVERSATIONS_FILE
from vllm_mtp.training.data.draft_vocab import make_draft_vocab
from vllm_mtp.training.data.prompts import read_prompts
from vllm_mtp.training.data.records import open_records
from vllm_mtp.training.data.text import texts_of

T = TypeVar("T")
EXAMPLE = ROOT / "examples" / "stdlib"
_PROMPT_LINES = 6
_ANSWER_TOKENS = 176


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """Files that the user gives; what is missing is made for the shipped target."""

    generated: tuple[Path, ...] = ()
    general: tuple[Path, ...] = ()
    prompts: Path | None = None
    draft_vocab: Path | None = None
    """If given, every arm drafts from it but the one that has the full vocabulary."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClaimsData:
    """Everything that arms are trained and measured on."""

    text: dict[str, tuple[Path, ...]]
    """By the name of the stage, of the stages that the arms have."""
    prompts: Sequence[BenchmarkPrompt]
    draft_vocab: Path | None
    about: dict[str, Any]
    """Hashes and counts, for the rows' settings and the results."""

    def hashes_of(self, arm: Arm) -> dict[str, str]:
        """Hash of the files that an arm is trained on."""
        names = [f"{stage}_sha256" for stage in arm.stages] + ([] if arm.vocabulary == FULL else ["draft_vocab_sha256"])
        return {name: self.about[name] for name in names}


def prepare(
    config: ClaimsConfig, sources: Sources, arms: Sequence[Arm], *, target: str, tokenizer: Any, output: Path
) -> ClaimsData:
    """Makes or finds the data of these arms.

    Raises:
        ValueError: for a file that cannot be used, or where something is missing that only the shipped target has.
    """
    folder = output / "data"
    folder.mkdir(parents=True, exist_ok=True)
    stages = {stage for arm in arms for stage in arm.stages}
    needs_vocab = any(arm.vocabulary != FULL for arm in arms) and sources.draft_vocab is None
    if tokenizer.chat_template and not (sources.generated and sources.prompts):
        raise InputError("generated", "expected it and prompts for a target that answers by a chat template")
    text: dict[str, tuple[Path, ...]] = {}
    about: dict[str, Any] = {}
    if GENERATED in stages or needs_vocab:
        text[GENERATED] = sources.generated or (_generate(config, target, folder),)
    if GENERAL in stages:
        text[GENERAL] = sources.general
        if not sources.general:
            path, counts = folder / "general.jsonl", folder / "general.json"
            text[GENERAL] = (path,)
            if not (path.exists() and counts.exists()):
                write_atomically(counts, json.dumps(write_documentation(path), indent=1) + "\n")
            about["general_from"] = json.loads(counts.read_text())
    prompt_file = sources.prompts or _cut_prompts(folder / "held_out_prompts.jsonl", "held_out", per_document=2)
    prompts = tokenized(read_prompts([prompt_file]), ChatTemplate(tokenizer))
    draft_vocab = sources.draft_vocab
    if needs_vocab:
        draft_vocab = folder / f"vocab-{config.draft_vocab_size}.json"
        if not draft_vocab.exists():
            make_draft_vocab(
                target=target,
                data=text[GENERATED],
                size=config.draft_vocab_size,
                output=draft_vocab,
                max_tokens=config.data_tokens,
                **config.engine_options.source(),
            )
    hashes = {f"{stage}_sha256": sha256_of(*map(_file_of, paths)) for stage, paths in sorted(text.items())}
    if draft_vocab is not None:
        hashes["draft_vocab_sha256"] = sha256_of(draft_vocab)
    return ClaimsData(
        text=text,
        prompts=_spread(prompts, config.num_prompts),
        draft_vocab=draft_vocab,
        about=about | hashes | {"prompts_sha256": sha256_of(prompt_file)},
    )


def _file_of(path: Path) -> Path:
    return path / CONVERSATIONS_FILE if path.is_dir() else path


def _spread(many: Sequence[T], number: int) -> list[T]:
    """At most so many, evenly over the file."""
    step = max(1.0, len(many) / number)
    return [many[int(place * step)] for place in range(min(number, len(many)))]


def _cut_prompts(path: Path, split: str, per_document: int) -> Path:
    """Prompts of a few lines, evenly out of every document of a split of the standard library."""
    if path.exists():
        return path
    corpus = path.with_name(f"{split}.jsonl")
    if not (EXAMPLE / "corpus.py").is_file():
        raise InputError("generated", "expected it and prompts outside a checkout of the repository")
    run_command([sys.executable, str(EXAMPLE / "corpus.py"), "--split", split, "--output", str(corpus)])
    found = []
    for text in texts_of([open_records(corpus, [corpus], "general")], "general"):
        lines = text.splitlines()
        for start in range(0, len(lines) - _PROMPT_LINES, max(1, len(lines) // (per_document + 1)))[1:]:
            prompt = "\n".join(lines[start : start + _PROMPT_LINES]).strip("\n")
            if 80 < len(prompt) < 600:
                found.append(json.dumps({"prompt": prompt + "\n"}))
    write_atomically(path, "\n".join(found) + "\n")
    return path


def _generate(config: ClaimsConfig, target: str, folder: Path) -> Path:
    """The target's own continuations of prompts of the training split: data_tokens of them and what is held out."""
    output = folder / "generated"
    prompts = _cut_prompts(folder / "training_prompts.jsonl", "train", per_document=4)
    wanted = folder / "generation_prompts.jsonl"
    lines = prompts.read_text(encoding="utf-8").splitlines()
    # Answers are cut where they begin to loop, most of the greedy ones.
    number = int(1.7 * config.data_tokens / (_ANSWER_TOKENS + 60)) + 8
    write_atomically(wanted, "\n".join(_spread(lines, number)) + "\n")
    # In a process of its own: vLLM binds the threads of the one that it runs in.
    flags = {"prompts": wanted, "output": output, "dtype": config.dtype}
    flags |= {"max-tokens": _ANSWER_TOKENS, "max-model-len": 768}
    arguments = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    arguments += words_of(config.engine_options)
    run_command([sys.executable, "-m", "vllm_mtp.cli", "generate", target, *arguments])
    return output
