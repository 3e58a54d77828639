"""`vllm-mtp bench training`: a step of training by its parts, beside what their arithmetic needs on this device.

The floor of a part is its matrix products at the rate that one large product reached in the same run. Real target, real
module, loss and optimizers, on random token ids; every part is waited for, and the whole step once without waiting.
"""

# Shapes: B rows, S tokens that the target sees, D hidden size, J draft vocabulary.

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vllm_mtp.benchmarks.harness.report import Result, made_on, markdown, write_report
from vllm_mtp.benchmarks.training import floor
from vllm_mtp.benchmarks.training.config import StepConfig
from vllm_mtp.benchmarks.training.counts import Counts, counted
from vllm_mtp.common.provenance import provenance
from vllm_mtp.module.mtp import MTPModule
from vllm_mtp.training.config import TrainConfig
from vllm_mtp.training.data.batches import Batch
from vllm_mtp.training.frozen.reading import BatchStates
from vllm_mtp.training.frozen.shape import TargetShape
from vllm_mtp.training.frozen.target import FrozenTarget
from vllm_mtp.training.loss.compiled import compiler_fault
from vllm_mtp.training.loss.fixed import FixedStep
from vllm_mtp.training.loss.loss import Loss, draft, score
from vllm_mtp.training.loss.mean_embedding import teacher_of
from vllm_mtp.training.loss.objective import teacher_rows
from vllm_mtp.training.loss.shapes import Shape
from vllm_mtp.training.optimizers import clip_gradient, make_optimizers, update
from vllm_mtp.training.start.initial import draft_config_for, make_module

PARTS = ("target", "teacher", "module", "loss", "backward", "update")
COMPILED = ("target", "teacher", "compiled", "backward", "update")
_HEADINGS = ("K", "part", "time, ms", "floor, ms", "times the floor", "operators", "written, MiB")
_PRODUCT_WIDTH = {"cuda": 8192, "cpu": 1024}


@dataclass(kw_only=True, slots=True)
class Step:
    """One step's parts, each of which leaves what the next one takes."""

    target: FrozenTarget
    module: MTPModule
    loss: Loss
    optimizers: list[torch.optim.Optimizer]
    batch: Batch
    num_steps: int
    fixed: FixedStep
    """Module and loss in one, compiled."""
    states: BatchStates | None = None
    drafted: Tensor | None = None
    value: Tensor | None = None

    def run(self, *parts: str) -> None:
        for part in parts:
            getattr(self, f"_{part}")()

    @torch.no_grad()
    def _target(self) -> None:
        self.states = BatchStates(self.target.hidden_states(self.batch.ids_BL[:, :-1]), None)

    @torch.no_grad()
    def _teacher(self) -> None:
        assert self.states is not None
        if self.loss.uses_mean_embedding:
            rows_N = teacher_rows(self.batch.mask_BS).to(self.target.device)
            hidden_ND = self.states.hidden_BSD.flatten(0, 1)[rows_N]
            self.states = BatchStates(self.states.hidden_BSD, teacher_of(hidden_ND, self.loss.head))

    def _module(self) -> None:
        assert self.states is not None
        self.drafted = draft(self.module, self.target, self.batch.ids_BL, self.states.hidden_BSD, self.num_steps)

    def _loss(self) -> None:
        assert self.drafted is not None
        assert self.states is not None
        where = self.loss.places(self.batch, self.num_steps).to(self.target.device)
        self.value = self.loss(self.drafted, where, self.states).loss_K.mean()

    def _compiled(self) -> None:
        assert self.states is not None
        self.value = self.fixed(self.module, self.loss, self.batch, self.states, self.num_steps).loss_K.mean()

    def _backward(self) -> None:
        assert self.value is not None
        self.value.backward()

    def _update(self) -> None:
        clip_gradient(self.module)
        update(self.optimizers, 1.0)


def bench(config: StepConfig, *, target: str, output: Path, device: str, command: str, **source: Any) -> int:
    """Measures, writes results.json, table.md and plot.png, and prints the table.

    Args:
        config: the shapes.
        target: folder or Hub id.
        output: folder.
        device: "auto", "cpu" or "cuda".
        command: for the report.
        source: revision and trust_remote_code of the target.

    Raises:
        ValueError: for a target that cannot be trained for.
    """
    frozen = FrozenTarget.load(target, device=device, dtype=config.dtype, **source)
    rate = _product_rate(frozen.device, frozen.dtype, config.repeats)
    rows: list[dict[str, Any]] = []
    why_not = why_not_compiled(config, frozen.device)
    result: dict[str, Any] = {
        **provenance(command),
        "target": frozen.name,
        "device": frozen.device.type,
        "dtype": frozen.dtype_name,
        "config": {name: getattr(config, name) for name in ("sequence_length", "batch_size", "draft_vocab_size")},
        "flops_per_second": rate,
        "not_compiled": why_not,
        "graphs": [],
        "rows": rows,
    }
    output.mkdir(parents=True, exist_ok=True)
    for num_steps in config.num_steps_unrolled:
        step = make_step(frozen, config, num_steps)
        result["loss"] = step.loss.note
        result["graphs"].append(graphs(step))
        rows += list(_measured(step, floors(step), rate, config.repeats, is_compiled=not why_not))
        write_report(result, output, table)
    print(write_report(result, output, table, plot))
    return 0


