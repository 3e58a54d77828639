"""training.png: how a run went, over the tokens that it saw."""

from collections.abc import Mapping, Sequence
from typing import Any

from vllm_mtp.training.config import NUM_SPECULATIVE_TOKENS
from vllm_mtp.training.record import Entry, HeldOut

PLOT_FILE = "training.png"


def plot(log: Sequence[Entry], info: Mapping[str, Any], pyplot: Any) -> Any:
    """Loss, held-out agreement per position, and held-out acceptance length with its interval; None without a step.

    Args:
        log: of the whole run.
        info: content of its run_info.json.
        pyplot: of matplotlib.
    """
    if not log:
        return None
    tokens_per_step = info["tokens_seen"] / log[-1].step
    measured = [(entry.step * tokens_per_step, entry.held_out) for entry in log if entry.held_out is not None]
    figure, (loss_axes, agreement_axes, length_axes) = pyplot.subplots(1, 3, figsize=(15, 4.5))
    tokens = [entry.step * tokens_per_step for entry in log]
    loss_axes.plot(tokens, [entry.loss for entry in log], color="tab:blue", alpha=0.4, label="training")
    _draw_held_out(loss_axes, agreement_axes, measured)
    _draw_lengths(length_axes, measured)
    loss_axes.set_title(f"Loss ({info['config']['objective'].upper()})")
    agreement_axes.set_title("Held-out agreement, by position of the draft token")
    length_axes.set_title(f"Held-out acceptance length, k = {NUM_SPECULATIVE_TOKENS} (band: 95%)")
    for axes in (loss_axes, agreement_axes, length_axes):
        axes.set_xlim(left=0)
        axes.set_xlabel("tokens seen")
    for axes in (loss_axes, agreement_axes):
        axes.legend()
    figure.suptitle(f"MTP drafter for {info['target']['name']}")
    figure.tight_layout()
    return figure


def _draw_held_out(loss_axes: Any, agreement_axes: Any, measured: Sequence[tuple[float, HeldOut]]) -> None:
    tokens = [place for place, _ in measured]
    loss_axes.plot(tokens, [one.loss for _, one in measured], color="tab:blue", marker="o", label="held out")
    for position in range(len(measured[-1][1].agreement_per_position) if measured else 0):
        agreement = [one.agreement_per_position[position] for _, one in measured]
        agreement_axes.plot(tokens, agreement, marker="o", label=f"{position}")
    agreement_axes.set_ylim(0, 1)


def _draw_lengths(axes: Any, measured: Sequence[tuple[float, HeldOut]]) -> None:
    found = [(place, *one.acceptance().values()) for place, one in measured if one.acceptance()]
    if not found:
        return
    tokens, lengths, lows, highs = zip(*found, strict=True)
    axes.fill_between(tokens, lows, highs, alpha=0.25)
    axes.plot(tokens, lengths, marker="o")
    axes.set_ylim(bottom=1)
