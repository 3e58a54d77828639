"""How figures look in a terminal. `rich` is imported where it is drawn with."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from vllm_mtp.monitor.advice import TO_ACT_ON, Advice
from vllm_mtp.monitor.figures import Figures

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

_ROWS: tuple[tuple[str, Callable[[Figures], str]], ...] = (
    ("requests running / waiting", lambda one: f"{one.requests_running} / {one.requests_waiting}"),
    ("tokens/s", lambda one: _number(one.tokens_per_s, ".1f")),
    ("rounds/s", lambda one: _number(one.rounds_per_s, ".1f")),
    ("ms between outputs", lambda one: _number(one.latency_ms, ".1f")),
    ("drafted tokens a round", lambda one: _number(one.drafted_per_round, ".2f")),
    ("acceptance length", lambda one: _with_interval(one)),
    ("drafted tokens wasted", lambda one: _number(one.wasted_share, ".1%")),
    ("estimated gain", lambda one: _number(one.estimated_gain, ".2f", "x")),
)


def screen(url: str, stretches: Sequence[Figures], advice: Advice, trouble: str = "") -> "Group":
    """Tables of figures, a column for each stretch of time, and the advice that the last one gave.

    Args:
        url: of the server.
        stretches: the last look, and the window.
        advice: judged over the window.
        trouble: why the server could not be read just now.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table("", *(f"last {one.seconds:.0f} s" for one in stretches), title=url, title_justify="left")
    for name, shown in _ROWS:
        table.add_row(name, *map(shown, stretches))
    color = "yellow" if advice.action in TO_ACT_ON else "green"
    said = [Text(advice.sentence, style=color), *([Text(trouble, style="red")] if trouble else [])]
    return Group(table, _positions(stretches[-1]), *said)


def _positions(figures: Figures) -> "Table":
    from rich.table import Table

    table = Table("position", "accepted", "of those that the position before was", title="acceptance rate")
    rates = figures.acceptance_rate_per_position or []
    conditional = figures.conditional_acceptance_rate_per_position or []
    for position, (rate, given) in enumerate(zip(rates, conditional, strict=True)):
        table.add_row(str(position), f"{rate:.1%}", _number(given, ".1%"))
    return table


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"


def _with_interval(figures: Figures) -> str:
    if figures.acceptance_length is None or figures.acceptance_length_95 is None:
        return "-"
    return "{:.2f} ({:.2f} to {:.2f})".format(figures.acceptance_length, *figures.acceptance_length_95)
