"""Whether the drafter pays, in words: at which loads, up to which one, and what pays without a drafter."""

from collections.abc import Sequence
from dataclasses import dataclass

from vllm_mtp.benchmarks.report.gain import LOSES, OPEN, PAYS, Gain, best_by_load, break_even, gains_of
from vllm_mtp.benchmarks.report.source import Source

_HOW = {
    "serving": "through the server",
    "tune": "as tuned, without the reading of prompts",
    "acceptance": "in vLLM's engine, batch by batch",
}
"""How speed was measured, what is most like serving first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Speeds that were measured together, at one temperature."""

    title: str
    drafter: Sequence[Gain]
    """Its best at each load, at least one."""
    baselines: Sequence[Gain]
    """The best at each load that needs no trained drafter."""


def groups(sources: Sequence[Source]) -> list[Group]:
    """Of all sources that tell of speed."""
    found = []
    for source in sorted((one for one in sources if one.kind in _HOW), key=lambda one: list(_HOW).index(one.kind)):
        gains = gains_of(source)
        for temperature in sorted({gain.temperature for gain in gains if gain.is_drafter}):
            some = [gain for gain in gains if gain.temperature == temperature]
            title = f"{source.pair}, {_HOW[source.kind]}, temperature {temperature:g}"
            best, untrained = best_by_load(some), best_by_load(some, drafter=False)
            found.append(Group(title=title, drafter=best, baselines=untrained))
    return found


def verdict_of(best: Sequence[Gain]) -> str:
    """Does it pay?"""
    loads = {word: listed([str(gain.load) for gain in best if gain.verdict == word]) for word in (PAYS, OPEN, LOSES)}
    said = {PAYS: "it pays at {}", OPEN: "at {} that cannot be told", LOSES: "it costs speed at {}"}
    text = "; ".join(said[word].format(some) for word, some in loads.items() if some)
    return f"Does it pay? {text[0].upper()}{text[1:]} (requests at once)"


def speeds_of(gains: Sequence[Gain]) -> str:
    """The speedup at each load."""
    return "; ".join(f"at {gain.load}: {gain.times}, {gain.method}" for gain in gains)


def where_it_turns(best: Sequence[Gain]) -> str:
    """The load from which on it no longer pays, with an interval where the speedups have theirs; empty for one load."""
    if len(best) == 1:
        return ""
    middle = break_even([(gain.load, gain.speedup) for gain in best])
    bounds = [(gain.load, *gain.speedup_95) for gain in best if gain.speedup_95 is not None]
    text = f"Break-even: {_load(middle, best)}"
    if len(bounds) == len(best):
        low = break_even([(load, speedup) for load, speedup, _ in bounds])
        high = break_even([(load, speedup) for load, _, speedup in bounds])
        text += f" (95%: {_load(low, best)} to {_load(high, best)})" if low < high else ""
    return f"{text} requests at once."


def listed(words: Sequence[str]) -> str:
    """As a sentence lists them."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def _load(load: float, best: Sequence[Gain]) -> str:
    if load == 0:
        return f"below {best[0].load}"
    return f"beyond {best[-1].load}" if load == float("inf") else f"about {load:.{0 if load >= 10 else 1}f}"
