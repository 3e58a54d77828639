"""A load on an OpenAI server: streaming clients that never pause, some of which go away in the middle of an answer."""

import asyncio
import itertools
import random
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

MAX_SILENCE_S = 120
"""Within which a client must hear something: longer, and its request counts as stuck."""
CANCELLED_SHARE = 0.2
SAMPLED_SHARE = 0.25
MAX_CHUNKS_BEFORE_CANCEL = 12
MAX_TOKENS = 160
_SAMPLING: tuple[dict[str, Any], ...] = (
    {"temperature": 1.0},
    {"temperature": 0.8, "top_p": 0.9},
    {"temperature": 0.7, "extra_body": {"top_k": 20}},
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """One request of a client."""

    prompt: Sequence[int]
    max_tokens: int
    sampling: dict[str, Any]
    expected: list[int] | None
    """The greedy answer without a drafter; None where the request is sampled."""
    chunks_before_cancel: int | None
    """None: the client stays."""


@dataclass(kw_only=True, slots=True)
class Outcome:
    """What became of a request."""

    planned: Planned
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: str | None = None
    num_tokens_by_server: int | None = None
    seconds_to_first_chunk: float | None = None
    longest_silence_s: float = 0.0
    was_cancelled: bool = False
    error: str | None = None

    @property
    def is_whole(self) -> bool:
        """Every token that was asked for came, once, and the server says the same."""
        counted = len(self.token_ids) == self.num_tokens_by_server == self.planned.max_tokens
        has_text = bool(self.text) or self.planned.max_tokens == 1  # which may be a special token, or half a character
        return self.error is None and counted and self.finish_reason == "length" and has_text


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """The server at one moment."""

    seconds: float
    memory_mib: float
    running: float
    waiting: float
    kv_usage: float


def plan(seed: int, prompts: Sequence[Sequence[int]], answers: Sequence[list[int]]) -> Iterator[Planned]:
    """The endless requests of one client, of mixed lengths; `answers` are the greedy ones, MAX_TOKENS each."""
    draw = random.Random(seed)
    while True:
        which = draw.randrange(len(prompts))
        num_tokens = draw.choice((1, 8, 32, 64, MAX_TOKENS))
        is_sampled = draw.random() < SAMPLED_SHARE
        leaves = draw.random() < CANCELLED_SHARE
        yield Planned(
            prompt=prompts[which],
            max_tokens=num_tokens,
            sampling=draw.choice(_SAMPLING) if is_sampled else {"temperature": 0.0},
            expected=None if is_sampled else answers[which][:num_tokens],
            chunks_before_cancel=draw.randrange(MAX_CHUNKS_BEFORE_CANCEL) if leaves else None,
        )


async def run_load(client: Any, plans: Sequence[Iterator[Planned]], seconds: float) -> list[Outcome]:
    """Lets one client follow each plan until the time is over and its last answer is there.

    Args:
        client: an `openai.AsyncOpenAI` without retries, and with MAX_SILENCE_S as its timeout.
        plans: the clients'.
        seconds: after which no client begins another request.

    Returns:
        One outcome for every request that was begun.
    """
    deadline = time.monotonic() + seconds

    async def follow(planned: Iterator[Planned]) -> list[Outcome]:
        outcomes = []
        while time.monotonic() < deadline:
            outcomes.append(await _ask(client, next(planned)))
        return outcomes

    return list(itertools.chain.from_iterable(await asyncio.gather(*map(follow, plans))))


async def _ask(client: Any, planned: Planned) -> Outcome:
    outcome = Outcome(planned=planned)
    extra = {"ignore_eos": True, "return_token_ids": True, **planned.sampling.get("extra_body", {})}
    try:
        stream = await client.completions.create(
            model="target",
            prompt=list(planned.prompt),
            max_tokens=planned.max_tokens,
            stream=True,
            stream_options={"include_usage": True},
            **{name: value for name, value in planned.sampling.items() if name != "extra_body"},
            extra_body=extra,
        )
        await _read(stream, outcome)
    except Exception as error:  # whatever a client of the library can meet
        outcome.error = f"{type(error).__name__}: {error}"
    return outcome


async def _read(stream: Any, outcome: Outcome) -> None:
    limit = outcome.planned.chunks_before_cancel
    start = last = time.monotonic()
    num_chunks = 0
    if limit != 0:
        async for chunk in stream:
            now = time.monotonic()
            outcome.longest_silence_s, last = max(outcome.longest_silence_s, now - last), now
            if outcome.seconds_to_first_chunk is None:
                outcome.seconds_to_first_chunk = now - start
            if chunk.usage is not None:
                outcome.num_tokens_by_server = chunk.usage.completion_tokens
            for choice in chunk.choices:
                outcome.text += choice.text
                outcome.token_ids += getattr(choice, "token_ids", None) or []
                outcome.finish_reason = choice.finish_reason or outcome.finish_reason
            num_chunks += 1
            if num_chunks == limit:
                break
    if limit is not None:
        outcome.was_cancelled = outcome.num_tokens_by_server is None
        await stream.close()


def counters(text: str) -> dict[str, float]:
    """The values of /metrics by name, those of one name with different labels added up; one with a reason or a
    position apart too, as `name[label]`."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        match = re.fullmatch(r"vllm:(\w+)(?:{(.*)})? (\S+)", line)
        if match is None or match[1].endswith(("_bucket", "_created")):
            continue
        name, labels, value = match[1], match[2] or "", float(match[3])
        found[name] = found.get(name, 0.0) + value
        for label in re.findall(r'(?:finished_reason|position)="(\w+)"', labels):
            found[f"{name}[{label}]"] = found.get(f"{name}[{label}]", 0.0) + value
    return found


def slope_mib_per_minute(samples: Sequence[Sample]) -> float:
    """By how much memory grows, by least squares over the last two thirds of the time."""
    import numpy as np

    begin = samples[0].seconds + (samples[-1].seconds - samples[0].seconds) / 3
    late = [sample for sample in samples if sample.seconds >= begin]
    minutes, memory_mib = np.array([(sample.seconds / 60, sample.memory_mib) for sample in late]).T
    return float(np.polyfit(minutes, memory_mib, 1)[0])
