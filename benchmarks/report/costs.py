"""Costs, as a section: a million output tokens with and without the drafter, break-even, when training is paid back."""

from collections.abc import Sequence

from vllm_mtp.benchmarks.report.charts import Line, lines
from vllm_mtp.benchmarks.report.config import ReportConfig
from vllm_mtp.benchmarks.report.cost import Cost, cost_of, hours_to_pay_back, speedup_that_pays
from vllm_mtp.benchmarks.report.gain import Gain
from vllm_mtp.benchmarks.report.page import Figure, Section, Table
from vllm_mtp.benchmarks.report.verdict import Group


def section(group: Group, config: ReportConfig, name: str) -> Section:
    """Of a group of speeds; `config` has a price, `name` is the plot's prefix."""
    assert config.price_per_hour is not None
    best = group.drafter
    costs = [cost_of(gain, config.price_per_hour) for gain in best]
    return Section(
        title=f"Cost: {group.title}",
        about=(
            f"At {money(config.price_per_hour, config)} an hour, for a machine that always has so many requests; "
            "its tokens are those of the speed that was measured. Each load has the drafter's fastest k."
        ),
        notes=_payback(best, config),
        figures=[_figure(best, costs, config, name)],
    )


def money(amount: float, config: ReportConfig) -> str:
    return f"{amount:,.2f} {config.currency}"


def cost_sentence(gain: Gain, config: ReportConfig) -> str:
    """What a million output tokens cost at one load."""
    assert config.price_per_hour is not None
    cost = cost_of(gain, config.price_per_hour)
    return (
        f"At {money(config.price_per_hour, config)} an hour and {at_once(gain.load)}, a million output tokens cost "
        f"{money(cost.without, config)} without the drafter and {_with_drafts(cost, config)} with it."
    )


def at_once(load: int) -> str:
    return f"{load} request{'s' if load > 1 else ''} at once"


def _with_drafts(cost: Cost, config: ReportConfig) -> str:
    bounds = cost.with_drafts_95
    return money(cost.with_drafts, config) + (f" ({bounds[0]:,.2f} to {bounds[1]:,.2f})" if bounds else "")


def _payback(best: Sequence[Gain], config: ReportConfig) -> list[str]:
    """Which speedup pays for training, and how long the smallest load takes for it."""
    if config.training_cost is None or config.price_per_hour is None:
        return []
    needed = speedup_that_pays(config.training_cost, config.price_per_hour, config.hours)
    return [
        f"A speedup of {needed:.3f}x or more pays for training, {money(config.training_cost, config)}, within "
        f"{config.hours:,.0f} hours of serving. Hours that it takes at {at_once(best[0].load)}: "
        f"{_hours(best[0], config)}."
    ]


def _hours(gain: Gain, config: ReportConfig) -> str:
    """When training is paid back, with an interval where the speedup has one."""
    assert config.training_cost is not None
    assert config.price_per_hour is not None
    speedups = (gain.speedup, *(gain.speedup_95 or ())[::-1])
    found = [hours_to_pay_back(config.training_cost, config.price_per_hour, speedup) for speedup in speedups]
    words = ["never" if hours is None else f"{hours:,.1f}" for hours in found]
    return f"{words[0]} ({' to '.join(words[1:])})" if words[1:] else words[0]


def _figure(best: Sequence[Gain], costs: Sequence[Cost], config: ReportConfig, name: str) -> Figure:
    pairs = list(zip(best, costs, strict=True))
    without = Line(label="without", points=[(gain.load, cost.without) for gain, cost in pairs])
    drafted = Line(
        label="with the drafter",
        points=[(gain.load, cost.with_drafts) for gain, cost in pairs],
        bounds=[cost.with_drafts_95 for cost in costs],
    )
    rows = [
        [str(gain.load), gain.method, gain.times, money(cost.without, config), _with_drafts(cost, config)]
        for gain, cost in pairs
    ]
    columns = ["requests at once", "fastest", "times as fast", "without", "with the drafter (95%)"]
    if config.training_cost is not None:
        columns.append("training paid back after hours (95%)")
        rows = [[*row, _hours(gain, config)] for row, gain in zip(rows, best, strict=True)]
    return Figure(
        title=f"{config.currency} for a million output tokens (bars: 95%, of the speedup)",
        svg=lines(name, [without, drafted], x="requests at once", y=config.currency, loads=True),
        table=Table(columns=columns, rows=rows),
    )