def make_step(target: FrozenTarget, config: StepConfig, num_steps: int) -> Step:
    """A step of these shapes, on rows of random tokens."""
    size = config.batch_size * config.sequence_length
    train = TrainConfig(
        tokens=size, sequence_length=config.sequence_length, batch_size=config.batch_size, num_steps_unrolled=num_steps
    )
    draft_ids_J = None if config.draft_vocab_size is None else torch.arange(config.draft_vocab_size)
    draft_config = draft_config_for(target.config, train, target.fingerprint(), draft_ids_J)
    module = make_module(draft_config, draft_ids_J, train.seed).to(target.device)
    ids_BL = torch.randint(target.vocab_size, (config.batch_size, config.sequence_length + 1))
    mask_BS = torch.ones(config.batch_size, config.sequence_length, dtype=torch.bool)
    batch = Batch(ids_BL, mask_BS, mask_BS)
    return Step(
        target=target,
        module=module,
        loss=Loss(target, draft_ids_J, train),
        optimizers=make_optimizers(module, train, target.dtype),
        batch=batch,
        num_steps=num_steps,
        fixed=FixedStep([Shape.of(batch)], "inductor", print),
    )


def why_not_compiled(config: StepConfig, device: torch.device) -> str:
    """Empty where the step is timed compiled too."""
    if config.compile == "off" or (config.compile == "auto" and device.type != "cuda"):
        return "not asked for"
    return compiler_fault(device)


def graphs(step: Step) -> dict[str, Any]:
    """What a compiler finds of module and loss, without compiling: the shape, graphs, their breaks and operators."""
    step.run("target", "teacher")
    where = step.loss.places(step.batch, step.num_steps).to(step.target.device)
    given = (step.module, step.loss, step.batch.ids_BL.to(step.target.device), step.states, where, step.num_steps)
    found = torch._dynamo.explain(score)(*given)
    return {
        "num_steps_unrolled": step.num_steps,
        "shape": Shape.of(step.batch)._asdict(),
        "graphs": found.graph_count,
        "graph_breaks": found.graph_break_count,
        "operators": found.op_count,
    }


def floors(step: Step) -> dict[str, int]:
    """Operations of each part's matrix products."""
    num_rows, length = step.batch.text_BS.shape
    num_positions = num_rows * length
    shape = TargetShape.of(step.target.config)
    hidden, draft_size = shape.hidden_size, step.loss.head.head_VD.size(0)
    head = {step.target.head.embedding_VD.data_ptr(), step.target.head.head_VD.data_ptr()}
    of_target = sum(p.numel() for p in step.target.model.parameters() if p.ndim > 1 and p.data_ptr() not in head)
    matrices = [(p.size(0), p.size(1)) for p in step.module.parameters() if p.ndim == 2]
    of_module = sum(m * n for m, n in matrices)
    config = step.module.config
    attention = floor.of_attention(num_rows, length, shape.num_attention_heads, shape.head_dim)
    drafted = length - step.num_steps
    own_attention = floor.of_attention(num_rows, drafted, config.num_attention_heads, config.head_dim)
    forward = step.num_steps * (floor.of_weights(num_rows * drafted, of_module) + own_attention)
    teacher = floor.of_teacher(num_positions, hidden, draft_size) if step.loss.uses_mean_embedding else 0
    return {
        "target": floor.of_weights(num_positions, of_target) + shape.num_hidden_layers * attention,
        "teacher": teacher,
        "module": forward,
        "loss": floor.of_loss(num_rows * drafted, hidden, draft_size, step.num_steps),
        "backward": 2 * forward,
        "update": floor.of_muon(matrices),
    }


