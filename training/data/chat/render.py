"""All prompts of a run, rendered before anything slow begins; the tokenizer's own threads share the work."""

from collections.abc import Sequence
from dataclasses import dataclass

from tqdm import tqdm

from vllm_mtp.common.errors import InputError
from vllm_mtp.training.data.chat.dialog import Dialog, Message
from vllm_mtp.training.data.chat.template import ChatTemplate
from vllm_mtp.training.data.records import BadRecords

_CHUNK = 256
_SOME_ANSWER: Message = {"role": "assistant", "content": "An answer."}


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderedPrompt:
    """A conversation that is to be answered."""

    dialog: Dialog
    rounds: tuple[tuple[Message, ...], ...]
    """What is given before each answer, besides what was given and answered before."""
    ids: tuple[int, ...]
    """Token ids up to where the first answer begins."""


def render_prompts(
    template: ChatTemplate,
    dialogs: Sequence[Dialog],
    *,
    answered: str = "last",
    bad: BadRecords | None = None,
    show_progress: bool = True,
) -> list[RenderedPrompt]:
    """Every conversation up to its first answer; later rounds are tried with some answer.

    Args:
        template: of the target.
        dialogs: the conversations.
        answered: which answers the target writes (`Dialog.rounds`).
        bad: what becomes of those that cannot be rendered; None: the first is an error.
        show_progress: draw a progress bar on standard error.

    Raises:
        InputError: of the first that cannot be rendered, naming its place.
    """
    found: list[RenderedPrompt] = []
    bad = bad or BadRecords()
    with tqdm(total=len(dialogs), desc="rendering", unit="prompt", disable=not show_progress, mininterval=1) as bar:
        for start in range(0, len(dialogs), _CHUNK):
            chunk = dialogs[start : start + _CHUNK]
            found += _rendered(template, chunk, answered, bad)
            bar.update(len(chunk))
    return found


def _rendered(
    template: ChatTemplate, dialogs: Sequence[Dialog], answered: str, bad: BadRecords
) -> list[RenderedPrompt]:
    """One chunk; where it cannot be rendered together, one by one."""
    try:
        rounds = [dialog.rounds(answered) for dialog in dialogs]
        texts = [_tried(template, dialog, given) for dialog, given in zip(dialogs, rounds, strict=True)]
        ids = template.ids_of(texts, dialogs)
    except InputError as error:
        if bad.skip and len(dialogs) > 1:
            return [prompt for dialog in dialogs for prompt in _rendered(template, [dialog], answered, bad)]
        bad.add(error)
        return []
    return [
        RenderedPrompt(dialog=dialog, rounds=given, ids=tuple(one))
        for dialog, given, one in zip(dialogs, rounds, ids, strict=True)
    ]


def _tried(template: ChatTemplate, dialog: Dialog, rounds: Sequence[Sequence[Message]]) -> str:
    """The text before the first answer, once those before later ones were rendered too."""
    text = template.prompt_text(dialog, rounds[0])
    messages = list(rounds[0])
    for given in rounds[1:]:
        messages += [_SOME_ANSWER, *given]
        template.prompt_text(dialog, messages)
    return text
