"""`vllm-mtp monitor`: looks at a server again and again, and shows or prints what it did meanwhile."""

import importlib.util
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_mtp.monitor.advice import TO_ACT_ON, Advice, advise
from vllm_mtp.monitor.config import MonitorConfig
from vllm_mtp.monitor.expected import expected_of
from vllm_mtp.monitor.figures import Figures, figures_of
from vllm_mtp.monitor.scrape import metrics_url, scrape
from vllm_mtp.monitor.screen import screen
from vllm_mtp.monitor.traffic import Traffic, joined
from vllm_mtp.monitor.tuned import Tuned

if TYPE_CHECKING:
    from rich.console import Group


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What there is to show."""

    url: str
    last: Figures
    """Since the look before."""
    window: Figures
    advice: Advice
    """Judged over the window."""
    trouble: str = ""
    """Why the server could not be read just now; the rest is of the last time that it could."""


Show = Callable[[Look], None]


def monitor(
    config: MonitorConfig, *, url: str, draft: Path | None, tune: Path | None, once: bool, as_json: bool
) -> int:
    """Watches until interrupted, or over one interval.

    Args:
        config: how.
        url: of the server.
        draft: folder of its drafter.
        tune: folder that `vllm-mtp tune` wrote.
        once: over one interval.
        as_json: print lines of JSON.

    Returns:
        0, or 1 if the last advice was to do something.

    Raises:
        ConnectionError: for a server that does not answer at the start; later the screen says so.
        ValueError: for a drafter without held-out figures, or where a package is missing.
    """
    if not as_json and importlib.util.find_spec("rich") is None:
        raise ValueError("expected rich, found none: pip install 'vllm-mtp[monitor]', or give --json")
    action = ""
    with suppress(KeyboardInterrupt), _shown(as_json, once) as show:
        for look in looks(config, url=url, draft=draft, tune=tune, once=once):
            show(look)
            action = look.advice.action
    return int(action in TO_ACT_ON)


def looks(config: MonitorConfig, *, url: str, draft: Path | None, tune: Path | None, once: bool) -> Iterator[Look]:
    """A look after every interval; `monitor` says what it raises."""
    tuned = None if tune is None else Tuned.read(tune)
    address, expected = metrics_url(url), expected_of(config, draft, None if tuned is None else tuned.expected)
    before = scrape(address, config.timeout)
    parts: list[Traffic] = []
    look: Look | None = None
    while look is None or not once:
        time.sleep(config.interval)
        try:
            now = scrape(address, config.timeout)
        except ConnectionError as error:
            if look is None:
                raise
            yield replace(look, trouble=str(error))
            continue
        parts = _within([*parts, Traffic.between(before, now)], config.window)
        before = now
        window, now_config = joined(parts), _with_cost(config, tuned, parts[-1])
        look = Look(
            url=address,
            last=figures_of(parts[-1], now_config.round_cost),
            window=figures_of(window, now_config.round_cost),
            advice=advise(window, now_config, expected),
        )
        yield look


def _with_cost(config: MonitorConfig, tuned: Tuned | None, last: Traffic) -> MonitorConfig:
    """With the cost of a round at the load of now, where none was told and `tune` measured it."""
    if config.round_cost is not None or tuned is None:
        return config
    return replace(config, round_cost=tuned.round_cost(figures_of(last, None)))


def _within(parts: Sequence[Traffic], seconds: float) -> list[Traffic]:
    """The last parts that fit into so many seconds, one at least."""
    kept = [parts[-1]]
    for part in reversed(parts[:-1]):
        if sum(one.seconds for one in kept) + part.seconds > seconds:
            break
        kept.insert(0, part)
    return kept


@contextmanager
def _shown(as_json: bool, once: bool) -> Iterator[Show]:
    """How looks are shown: as JSON, as a screen that stays in place, or, where there is none, one below another."""
    if as_json:
        yield lambda look: print(json.dumps(asdict(look)), flush=True)
        return
    from rich.console import Console
    from rich.live import Live

    console = Console()
    if once or not console.is_terminal:
        yield lambda look: console.print(_screen(look))
        return
    with Live(console=console, auto_refresh=False) as live:
        live.update("The first figures come after one interval.", refresh=True)
        yield lambda look: live.update(_screen(look), refresh=True)


def _screen(look: Look) -> "Group":
    stretches = [look.last] if look.last == look.window else [look.last, look.window]
    return screen(look.url, stretches, look.advice, look.trouble)
