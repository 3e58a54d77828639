"""The engine's side of rounds.py: vLLM's engine, step by step."""

import time
from collections.abc import Callable
from itertools import cycle
from typing import Any

from vllm_mtp.benchmarks.harness.live import set_module_steps, set_num_speculative_tokens
from vllm_mtp.benchmarks.harness.rounds import Output, Rounds, RoundsRequest

_NUM_UNTIMED = 2
"""First rounds of a request, in which kernels for a new number of rows are made."""


def measure_rounds(llm: Any, request: RoundsRequest, on_progress: Callable[[int], object]) -> Rounds:
    """What `EngineProcess.measure_rounds` asks for."""
    import torch

    if request.num_speculative_tokens is not None:
        set_num_speculative_tokens(llm, request.num_speculative_tokens)
    if request.module_steps is not None:
        set_module_steps(llm, request.module_steps)
    torch.manual_seed(request.seed)
    flight = _Flight(llm.llm_engine, request, on_progress)
    while not flight.is_over():
        flight.step()
    flight.end()
    timed = flight.rounds[_NUM_UNTIMED:]
    return Rounds(
        seconds=[round(seconds, 6) for seconds, _ in timed],
        tokens=[tokens for _, tokens in timed],
        outputs=flight.ended,
    )


class _Flight:
    """Requests under way."""

    def __init__(self, engine: Any, request: RoundsRequest, on_progress: Callable[[int], object]) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        self.engine, self.request, self.on_progress = engine, request, on_progress
        self.params = SamplingParams(
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k,
            max_tokens=request.max_tokens,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        self.prompts = iter(cycle(request.prompts) if request.repeat else request.prompts)
        self.tokens: dict[str, list[int]] = {}
        """New tokens of each pass, of each request under way."""
        self.numbers: dict[str, int] = {}
        self.ended: list[Output] = []
        self.rounds: list[tuple[float, int]] = []
        self.seconds = 0.0
        self._fill()

    def is_over(self) -> bool:
        request, num_timed = self.request, len(self.rounds) - _NUM_UNTIMED
        enough = request.max_outputs is not None and len(self.ended) >= request.max_outputs
        late = request.max_seconds is not None and self.seconds >= request.max_seconds
        return not self.tokens or enough or (late and num_timed >= request.min_rounds)

    def step(self) -> None:
        """One pass of the engine; the next prompts take the places of what ended."""
        all_go_on = len(self.tokens) == self.request.batch_size and all(self.tokens.values())
        start = time.perf_counter()
        outputs = self.engine.step()
        seconds = time.perf_counter() - start
        new = {output.request_id: len(output.outputs[0].token_ids) for output in outputs}
        for name, tokens in new.items():
            if tokens:
                self.tokens[name].append(tokens)
        if all_go_on and len(new) == self.request.batch_size and all(new.values()):
            self.rounds.append((seconds, sum(new.values())))
            self.seconds += seconds
        for output in outputs:
            if output.finished:
                self._take(output.request_id)
        self._fill()

    def end(self) -> None:
        """Drops what is under way; what it gave counts."""
        names = list(self.tokens)
        self.engine.abort_request(names)
        for name in names:
            self._take(name)
        while self.engine.has_unfinished_requests():
            self.engine.step()

    def _fill(self) -> None:
        while len(self.tokens) < self.request.batch_size and (prompt := next(self.prompts, None)) is not None:
            name = f"{len(self.numbers)}"
            self.numbers[name], self.tokens[name] = prompt.number, []
            self.engine.add_request(name, {"prompt_token_ids": list(prompt.token_ids)}, self.params)

    def _take(self, name: str) -> None:
        self.ended.append(Output(number=self.numbers[name], tokens=self.tokens.pop(name)[1:]))
        self.on_progress(1)
