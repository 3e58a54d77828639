"""Workers on a Ray cluster, each of which keeps one engine or target, and one batch at a time.

Ray Data hands the tasks out and brings their results to this process, which alone writes them, each under its own name:
whatever Ray does twice is there once.

A worker that dies loses the task at hand; one whose engine or GPU fails after there was a result ends itself. Ray Data
starts it anew, or goes on without it where no node has room; what was lost is handed out again in a further pass. The
second in a row that brings nothing is the last one. Ray Data's retries of single tasks stay off: where a node goes, a
bounded number is used up within seconds, and without a bound the task waits for that node for ever.
"""

import logging
import math
import os
import pickle
import socket
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from vllm_mtp.common.errors import InputError
from vllm_mtp.training.cluster_options import ClusterOptions
from vllm_mtp.training.work import R, T, Work

logger = logging.getLogger(__name__)

_PASSES_IN_VAIN = 2
"""In a row, after which the work ends."""
_LOST_PER_WORKER = 4
"""Tasks that a pass may lose for each of its workers, before it ends early."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Machine:
    """What a worker takes, or what a node has."""

    gpus: float
    cpus: float
    node_id: str = ""
    address: str = ""

    def room_for(self, worker: "_Machine") -> int:
        """How many workers fit on a node."""
        by_gpus = self.gpus // worker.gpus if worker.gpus else math.inf
        by_cpus = self.cpus // worker.cpus if worker.cpus else math.inf
        return int(min(by_gpus, by_cpus, 1024))

    def __str__(self) -> str:
        return f"{self.cpus:g} CPUs and {self.gpus:g} GPUs"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """A cluster that this process is connected to, and the workers that it is to have."""

    worker: _Machine
    num_workers: int

    @property
    def has_gpus(self) -> bool:
        """Whether workers have GPUs."""
        return self.worker.gpus > 0

    def results(self, work: Work[T, R], tasks: Mapping[str, T]) -> Iterator[tuple[str, R]]:
        """See `Workers`; a task whose worker dies is done again by another."""
        from ray.exceptions import RayError

        waiting, num_in_vain = dict(tasks), 0
        while waiting:
            num_before, reason = len(waiting), ""
            try:
                for name, result in self._pass(work, waiting, has_worked=len(waiting) < len(tasks)):
                    if waiting.pop(name, None) is not None:
                        yield name, result
            except RayError as error:
                reason = _last_line(error)
            num_in_vain = num_in_vain + 1 if len(waiting) == num_before else 0
            if num_in_vain == _PASSES_IN_VAIN:
                raise InputError(
                    "ray",
                    f"workers die before they finish a batch, {num_before:,} are missing; Ray says: {reason}. What "
                    "they said last is in Ray's logs on their node (worker-*.err)",
                )
            if waiting:
                logger.warning("lost with their workers, and handed out again: %d batches", len(waiting))

    def _pass(self, work: Work[T, R], tasks: Mapping[str, T], *, has_worked: bool) -> Iterator[tuple[str, R]]:
        """Hands every task out once; `has_worked`: there were results before.

        Raises:
            InputError: what a worker says of a task that cannot be done.
            RayError: if too many are lost, or all of them.
        """
        import ray.data

        num_workers = min(self.num_workers, len(tasks))
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.max_errored_blocks = min(len(tasks) - 1, _LOST_PER_WORKER * num_workers)
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # a line and a traceback for each lost task
        rows = [{"name": name, "task": pickle.dumps(task)} for name, task in tasks.items()]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")  # max_task_retries is one
            results = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
                _Worker,
                fn_constructor_args=(work, has_worked),
                compute=ray.data.ActorPoolStrategy(size=num_workers, max_tasks_in_flight_per_actor=1),
                num_cpus=self.worker.cpus,
                num_gpus=self.worker.gpus,
                max_task_retries=0,
            )
        for row in results.iter_rows():
            result = pickle.loads(row["result"])
            if isinstance(result, _Fault):
                raise InputError(result.field, f"on {result.address}: {result.message}")
            yield row["name"], result


@dataclass(frozen=True, kw_only=True, slots=True)
class _Fault:
    """Why a task cannot be done, in place of its result."""

    field: str
    message: str
    address: str

    @classmethod
    def of(cls, error: Exception) -> "_Fault":
        import ray

        traceback.print_exception(error)  # to the worker's log
        if isinstance(error, InputError):
            field, message = error.field, error.message
        else:
            field, message = "ray", f"{type(error).__name__}: {error}"
        return cls(field=field, message=message, address=ray.util.get_node_ip_address())


class _Worker:
    """In a process of its own on a node: starts the work with its first task, and keeps it open."""

    def __init__(self, work: Work[Any, Any], has_worked: bool) -> None:
        import ray

        # The engine dies with this process.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        # vLLM would bind every engine of a machine to the same cores, its first.
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        self._work, self._ends = work, ExitStack()
        self._do: Callable[[Any], Any] | None = None
        self._has_worked = has_worked or ray.get_runtime_context().was_current_actor_reconstructed

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            if self._do is None:
                self._do = self._ends.enter_context(self._work.opened())
            result = self._do(pickle.loads(row["task"]))
            self._has_worked = True
        except Exception as error:
            is_of_task = isinstance(error, InputError) or (isinstance(error, ValueError) and self._do is not None)
            if self._has_worked and not is_of_task:  # a GPU that fell out, an engine whose processes are gone
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)
            result = _Fault.of(error)
        return {"name": row["name"], "result": pickle.dumps(result)}


@contextmanager
def on_cluster(options: ClusterOptions, num_gpus: int, check: Callable[[], None]) -> Iterator[Cluster]:
    """Connects to a cluster, or starts one for the time; arguments and errors are those of `workers`."""
    ray = import_ray()
    try:
        _check_answers(str(options.ray))
        ray.init(address=options.ray, log_to_driver=False, logging_level="ERROR")
    except (OSError, RuntimeError, ValueError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError("ray", f"expected a Ray cluster at {options.ray} that can be joined: {reason}") from error
    try:
        nodes = _nodes()
        worker = _worker(options, nodes, num_gpus)
        fitting = [node for node in nodes if node.room_for(worker)]
        if not fitting:
            raise InputError("ray", f"expected a node with {worker} for a worker, found {'; '.join(map(str, nodes))}")
        _check_nodes(fitting, check)
        by_room = sum(node.room_for(worker) for node in fitting) if worker.gpus else len(fitting)
        yield Cluster(worker=worker, num_workers=options.ray_workers or by_room)
    finally:
        ray.shutdown()


def _last_line(error: Exception) -> str:
    """What Ray's errors say at their end."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def _check_answers(address: str) -> None:
    """Refuses a HOST:PORT where nobody answers, for which Ray would wait minutes."""
    host, colon, port = address.rpartition(":")
    if colon and "/" not in address:
        socket.create_connection((host, int(port)), timeout=10).close()


