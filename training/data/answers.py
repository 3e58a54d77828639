"""A batch of questions answered by the target, turn after turn, and what of it is kept."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from vllm_mtp.common.errors import InputError
from vllm_mtp.training.data.chat.dialog import Message
from vllm_mtp.training.data.chat.layouts import user_dialog
from vllm_mtp.training.data.chat.render import RenderedPrompt, render_prompts
from vllm_mtp.training.data.chat.said import answer_message
from vllm_mtp.training.data.chat.template import ChatTemplate
from vllm_mtp.training.data.conversations import Conversation
from vllm_mtp.training.data.generate_config import GenerateConfig
from vllm_mtp.training.data.prompts import user_turn_end, user_turn_prefix
from vllm_mtp.training.data.questions import Question, Start
from vllm_mtp.training.data.records import BadRecords
from vllm_mtp.training.data.repetition import before_loop, loop_window

_COUNTS = ("asked", "unusable_user_turns", "too_long", "empty", "loops", "cut", "unfinished", "generated_tokens")
_LEAST_CUT = 8
"""Tokens of an answer that is cut: of fewer, copies are not found."""


@dataclass(kw_only=True, slots=True)
class _Talk:
    """A conversation while it is being answered."""

    prompt: RenderedPrompt
    temperature: float
    messages: list[Message]
    """What was said so far."""
    ids: tuple[int, ...]
    """What the next answer is asked with."""
    num_answers: int = 0
    rows: list[Conversation] = field(default_factory=list)
    """One row, and another wherever the template renders what was said otherwise than it was."""

    def take(self, answer: tuple[int, ...]) -> None:
        """Appends an answer to the last row, or begins another with it."""
        last = self.rows[-1] if self.rows else None
        if last is not None and self.ids[: len(last.ids)] == last.ids:
            given = (*last.given, (len(last.ids), len(self.ids)))
            length = self.rows.pop().prompt_length
        else:
            given, length = (), len(self.ids)
        ids = (*self.ids, *answer)
        self.rows.append(Conversation(ids=ids, prompt_length=length, temperature=self.temperature, given=given))
        self.num_answers += 1

    def ask_next(self, template: ChatTemplate, answer: tuple[int, ...], *, ended: bool) -> bool:
        """Whether there is a further turn to be answered; puts it behind what was said.

        Args:
            template: the target's.
            answer: what the target said last.
            ended: whether its last token ended it.

        Raises:
            InputError: if the template refuses what was said.
        """
        if self.num_answers == len(self.prompt.rounds):
            return False
        said = answer_message(template.tokenizer, answer, ended=ended)
        self.messages += [said, *self.prompt.rounds[self.num_answers]]
        self.ids = tuple(template.prompt_ids(self.prompt.dialog, self.messages))
        return True


def answer_batch(
    llm: Any, template: ChatTemplate, batch: Sequence[Question], config: GenerateConfig, index: int
) -> tuple[list[Conversation], dict[str, int]]:
    """Answers one batch; the same seed and index give the same conversations on the same machine.

    Returns:
        The conversations, and how many of what was asked came to nothing, by reason; "cut" are answers that are kept up
        to where they begin to loop, "unfinished" conversations that are kept without their last turns.
    """
    seed = config.seed * 1_000_003 + index
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # from which vLLM's V2 runner draws the seeds of requests
    counts = dict.fromkeys(_COUNTS, 0)
    counts["asked"] = len(batch)
    prompts = {place: question for place, question in enumerate(batch) if not isinstance(question, Start)}
    starts = {place: question.text for place, question in enumerate(batch) if isinstance(question, Start)}
    if starts:
        turns, num_tokens = _write_user_turns(llm, template, list(starts.values()), config)
        counts["generated_tokens"] += num_tokens
        written = render_prompts(
            template, [user_dialog(text) for text in turns], bad=BadRecords(skip=True), show_progress=False
        )
        counts["unusable_user_turns"] = len(starts) - len(written)
        # Usable turns take the first places; as many of the last stay empty as there are unusable ones.
        prompts |= dict(zip(starts, written, strict=False))
    talks = [
        _Talk(
            prompt=prompts[place],
            temperature=config.temperature[place % len(config.temperature)],
            messages=list(prompts[place].rounds[0]),
            ids=prompts[place].ids,
        )
        for place in sorted(prompts)
    ]
    waiting = talks
    while waiting:
        waiting = _answer_round(llm, template, waiting, config, counts)
    return [row for talk in talks for row in talk.rows], counts


def _answer_round(
    llm: Any, template: ChatTemplate, talks: Sequence[_Talk], config: GenerateConfig, counts: dict[str, int]
) -> list[_Talk]:
    """Answers one turn of each conversation.

    Returns:
        Those that have a further turn.
    """
    assert config.max_model_len is not None
    waiting, asked = [], []
    for talk in talks:
        if len(talk.ids) + config.max_tokens > config.max_model_len:
            counts["unfinished" if talk.rows else "too_long"] += 1
        else:
            asked.append(talk)
    for talk, output in zip(asked, _outputs(llm, asked, config), strict=True):
        said = tuple(output.token_ids)
        counts["generated_tokens"] += len(said)
        answer = tuple(before_loop(said, window=loop_window(config.max_tokens)))
        loops = len(answer) < len(said)
        if len(answer) < (_LEAST_CUT if loops else 2):
            fault = "loops" if loops else "empty"
            counts["unfinished" if talk.rows else fault] += 1
            continue
        talk.take(answer)
        if loops:
            counts["cut"] += 1
            counts["unfinished"] += talk.num_answers < len(talk.prompt.rounds)
            continue
        try:
            if talk.ask_next(template, answer, ended=output.finish_reason == "stop"):
                waiting.append(talk)
        except InputError:  # the template takes other answers, so not the file is at fault
            counts["unfinished"] += 1
    return waiting


def _outputs(llm: Any, talks: Sequence[_Talk], config: GenerateConfig) -> list[Any]:
    from vllm import SamplingParams

    of_greedy = _ended_in_loops()
    params = [
        SamplingParams(
            temperature=talk.temperature,
            min_p=config.min_p if talk.temperature else 0.0,
            max_tokens=config.max_tokens,
            detokenize=False,
            **(of_greedy if talk.temperature == 0 else {}),
        )
        for talk in talks
    ]
    outputs = llm.generate([{"prompt_token_ids": list(talk.ids)} for talk in talks], params, use_tqdm=False)
    return [output.outputs[0] for output in outputs]


def _ended_in_loops() -> dict[str, Any]:
    """What ends an answer that `before_loop` would cut, where this vLLM can: four rounds of 17 to 32 tokens. A loop of
    fewer tokens is one of as many, too: of 5, four times over, one of 20. vLLM looks after every token, in Python: not
    worth it where answers seldom loop."""
    try:
        from vllm.sampling_params import RepetitionDetectionParams
    except ImportError:
        return {}
    return {"repetition_detection": RepetitionDetectionParams(max_pattern_size=32, min_pattern_size=17, min_count=4)}


def _write_user_turns(
    llm: Any, template: ChatTemplate, starts: Sequence[str], config: GenerateConfig
) -> tuple[list[str], int]:
    """User turns that the target wrote on from their starts.

    Returns:
        The usable ones, in order: they end by themselves and have more than one word; and how many tokens all of them
        took.
    """
    from vllm import SamplingParams

    stop_token_ids, stop = user_turn_end(template)
    params = SamplingParams(
        temperature=1.0,
        min_p=config.min_p,
        max_tokens=config.max_user_tokens,
        stop_token_ids=stop_token_ids,
        stop=stop,
    )
    prefix_of = {start: {"prompt_token_ids": user_turn_prefix(template, start)} for start in set(starts)}
    outputs = llm.generate([prefix_of[start] for start in starts], params, use_tqdm=False)
    turns = [output.outputs[0] for output in outputs]
    usable = [
        (start + turn.text).strip()
        for start, turn in zip(starts, turns, strict=True)
        if turn.finish_reason == "stop" and len(turn.text.split()) > 1
    ]
    return usable, sum(len(turn.token_ids) for turn in turns)