def _measured(
    step: Step, floors_of: dict[str, int], rate: float, repeats: int, *, is_compiled: bool
) -> Iterator[dict[str, Any]]:
    """A row for each part and one for the whole step, two where it is compiled too and the compiler does not fail."""
    timed = {part: (part,) for part in PARTS} | {"step": PARTS} | ({"step, compiled": COMPILED} if is_compiled else {})
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for repeat in range(repeats + 1):
        for name, parts in timed.items():
            seconds[name].append(_seconds(partial(step.run, *parts), step.target.device))
        if not repeat:  # compiles, and warms up
            for found in seconds.values():
                found.clear()
    if is_compiled and not step.fixed.is_compiled:
        del seconds["step, compiled"]
    counts_of = _counts(step)
    for part, found in seconds.items():
        flops = floors_of.get(part, sum(floors_of.values()))
        median = statistics.median(found)
        yield {
            "num_steps_unrolled": step.num_steps,
            "part": part,
            "time_ms": round(1000 * median, 3),
            "fastest_ms": round(1000 * min(found), 3),
            "slowest_ms": round(1000 * max(found), 3),
            "floor_flops": flops,
            "floor_ms": round(1000 * flops / rate, 3),
            **(asdict(counts_of[part]) if part in counts_of else {}),
        }


def _counts(step: Step) -> dict[str, Counts]:
    """Of each part and of the whole step."""
    found = {}
    for part in PARTS:
        with counted() as found[part]:
            step.run(part)
    return found | {
        "step": Counts(
            operators=sum(counts.operators for counts in found.values()),
            written_bytes=sum(counts.written_bytes for counts in found.values()),
        )
    }


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    wait()
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start


def _product_rate(device: torch.device, dtype: torch.dtype, repeats: int) -> float:
    """Operations per second of a large matrix product."""
    width = _PRODUCT_WIDTH[device.type]
    factor = torch.randn(width, width, device=device).to(dtype)
    seconds = [_seconds(lambda: factor @ factor, device) for _ in range(repeats + 3)]
    return 2 * width**3 / statistics.median(seconds[2:])


def table(result: Result) -> str:
    """Markdown."""
    lines = [
        [
            str(row["num_steps_unrolled"]),
            row["part"],
            f"{row['time_ms']:,.1f} ({row['fastest_ms']:,.1f}-{row['slowest_ms']:,.1f})",
            f"{row['floor_ms']:,.1f}",
            f"{row['time_ms'] / row['floor_ms']:,.1f}" if row["floor_ms"] else "-",
            f"{row['operators']:,}" if "operators" in row else "-",
            f"{row['written_bytes'] / 2**20:,.0f}" if "operators" in row else "-",
        ]
        for row in result["rows"]
    ]
    config = result["config"]
    vocabulary = "all" if config["draft_vocab_size"] is None else f"{config['draft_vocab_size']:,}"
    return (
        f"{made_on(result)}. `{result['command']}`\n\n"
        f"{result['target']} in {result['dtype']}, {config['batch_size']} rows of {config['sequence_length']} tokens, "
        f"draft vocabulary: {vocabulary}; loss: {result['loss']}. Medians, fastest, slowest. The floor is its matrix "
        f"products at {result['flops_per_second'] / 1e12:,.3f} TFLOP/s, which one large product reached. "
        "Operators: calls of torch's, each a kernel or several, views left out; written: their results.\n\n"
        f"{markdown(_HEADINGS, lines)}\n\n{_said_of_graphs(result)}"
    )


def _said_of_graphs(result: Result) -> str:
    lines = [
        f"K = {found['num_steps_unrolled']}: module and loss are {found['graphs']} graph of {found['operators']:,} "
        f"operators for a compiler, with {found['graph_breaks']} breaks."
        for found in result["graphs"]
    ]
    if result["not_compiled"]:
        lines.append(f"Compiled it was not timed: {result['not_compiled']}.")
    if result["device"] == "cpu":
        lines.append("Operators and graphs are those of a GPU, times are not: give the same command there.")
    return " ".join(lines)


def plot(result: Result, pyplot: Any) -> Any:
    """Bars of time and floor, their parts stacked."""
    figure, axes = pyplot.subplots(figsize=(9, 3.2))
    counts = list(dict.fromkeys(row["num_steps_unrolled"] for row in result["rows"]))
    labels = [f"K = {count}, {what}" for count in counts for what in ("floor", "time")]
    lefts = [0.0] * len(labels)
    for part in PARTS:
        of_part = {row["num_steps_unrolled"]: row for row in result["rows"] if row["part"] == part}
        widths = [of_part[count][name] for count in counts for name in ("floor_ms", "time_ms")]
        axes.barh(labels, widths, left=lefts, label=part)
        lefts = [left + width for left, width in zip(lefts, widths, strict=True)]
    axes.set_xlabel("ms a step")
    axes.legend(fontsize=8)
    return figure