def import_ray() -> Any:
    """The module.

    Raises:
        InputError: if it is not installed.
    """
    try:
        import ray.data
    except ImportError as error:
        raise InputError("ray", f"expected Ray here: pip install 'vllm-mtp[ray]' ({error})") from error
    return ray


def _nodes() -> list[_Machine]:
    import ray

    return [
        _Machine(
            gpus=node["Resources"].get("GPU", 0),
            cpus=node["Resources"].get("CPU", 0),
            node_id=node["NodeID"],
            address=node["NodeManagerAddress"],
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def _worker(options: ClusterOptions, nodes: Sequence[_Machine], num_gpus: int) -> _Machine:
    """What each worker takes: on GPUs one CPU, without them as much of a node as its number of workers leaves."""
    gpus = options.ray_gpus
    if gpus is None:
        gpus = num_gpus if any(node.gpus for node in nodes) else 0
    cpus = options.ray_cpus
    if cpus is None:
        each = math.ceil((options.ray_workers or 1) / len(nodes))
        cpus = 1 if gpus else max(1, min(node.cpus for node in nodes) // each)
    return _Machine(gpus=gpus, cpus=cpus)


def _check_nodes(nodes: Sequence[_Machine], check: Callable[[], None]) -> None:
    """Runs the check on every node, all at a time.

    Raises:
        InputError: naming the first node that fails it, or cannot even run it.
    """
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def fault_of(check: Callable[[], None]) -> str:
        try:
            check()
        except ValueError as error:
            return str(error)
        return ""

    remote = ray.remote(num_cpus=0, max_retries=0)(fault_of)
    on_node = [NodeAffinitySchedulingStrategy(node.node_id, soft=False) for node in nodes]
    found = [remote.options(scheduling_strategy=where).remote(check) for where in on_node]
    for node, fault in zip(nodes, found, strict=True):
        try:
            said = ray.get(fault)
        except RayError as error:
            said = _last_line(error)
        if said:
            raise InputError("ray", f"node {node.address} cannot be used: {said}")
