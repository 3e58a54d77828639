"""The weights of a run at its first step, as `--module-init` says."""

# Shapes: B rows, L tokens of a row, T = L - 1, D hidden size.

from collections.abc import Iterator
from math import isfinite

from vllm_mtp.training.data.batches import Batch
from vllm_mtp.training.frozen.last_layer import LastLayer
from vllm_mtp.training.run import Run
from vllm_mtp.training.start.fitted import Rows, fit, fit_next_state
from vllm_mtp.training.start.last_layer import feed, with_last_layer

_TOKENS_PER_INPUT = 64
"""Positions to fit on, for each input of the projection."""
_SHARE_OF_RUN = 8
"""Of a run's tokens the fit reads at most one in so many: the target may have to run over them once more."""


def set_start(run: Run) -> None:
    """Gives a module of random weights what the run starts from, made of the batches that come first."""
    if run.config.module_init == "random":
        return
    if run.config.module_init == "last-layer":
        fault = _from_last_layer(run)
        if not fault:
            return
        run.inputs.say(f"the layer starts from random weights: {fault}")
    left = fit_next_state(run.module, run.target.head, _states(run), run.ranks)
    run.inputs.say(f"the projection starts from a fit that leaves {left:.0%} of the target's next state")


def _from_last_layer(run: Run) -> str:
    """Why the module does not have the target's last layer; empty where it has."""
    last = LastLayer.of(run.target)
    if last is None:
        return f"of {run.target.name} no last layer can be read"
    probe = run.batches[run.batches.index(0)]
    longest = probe.text_BS.sum(1).argmax()
    module, fault = with_last_layer(run.module, last, probe.ids_BL[longest, None, :-1])
    if run.ranks.any(module is None, run.target.device) or module is None:
        return fault or "another process found a fault"
    found = fit(module, run.target.head, _given(run, last), run.ranks)
    if not isfinite(found.unexplained):
        return "what the target's last layer reads cannot be fitted"
    feed(module, found)
    run.module.load_state_dict(module.state_dict())
    run.inputs.say(
        "the layer starts as the target's last, the projection from a fit that leaves "
        f"{found.unexplained:.0%} of what that layer reads"
    )
    return ""


def _states(run: Run) -> Iterator[Rows]:
    for index, part, rows in _parts(run):
        hidden_BTD = run.states.hidden_of(index, part)
        yield rows.ids_BL, hidden_BTD, hidden_BTD, rows.mask_BS


def _given(run: Run, last: LastLayer) -> Iterator[Rows]:
    for _, _, rows in _parts(run):
        given_BTD, hidden_BTD = last.read(rows.ids_BL[:, :-1])
        assert given_BTD is not None, "as it was for the probe"
        yield rows.ids_BL, hidden_BTD, given_BTD, rows.mask_BS


def _parts(run: Run) -> Iterator[tuple[int, slice, Batch]]:
    """Index of a batch, part of it that is this process's, and its rows: of as many batches as a fit wants."""
    wanted = min(_TOKENS_PER_INPUT * run.module.eh_proj.in_features, run.config.tokens // _SHARE_OF_RUN)
    num_tokens = 0
    for step in range(min(run.config.num_steps, len(run.batches))):
        index = run.batches.index(step)
        batch = run.batches[index]
        for part in run.ranks.mine(batch.parts(run.ranks.size * run.inputs.accumulate)):
            yield index, part, batch.rows(part)
        num_tokens += batch.num_tokens
        if num_tokens >= wanted:
            return
