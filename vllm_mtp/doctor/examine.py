"""All checks, in order; what depends on something that is broken is left out."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from vllm_mtp.doctor import drafter, engine, environment, target
from vllm_mtp.doctor.case import Case
from vllm_mtp.doctor.finding import ERROR, Finding, error


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """A question about a case."""

    name: str
    ask: Callable[[Case], Iterator[Finding]]
    needs: Sequence[str] = ()
    """Checks without whose answer it cannot be asked."""


CHECKS = (
    Check(name="vllm", ask=environment.vllm_is_here),
    Check(name="plugin", ask=environment.plugin_is_registered),
    Check(name="draft class", ask=environment.draft_class_loads, needs=("vllm", "plugin")),
    Check(name="path", ask=drafter.path_is_plain),
    Check(name="drafter", ask=drafter.folder_keeps_the_contract),
    Check(name="target", ask=target.target_is_read),
    Check(name="pair", ask=target.drafter_is_for_it, needs=("drafter", "target")),
    Check(name="weights", ask=target.weights_are_the_same, needs=("drafter", "target", "pair")),
    Check(name="tensor parallel", ask=drafter.ranks_divide_it, needs=("drafter", "target")),
    Check(name="engine", ask=engine.vllm_accepts_it, needs=("draft class", "drafter", "target", "tensor parallel")),
    Check(name="embedding", ask=engine.embedding_is_shared, needs=("engine",)),
    Check(name="memory", ask=drafter.memory_of_a_rank, needs=("engine",)),
    Check(name="context", ask=engine.context_is_trained, needs=("engine",)),
    Check(name="requests", ask=engine.default_requests_pass, needs=("engine",)),
    Check(name="lookup", ask=engine.lookup_is_on, needs=("engine",)),
    Check(name="options", ask=engine.options_go_together, needs=("engine",)),
)


def examine(case: Case) -> list[tuple[str, Finding]]:
    """Every finding with the name of its check."""
    found: list[tuple[str, Finding]] = []
    broken: set[str] = set()
    for check in CHECKS:
        if broken.intersection(check.needs):
            broken.add(check.name)
            continue
        said = answers(check, case)
        found += [(check.name, one) for one in said]
        if any(one.status == ERROR for one in said):
            broken.add(check.name)
    return found


def answers(check: Check, case: Case) -> list[Finding]:
    """What a check finds; whatever ends it is an error of one line."""
    try:
        return list(check.ask(case))
    except (ValueError, OSError) as refused:
        return [error(" ".join(str(refused).split()))]
    except Exception as unknown:  # a check that cannot be made says so, and the others are made
        return [error(f"could not be checked ({type(unknown).__name__}: {' '.join(str(unknown).split())})")]
