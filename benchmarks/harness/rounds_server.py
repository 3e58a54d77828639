"""The engine's side of rounds.py: vLLM's engine, step by step."""

import time
from collections.abc import Callable
from itertools import cycle
from typing import Any

from vllm_mtp.benchmarks.harness.live import schedule_table, set_module_steps
from vllm_mtp.benchmarks.harness.rounds import Output, Rounds, RoundsRequest

_NUM_UNTIMED = 3
"""First rounds of a request: they verify what was drafted with another K, or make kernels for a new number of rows."""
_NUM_UNTIMED_GOING_ON = 1
"""The same of one that goes on as the last one ended: another engine has emptied the caches meanwhile."""

_MOST_PASSES = 1000
"""Passes for one round that counts, at most."""


class RoundsServer:
    """Answers for one engine, and keeps requests under way where it is asked to."""

    def __init__(self, llm: Any) -> None:
        self.llm = llm
        self._flight: _Flight | None = None
        self._set: tuple[int | None, int | None] = None, None
        self._schedule: list[int] | None = None

    def measure(self, request: RoundsRequest, on_progress: Callable[[int], object]) -> Rounds:
        """What `EngineProcess.measure_rounds` asks for."""
        import torch

        self._set_k(request.num_speculative_tokens)
        if request.module_steps is not None:
            set_module_steps(self.llm, request.module_steps)
        torch.manual_seed(request.seed)
        flight = self._begin(request, on_progress)
        while not flight.is_over():
            flight.step()
        if not request.keep:
            self.end()
        timed = flight.rounds[flight.num_untimed :]
        return Rounds(
            seconds=[round(seconds, 6) for seconds, _ in timed],
            tokens=[tokens for _, tokens in timed],
            outputs=flight.ended,
        )

    def end(self) -> None:
        """Drops what is under way; what it gave counts."""
        if self._flight is not None:
            self._flight.end()
        self._flight = None

    def _set_k(self, num_speculative_tokens: int | None) -> None:
        """K for every batch size; None: the engine's own schedule."""
        if num_speculative_tokens is None and self._schedule is None:
            return
        table = schedule_table(self.llm)
        if self._schedule is None:
            self._schedule = list(table)
        table[:] = self._schedule if num_speculative_tokens is None else [num_speculative_tokens] * len(table)

    def _begin(self, request: RoundsRequest, on_progress: Callable[[int], object]) -> "_Flight":
        was_set, self._set = self._set, (request.num_speculative_tokens, request.module_steps)
        flight, num_untimed = self._flight, _NUM_UNTIMED
        if flight is None or not request.keep or not flight.can_go_on(request):
            self.end()
            flight = self._flight = _Flight(self.llm.llm_engine, request)
        elif self._set == was_set:
            num_untimed = _NUM_UNTIMED_GOING_ON
        flight.begin(request, on_progress, num_untimed)
        return flight


class _Flight:
    """Requests under way."""

    def __init__(self, engine: Any, request: RoundsRequest) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        self.engine = engine
        self.params = SamplingParams(
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k,
            max_tokens=request.max_tokens,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        self.batch_size = request.batch_size
        self.prompt_numbers = [prompt.number for prompt in request.prompts]
        self.prompts = iter(cycle(request.prompts) if request.repeat else request.prompts)
        self.tokens: dict[str, list[int]] = {}
        """New tokens of each pass, of each request under way."""
        self.numbers: dict[str, int] = {}

    def can_go_on(self, request: RoundsRequest) -> bool:
        same_prompts = self.prompt_numbers == [prompt.number for prompt in request.prompts]
        return bool(self.tokens) and self.batch_size == request.batch_size and same_prompts

    def begin(self, request: RoundsRequest, on_progress: Callable[[int], object], num_untimed: int) -> None:
        """Counts anew."""
        self.num_passes, self.num_untimed = 0, num_untimed
        self.request, self.on_progress = request, on_progress
        self.ended: list[Output] = []
        self.rounds: list[tuple[float, int]] = []
        self.seconds = 0.0
        self._fill()

    def is_over(self) -> bool:
        request, num_timed = self.request, len(self.rounds) - self.num_untimed
        late = request.max_seconds is not None and self.seconds >= request.max_seconds
        return not self.tokens or (late and num_timed >= request.min_rounds)

    def step(self) -> None:
        """One pass of the engine; the next prompts take the places of what ended.

        Raises:
            ValueError: where requests end so soon that hardly a pass has all of them.
        """
        self.num_passes += 1
        if self.request.max_seconds is not None and self.num_passes > _MOST_PASSES * (1 + len(self.rounds)):
            raise ValueError(
                f"expected outputs long enough that {self.batch_size} go on beside each other, got {self.num_passes:,} "
                f"passes and {len(self.rounds)} in which they did: give a smaller batch size"
            )
        all_go_on = len(self.tokens) == self.batch_size and all(self.tokens.values())
        start = time.perf_counter()
        outputs = self.engine.step()
        seconds = time.perf_counter() - start
        new = {output.request_id: len(output.outputs[0].token_ids) for output in outputs}
        for name, tokens in new.items():
            if tokens:
                self.tokens[name].append(tokens)
        if all_go_on and len(new) == self.batch_size and all(new.values()):
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
        while len(self.tokens) < self.batch_size and (prompt := next(self.prompts, None)) is not None:
            name = f"{len(self.numbers)}"
            self.numbers[name], self.tokens[name] = prompt.number, []
            self.engine.add_request(name, {"prompt_token_ids": list(prompt.token_ids)}, self.params)

    def _take(self, name: str) -> None:
        self.ended.append(Output(number=self.numbers[name], tokens=self.tokens.pop(name)[1:]))
        self.on_progress(1)
