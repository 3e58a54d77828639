"""What a page says first: whether the drafter pays, at which loads, and why."""

from collections.abc import Iterator, Sequence

from vllm_mtp.benchmarks.report.acceptance import largest_k
from vllm_mtp.benchmarks.report.config import ReportConfig
from vllm_mtp.benchmarks.report.costs import at_once, cost_sentence
from vllm_mtp.benchmarks.report.gain import LOSES, OPEN, PAYS, Gain, best_by_load, break_even, gains_of
from vllm_mtp.benchmarks.report.source import Row, Source, name_of
from vllm_mtp.benchmarks.report.tune import chosen

_HOW = {
    "serving": "through the server",
    "tune": "as tuned, without the reading of prompts",
    "acceptance": "in vLLM's engine, batch by batch",
}
"""How speed was measured, what is most like serving first."""
Sentence = tuple[str, str]
"""Its beginning, which stands out, and the rest."""


def groups(sources: Sequence[Source]) -> list[tuple[str, list[Gain]]]:
    """The drafter's best at each load, of each source and temperature, with what to call them."""
    found = []
    for source in sorted((one for one in sources if one.kind in _HOW), key=lambda one: list(_HOW).index(one.kind)):
        gains = gains_of(source)
        for temperature in sorted({gain.temperature for gain in gains}):
            best = best_by_load(gain for gain in gains if gain.temperature == temperature)
            if best:
                found.append((f"{source.pair}, {_HOW[source.kind]}, temperature {temperature:g}", best))
    return found


def summary(sources: Sequence[Source], config: ReportConfig) -> list[Sentence]:
    """The verdict of each group, and what explains it."""
    speeds = groups(sources)
    found = [sentence for title, best in speeds for sentence in _of_group(title, best, config)]
    if not speeds:
        found.append(("It cannot be told whether the drafter pays:", "no speed was measured."))
    return [*found, *(sentence for source in sources for sentence in _of_kind(source))]


def _of_group(title: str, best: Sequence[Gain], config: ReportConfig) -> Iterator[Sentence]:
    speeds = "; ".join(f"at {gain.load}: {gain.times}, {gain.method}" for gain in best)
    yield f"{_verdict(best)}:", f"{title}. Speed beside no speculation {speeds}. {_border(best)}"
    if config.price_per_hour is not None:
        yield "Cost:", cost_sentence(best[0], config)


def _verdict(best: Sequence[Gain]) -> str:
    loads = {word: listed([str(gain.load) for gain in best if gain.verdict == word]) for word in (PAYS, OPEN, LOSES)}
    said = {PAYS: "it pays at {}", OPEN: "it cannot be told at {}", LOSES: "it costs speed at {}"}
    text = "; ".join(said[word].format(some) for word, some in loads.items() if some)
    return f"Does it pay? {text[0].upper()}{text[1:]} (requests at once)"


def listed(words: Sequence[str]) -> str:
    """As a sentence lists them."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def _border(best: Sequence[Gain]) -> str:
    found = break_even(best)
    if found.pays_to is None:
        return "At no load that was measured is it faster than no speculation."
    if found.loses_from is None:
        return f"It is faster up to the largest load that was measured, {found.pays_to} at once."
    return (
        f"Break-even lies between {found.pays_to} and {at_once(found.loses_from)}, at about {found.between:.0f} on a "
        "line between the two."
    )


def _of_kind(source: Source) -> Iterator[Sentence]:
    rows = source.result.get("rows", [])
    if source.kind == "acceptance":
        drafted = [row for row in rows if row["method"] == "mtp"]
        for temperature in sorted({row["temperature"] for row in drafted}):
            yield _acceptance(largest_k([row for row in drafted if row["temperature"] == temperature])[0])
    elif source.kind == "tune":
        yield "Tuned:", chosen(source.result["choice"])
    elif source.kind == "round" and (drafted := [row for row in rows if row["method"] == "mtp"]):
        yield _round(drafted[-1])


def _acceptance(row: Row) -> Sentence:
    low, high = row["acceptance_length_95"]
    text = f"{row['acceptance_length']:.2f} tokens ({low:.2f} to {high:.2f}) with {name_of(row)}"
    return f"A draft is worth, at temperature {row['temperature']:g}:", f"{text}; one is no speculation."


def _round(row: Row) -> Sentence:
    shares = row["shares"]
    target, drafter = shares["target"] + shares["target_head"], shares["module"] + shares["draft_head"]
    rest = 1 - target - drafter - shares["lookup"] - shares["sampling"]
    text = (
        f"{target:.0%} is the target, {drafter:.0%} the drafter's module and head, {shares['lookup']:.0%} its lookup, "
        f"{shares['sampling']:.0%} sampling, {rest:.0%} vLLM around them ({name_of(row)}, batch {row['batch_size']})."
    )
    return "Of a round,", text
