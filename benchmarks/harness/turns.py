"""Several engines at work on the same prompts in turn, so that a machine that changes its speed changes it for all."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from vllm_mtp.benchmarks.harness.engine import EngineProcess
from vllm_mtp.benchmarks.harness.record import Record, Request


def in_turn(
    engines: Sequence[EngineProcess],
    request: Request,
    *,
    prompts_per_turn: int,
    num_passes: int = 1,
    on_progress: Callable[[int], object] | None = None,
) -> list[list[list[Record]]]:
    """Every engine answers the request; the order of the engines is the other way round at every other turn.

    Args:
        engines: ready, and warmed up.
        request: of the first pass; each further pass adds 1000 to its seed.
        prompts_per_turn: after which the next engine has its turn.
        num_passes: over all prompts. A prompt's turn in one pass has the other order in the next.
        on_progress: called with the number of prompts that have just been finished, by whichever engine.

    Returns:
        By engine, and by pass, a record for each prompt.
    """
    num_prompts = len(request.prompts)
    found: list[list[list[Record]]] = [[[] for _ in range(num_passes)] for _ in engines]
    for number in range(num_passes):
        for turn, start in enumerate(range(0, num_prompts, prompts_per_turn)):
            seed = request.seed + 1000 * number + start
            part = replace(request, prompts=request.prompts[start : start + prompts_per_turn], seed=seed)
            places = range(len(engines))
            for place in reversed(places) if (turn + number) % 2 else places:
                found[place][number] += engines[place].measure(part, on_progress)
    return found
