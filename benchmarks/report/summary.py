"""What a page says first: whether the drafter pays, at which loads, and why."""

from collections.abc import Iterator, Sequence

from vllm_mtp.benchmarks.report.acceptance import largest_k
from vllm_mtp.benchmarks.report.config import ReportConfig
from vllm_mtp.benchmarks.report.costs import cost_sentence
from vllm_mtp.benchmarks.report.source import Row, Source, name_of
from vllm_mtp.benchmarks.report.tune import chosen
from vllm_mtp.benchmarks.report.verdict import Group, groups, speeds_of, verdict_of, where_it_turns

Sentence = tuple[str, str]
"""Its beginning, which stands out, and the rest."""


def summary(sources: Sequence[Source], config: ReportConfig) -> list[Sentence]:
    """The verdict of each group of speeds, and what explains it."""
    found = [sentence for group in groups(sources) for sentence in _of_group(group, config)]
    if not found:
        found.append(("It cannot be told whether the drafter pays:", "no speed was measured."))
    several = len({source.pair for source in sources}) > 1
    for source in sources:
        found += [(lead, f"{text} ({source.pair})" if several else text) for lead, text in _of_kind(source)]
    return found


def _of_group(group: Group, config: ReportConfig) -> Iterator[Sentence]:
    parts = [f"{group.title}. Speed beside no speculation {speeds_of(group.drafter)}.", where_it_turns(group.drafter)]
    if group.baselines:
        parts.append(f"Without a trained drafter {speeds_of(group.baselines)}.")
    yield f"{verdict_of(group.drafter)}:", " ".join(filter(None, parts))
    if config.price_per_hour is not None:
        yield "Cost:", cost_sentence(group.drafter[0], config)


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
    return f"A draft is worth, at temperature {row['temperature']:g}:", f"{text}; without speculation it is one."


def _round(row: Row) -> Sentence:
    shares = row["shares"]
    target, drafter = shares["target"] + shares["target_head"], shares["module"] + shares["draft_head"]
    rest = 1 - target - drafter - shares["lookup"] - shares["sampling"]
    text = (
        f"{target:.0%} is the target, {drafter:.0%} the drafter's module and head, {shares['lookup']:.0%} its lookup, "
        f"{shares['sampling']:.0%} sampling, {rest:.0%} vLLM around them ({name_of(row)}, batch {row['batch_size']})."
    )
    return "Of a round,", text
