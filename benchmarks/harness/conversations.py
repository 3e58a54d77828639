"""What the conversations of a file ask, turn by turn, with the target's own answers in between."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vllm_mtp.benchmarks.harness.prompts import NO_TASK, BenchmarkPrompt, task_of
from vllm_mtp.training.data.chat.dialog import Dialog, Message
from vllm_mtp.training.data.chat.said import answer_message
from vllm_mtp.training.data.chat.template import ChatTemplate

Answers = Mapping[int, Sequence[int]]
"""Token ids of the target's answers, by the number of the prompt."""
_NONE: Answers = {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversations:
    """Conversations, and how they are asked."""

    dialogs: Sequence[Dialog]
    template: ChatTemplate
    num_turns: int = 1
    """Most turns to ask. With one, a conversation is asked once: for its first answer where only the user speaks in it,
    else for its last, with everything before it as it is."""

    end_ids: frozenset[int] = frozenset()
    """What ends an answer of the target."""

    def prompts(self, turn: int = 1, answers: Answers = _NONE) -> list[BenchmarkPrompt]:
        """What is asked at a turn, from 1, of every conversation that has it and whose turns before were answered.

        Raises:
            InputError: if the template refuses a conversation, naming its place.
        """
        asked = {
            place: said for place in range(len(self.dialogs)) if (said := self._said(place, turn, answers)) is not None
        }
        dialogs = [self.dialogs[place] for place in asked]
        texts = [self.template.prompt_text(dialog, said) for dialog, said in zip(dialogs, asked.values(), strict=True)]
        return [
            BenchmarkPrompt(
                number=self._number(place, turn),
                category=dialog.category or NO_TASK,
                task=task_of(dialog.category),
                token_ids=tuple(ids),
                turn=turn,
            )
            for place, dialog, ids in zip(asked, dialogs, self._ids_of(texts, dialogs), strict=True)
        ]

    def check_later_turns(self) -> None:
        """Renders every later turn after some answer, so that a template refuses one before anything slow.

        Raises:
            InputError: of `prompts`.
        """
        some = self.template.tokenizer("An answer.").input_ids
        for turn in range(2, self.num_turns + 1):
            self.prompts(turn, dict.fromkeys(range(len(self.dialogs) * self.num_turns), some))

    def to_answer(self, prompts: Sequence[BenchmarkPrompt], turn: int) -> list[BenchmarkPrompt]:
        """Those prompts of a turn that another turn follows."""
        return [
            prompt
            for prompt in prompts
            if prompt.turn == turn < self.num_turns and turn < len(self._rounds(prompt.number // self.num_turns))
        ]

    def _ids_of(self, texts: Sequence[str], dialogs: Sequence[Dialog]) -> list[list[int]]:
        return self.template.ids_of(texts, dialogs) if texts else []

    def _rounds(self, place: int) -> tuple[tuple[Message, ...], ...]:
        return self.dialogs[place].rounds("all" if self.num_turns > 1 else "last")

    def _said(self, place: int, turn: int, answers: Answers) -> tuple[Message, ...] | None:
        """Everything up to a turn's question; None where there is no such turn, or an answer before it is missing."""
        rounds = self._rounds(place)
        numbers = [self._number(place, earlier) for earlier in range(1, turn)]
        before = [answers[number] for number in numbers if number in answers]
        if turn > len(rounds) or len(before) < len(numbers):
            return None
        said = [*rounds[0]]
        for ids, asked in zip(before, rounds[1:turn], strict=True):
            ended = bool(ids) and ids[-1] in self.end_ids
            said += [answer_message(self.template.tokenizer, ids, ended=ended), *asked]
        return tuple(said)

    def _number(self, place: int, turn: int) -> int:
        """Turns of one conversation stand beside each other."""
        return place * self.num_turns + turn - 1
