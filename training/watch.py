"""What a run shows while it runs: a line of JSON a step in DRAFT_DIR/log/, and what watches runs elsewhere.

A run that goes on from a checkpoint takes back the lines after it. None of this is part of the drafter: the folder can
be deleted.
"""

import importlib.util
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from vllm_mtp.common.errors import InputError
from vllm_mtp.common.files import write_atomically
from vllm_mtp.training.record import Entry

logger = logging.getLogger(__name__)

REPORTS = ("jsonl", "tensorboard", "wandb", "trackio")
LOG_FOLDER = "log"
_STEPS_FILE = "steps.jsonl"
_PROJECT = "vllm-mtp"
Show = Callable[[int, Mapping[str, float]], None]
"""Takes values by name after a step."""


def check_reports(names: Sequence[str] | None) -> tuple[str, ...]:
    """What a run reports to: what was asked for, or JSON lines, and TensorBoard where it is installed.

    Raises:
        InputError: for a package that is not installed.
    """
    if names is None:
        return ("jsonl", "tensorboard") if _is_installed("tensorboard") else ("jsonl",)
    for name in names:
        if name != "jsonl" and not _is_installed(name):
            raise InputError("report_to", f"expected {name} in this environment, found none: pip install {name}")
    return tuple(names)


@contextmanager
def watch(names: Sequence[str], output: Path, first_step: int, config: Mapping[str, Any]) -> Iterator[Show]:
    """What to call after every step.

    Args:
        names: of REPORTS.
        output: the drafter's folder.
        first_step: steps that are done already; what was shown of later ones is taken back, as far as that can be.
        config: of the run, shown beside it.
    """
    shows: dict[str, Show] = {}

    def show(step: int, values: Mapping[str, float]) -> None:
        for name, one in list(shows.items()):
            try:
                one(step, values)
            except OSError as error:  # a full disk ends the run at its next checkpoint; what is shown is not worth that
                logger.warning("%s shows no more of this run: %s", name, error)
                del shows[name]

    ends = ExitStack()
    try:
        for name in names:
            shows[name] = _OPENERS[name](ends, output, first_step, config)
        yield show
    finally:
        with suppress(OSError):
            ends.close()


def values_of(entry: Entry, learning_rate_factor: float, tokens_per_second: float) -> dict[str, float]:
    """What is shown of a step, by names that tools sort into groups."""
    values = {"train/loss": entry.loss, "train/learning_rate_factor": learning_rate_factor}
    values |= _numbered("train/agreement", entry.agreement_per_position)
    values["train/tokens_per_second"] = round(tokens_per_second, 1)
    if entry.held_out is not None:
        values["held_out/loss"] = entry.held_out.loss
        values |= _numbered("held_out/agreement", entry.held_out.agreement_per_position)
        values |= _numbered("held_out/overlap", entry.held_out.overlap_per_position)
        values |= {f"held_out/{name}": value for name, value in entry.held_out.acceptance().items()}
    return values


def _numbered(name: str, values: Sequence[float]) -> dict[str, float]:
    return {f"{name}_{position}": value for position, value in enumerate(values)}


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _jsonl(ends: ExitStack, output: Path, first_step: int, config: Mapping[str, Any]) -> Show:
    path = output / LOG_FOLDER / _STEPS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = [line for line in _lines(path) if line["step"] <= first_step]
    write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept))

    def show(step: int, values: Mapping[str, float]) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    return show


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Lines that are there and whole; a killed run may have left half of one."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            return
        if isinstance(found, dict) and isinstance(found.get("step"), int):
            yield found


def _tensorboard(ends: ExitStack, output: Path, first_step: int, config: Mapping[str, Any]) -> Show:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(output / LOG_FOLDER), purge_step=first_step + 1)
    ends.callback(writer.close)

    def show(step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    return show


def _by_init_and_log(package: str) -> Callable[..., Show]:
    """Packages with the functions of W&B: init, log, finish."""

    def opened(ends: ExitStack, output: Path, first_step: int, config: Mapping[str, Any]) -> Show:
        module = importlib.import_module(package)
        module.init(project=_PROJECT, name=output.name, config=dict(config))
        ends.callback(module.finish)

        def show(step: int, values: Mapping[str, float]) -> None:
            module.log(dict(values), step=step)

        return show

    return opened


_OPENERS: Mapping[str, Callable[..., Show]] = {
    "jsonl": _jsonl,
    "tensorboard": _tensorboard,
    "wandb": _by_init_and_log("wandb"),
    "trackio": _by_init_and_log("trackio"),
}
