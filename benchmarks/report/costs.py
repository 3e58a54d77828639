"""Costs, as a section: a million output tokens with and without the drafter, break-even, when training is paid back."""

from collections.abc import Sequence

from vllm_mtp.benchmarks.harness.report import number
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
        notes=list(filter(None, [_payback(best[0], config)])),
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
    found = money(cost.with_drafts, config)
    return (
        found
        if cost.with_drafts_95 is None
        else f"{found} ({cost.with_drafts_95[0]:,.2f} to {cost.with_drafts_95[1]:,.2f})"
    )


def _payback(gain: Gain, config: ReportConfig) -> str:
    """When training is paid, at the smallest load."""
    cost, price = config.training_cost, config.price_per_hour
    if cost is None or price is None:
        return ""
    needed = speedup_that_pays(cost, price, config.hours)
    first = (
        f"Training for {money(cost, config)} is paid back within {config.hours:,.0f} hours of serving by a speedup of "
        f"{needed:.3f}x or more."
    )
    hours = hours_to_pay_back(cost, price, gain.speedup)
    if hours is None:
        return f"{first} At {at_once(gain.load)} with {gain.times} it is never paid back."
    return (
        f"{first} At {at_once(gain.load)} with {gain.times} that takes {hours:,.1f} hours{_bounds(gain, cost, price)}."
    )


def _bounds(gain: Gain, cost: float, price: float) -> str:
    if gain.speedup_95 is None:
        return ""
    slow, fast = (hours_to_pay_back(cost, price, speedup) for speedup in gain.speedup_95)
    return f" ({number(fast, 1)} to {'never' if slow is None else number(slow, 1)})"


def _figure(best: Sequence[Gain], costs: Sequence[Cost], config: ReportConfig, name: str) -> Figure:
    loads = [gain.load for gain in best]
    without = Line(label="without", points=[(load, cost.without) for load, cost in zip(loads, costs, strict=True)])
    drafted = Line(
        label="with the drafter",
        points=[(load, cost.with_drafts) for load, cost in zip(loads, costs, strict=True)],
        bounds=[cost.with_drafts_95 for cost in costs],
    )
    return Figure(
        title=f"{config.currency} for a million output tokens (bars: 95%, of the speedup)",
        svg=lines(name, [without, drafted], x="requests at once", y=config.currency, loads=True),
        table=Table(
            columns=["requests at once", "fastest", "times as fast", "without", "with the drafter (95%)"],
            rows=[
                [str(gain.load), gain.method, gain.times, money(cost.without, config), _with_drafts(cost, config)]
                for gain, cost in zip(best, costs, strict=True)
            ],
        ),
    )
