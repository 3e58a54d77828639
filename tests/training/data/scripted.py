"""An engine that answers by rule, where what is done with answers is tested."""

from types import SimpleNamespace
from typing import Any


class ScriptedEngine:
    """Stands in for vLLM: user turns and answers by rule."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[Any], Any]] = []

    def generate(self, prompts: list[Any], params: Any, use_tqdm: bool) -> list[Any]:
        self.calls.append((prompts, params))
        return [self.output(number, isinstance(params, list)) for number in range(len(prompts))]

    def output(self, number: int, is_answer: bool) -> Any:
        if is_answer:
            ids = {0: [5], 1: [7, 8] * 60}.get(number, [100 + number, *range(20)])  # empty, a loop, an answer
            return SimpleNamespace(outputs=[SimpleNamespace(token_ids=ids, finish_reason="length")])
        text, reason = (" What is it? ", "stop") if number != 1 else ("What is", "length")
        return SimpleNamespace(outputs=[SimpleNamespace(text=text, token_ids=[1, 2], finish_reason=reason)])
