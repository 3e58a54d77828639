"""The demos' rows and tables: baseline, ratios, what must not be hidden."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.records import record
from vllm_mtp.benchmarks.demo.measure import Run
from vllm_mtp.benchmarks.demo.plot import _label, plot
from vllm_mtp.benchmarks.demo.report import rows_of, table
from vllm_mtp.benchmarks.harness.method import BASELINES, NONE, mtp
from vllm_mtp.benchmarks.harness.record import Record
from vllm_mtp.common.plots import write_plot
from vllm_mtp.contract.lookup import Lookup

IDS, LOOP = list(range(100)), [1, 2] * 50
# Of ten drafts of two tokens: eight accepted at position 0 and four at 1; all accepted.
SOME, ALL = [(2, 2)] * 4 + [(2, 1)] * 4 + [(2, 0)] * 2, [(2, 2)] * 10
ABOUT = {"max_tokens": 100, "compiled": True, "hardware": "cpu", "versions": {}, "target": "t"}


def both(*records: Record) -> list[Record]:
    """One of each task."""
    tasks = ("qa", "rag")
    return [replace(one, number=n, task=tasks[n], category=tasks[n]) for n, one in enumerate(records)]


def runs_of(exact_ids: list[int], drafted_seconds: float) -> list[Run]:
    plain = Run(method=NONE, exact=both(record(IDS), record(LOOP)))
    drafted = Run(method=mtp(2), exact=both(record(exact_ids), record(LOOP)))
    for temperature in (0.0, 1.0):
        plain.passes[temperature] = [both(record(IDS), record(LOOP))] * 3
        drafted.passes[temperature] = [
            both(record(IDS, SOME, k=2, seconds=drafted_seconds), record(LOOP, ALL, k=2, seconds=drafted_seconds))
        ] * 3
    return [plain, drafted]


def baseline_of(name: str, seconds: float) -> Run:
    k = BASELINES[name].num_speculative_tokens
    one = both(record(IDS, [(k, 1)], k=k, seconds=seconds), record(LOOP, [(k, k)], k=k, seconds=seconds))
    return Run(method=BASELINES[name], exact=both(record(IDS), record(LOOP)), passes={0.0: [one] * 3})


def test_rows() -> None:
    rows = rows_of(runs_of(IDS, drafted_seconds=0.5), 100)
    assert [(row["method"], row["num_speculative_tokens"], row["temperature"], row["speedup"]) for row in rows] == [
        ("none", 0, 0.0, 1.0),
        ("mtp", 2, 0.0, 2.0),
        ("none", 0, 1.0, 1.0),
        ("mtp", 2, 1.0, 2.0),
    ]
    assert [row["num_identical"] for row in rows] == [2, 2, None, None]
    assert rows[1]["output_tokens_per_second"] == pytest.approx(200)


def test_ratios_are_taken_pass_by_pass() -> None:
    """A machine that slows down for a whole pass slows both engines: medians apart would see a difference."""
    plain, drafted = runs_of(IDS, drafted_seconds=0.5)
    for run, seconds in ((plain, [1.0, 4.0, 2.0]), (drafted, [0.5, 2.0, 1.0])):
        rounds = None if run is plain else ALL
        run.passes = {0.0: [[record(IDS, rounds, k=2, seconds=one)] for one in seconds]}
        run.exact = [record([1])]
    assert rows_of([plain, drafted], 100)[1]["speedup_of_passes"] == [2.0, 2.0, 2.0]


def test_loops_are_counted_and_left_out_of_the_second_figure() -> None:
    row = rows_of(runs_of(IDS, drafted_seconds=0.5), 100)[1]
    assert (row["num_loops"], row["num_prompts"]) == (1, 2)
    assert row["acceptance_length"] == pytest.approx(2.6)
    assert row["acceptance_length_without_loops"] == pytest.approx(2.2)


def test_short_outputs_are_searched_for_loops_too() -> None:
    """48 tokens are fewer than the 64 of the usual window: no output would ever count as a loop."""
    [plain] = runs_of(IDS, 1.0)[:1]
    plain.passes = {0.0: [[record(LOOP[:48])]]}
    plain.exact = [record(LOOP)]
    assert rows_of([plain], 48)[0]["num_loops"] == 1


def test_the_table_tells_slowdowns_and_differences(tmp_path: Path) -> None:
    outcome: dict[str, Any] = {"rows": rows_of(runs_of([0] * 100, drafted_seconds=4.0), 100), **ABOUT}
    text = table(outcome | {"dtype": "float32"})
    assert "Slower than no speculation: k = 2 at temperature 0 (0.25x)" in text
    assert "NOT identical: k = 2, 1 of 2 outputs" in text
    assert "Identical: greedy token ids in float32" in table(outcome | {"dtype": "bfloat16"})
    assert "float32 on both sides, quantization fp8, cpu" in table(
        outcome | {"dtype": "float32", "engine_options": {"quantization": "fp8"}}
    )
    pytest.importorskip("matplotlib")
    write_plot(tmp_path / "plot.png", lambda pyplot: plot(outcome, pyplot))
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_baselines_tasks_and_what_could_not_be_measured(tmp_path: Path) -> None:
    """A baseline that is faster is named; one that is not there stays in the table with its reason."""
    runs = [*runs_of(IDS, drafted_seconds=0.5), baseline_of("ngram", 0.25)]
    runs.append(Run(method=BASELINES["suffix"], missing="needs a package"))
    rows = rows_of(runs, 100, by_task=True)
    assert [(row["method"], row["temperature"]) for row in rows] == [
        *(("none", 0.0), ("mtp", 0.0), ("ngram", 0.0), ("suffix", 0.0)),
        *(("none", 1.0), ("mtp", 1.0)),
    ]
    ngram = rows[2]
    assert ngram["tasks"]["rag"]["speedup"] == 4.0
    assert (ngram["speedup_95"], ngram["acceptance_length"]) == ((4.0, 4.0), 4.0)
    assert ngram["tokens_per_forward"] == pytest.approx(198 / 192, abs=1e-3)  # two drafts, 190 rounds without
    assert rows[3]["missing"] == "needs a package"
    text = table({"rows": rows, "dtype": "float32", **ABOUT})
    assert "Faster than that without a drafter: ngram k = 5, 4.00x." in text
    assert "| 0 | suffix | 8 | not measured |" in text
    assert "Not measured: suffix k = 8: needs a package." in text
    assert "| 0 | ngram | 5 | 400, 4.00x, 2.00 | 400, 4.00x, 6.00 |" in text
    assert "Tokens per forward" in text
    pytest.importorskip("matplotlib")
    write_plot(tmp_path / "plot.png", lambda pyplot: plot({"rows": rows, "target": "t"}, pyplot))
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_rows_with_and_without_lookup_are_told_apart(tmp_path: Path) -> None:
    """The same K three times: a summary that names the drafter by K alone says which one of no row."""
    runs = runs_of(IDS, drafted_seconds=0.5)
    for lookup, seconds in ((Lookup(), 0.25), ("off", 4.0)):
        run = Run(method=mtp(2, lookup=lookup), exact=both(record(IDS), record(LOOP)))
        run.passes[0.0] = [both(record(IDS, SOME, k=2, seconds=seconds), record(LOOP, ALL, k=2, seconds=seconds))] * 3
        runs.append(run)
    rows = rows_of(runs, 100, by_task=True)
    text = table({"rows": rows, "dtype": "float32", **ABOUT})
    assert "| 0 | mtp, lookup 2-8, 3 steps | 2 | 400 |" in text
    assert "Best at temperature 0: k = 2, lookup 2-8, 3 steps, 4.00x." in text
    assert "Slower than no speculation: k = 2, no lookup at temperature 0 (0.25x)." in text
    pytest.importorskip("matplotlib")
    write_plot(tmp_path / "plot.png", lambda pyplot: plot({"rows": rows, "target": "t"}, pyplot))
    assert len({_label(row) for row in rows}) == 4


def test_local_argmax_is_a_row_of_its_own() -> None:
    """The same K with and without stand beside each other, told apart in table and summary."""
    runs = runs_of(IDS, drafted_seconds=0.5)
    faster = Run(method=mtp(2, local_argmax=True), exact=both(record(IDS), record(LOOP)))
    faster.passes[0.0] = [both(record(IDS, SOME, k=2, seconds=0.25), record(LOOP, ALL, k=2, seconds=0.25))] * 3
    text = table({"rows": rows_of([*runs, faster], 100), "dtype": "float32", **ABOUT})
    assert "| 0 | mtp | 2 | 200 |" in text
    assert "| 0 | mtp, local argmax | 2 | 400 |" in text
    assert "Best at temperature 0: k = 2, local argmax, 4.00x." in text
