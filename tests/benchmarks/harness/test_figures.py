"""From records to a row: tasks, context lengths, loops, identity, tokens per forward."""

import json
from dataclasses import replace

import pytest

from tests.benchmarks.records import record
from vllm_mtp.benchmarks.acceptance.table import table
from vllm_mtp.benchmarks.harness.figures import acceptance_row, by_context_length, tokens_per_forward
from vllm_mtp.benchmarks.harness.method import NONE, OFF, mtp
from vllm_mtp.benchmarks.harness.speed import speed_row

LOOP, STRAIGHT = [7, 8] * 50, list(range(100))


def test_rows_by_task_and_category() -> None:
    """Weighed by drafts, not by prompts; the eight categories of MT-Bench are one task."""
    records = [
        record(STRAIGHT, [(2, 2), (2, 2)], k=2, number=0, category="writing", task="mt_bench"),
        record(STRAIGHT, [(2, 0)], k=2, number=1, category="coding", task="mt_bench"),
        record(LOOP, [(2, 2)] * 3, k=2, number=2),
    ]
    plain = [record(STRAIGHT, number=number) for number in range(3)]
    row = acceptance_row(mtp(2), 0.0, records, without_speculation=plain, max_tokens=100)
    assert (row["num_prompts"], row["num_loops"], row["num_identical"]) == (3, 1, 2)
    assert row["acceptance_length"] == pytest.approx(1 + 10 / 6, abs=1e-4)
    assert row["acceptance_length_without_loops"] == pytest.approx(1 + 4 / 3, abs=1e-4)
    assert row["acceptance_length_95"][0] <= row["acceptance_length"] <= row["acceptance_length_95"][1]
    assert {name: figures["num_prompts"] for name, figures in row["tasks"].items()} == {"mt_bench": 2, "qa": 1}
    assert row["tasks"]["mt_bench"]["acceptance_length"] == pytest.approx(1 + 4 / 3, abs=1e-4)
    assert row["categories"]["coding"]["acceptance_length"] == 1.0
    assert "turns" not in row, "as rows are of conversations that are asked once"
    several = acceptance_row(mtp(2), 1.0, [*records, replace(records[0], turn=2)], max_tokens=100)
    assert {turn: figures["num_prompts"] for turn, figures in several["turns"].items()} == {"1": 3, "2": 1}
    assert row["categories"]["coding"]["conditional_acceptance_rate_per_position"] == (0.0, None)
    json.dumps(row, allow_nan=False)


def test_rounds_count_to_the_context_that_they_had() -> None:
    """A round belongs to the tokens before it: prompt, first token, and what the rounds before it gave."""
    records = [record(STRAIGHT, [(3, 1), (3, 3), (3, 0)], k=3, num_prompt_tokens=125)]
    found = by_context_length(records)  # contexts 126, 128 and 132
    assert {name: (part["num_drafts"], part["acceptance_length"]) for name, part in found.items()} == {
        "0-127": (1, 2.0),
        "128-255": (2, 2.5),
    }


def test_a_round_gives_what_came_out_of_it() -> None:
    """Catches accepted tokens beyond an output's end in the lengths, whole or by context; vLLM's counters have them."""
    records = [record(range(5), [(7, 7)], k=7), record(range(13), [(7, 7), (7, 7)], k=7)]
    row = acceptance_row(mtp(7), 0.0, records, max_tokens=100)
    assert row["acceptance_length"] == pytest.approx((4 + 12) / 3, abs=1e-4)
    assert (row["num_discarded_tokens"], row["acceptance_rate"]) == (8, 1.0)
    assert row["by_context_length"]["0-127"]["acceptance_length"] == row["acceptance_length"]
    without_rounds = [replace(one, rounds=None) for one in records]
    assert acceptance_row(mtp(7), 0.0, without_rounds, max_tokens=100)["acceptance_length"] == row["acceptance_length"]


def test_without_rounds_the_prompt_decides() -> None:
    without = replace(record(STRAIGHT, [(3, 1), (3, 3)], k=3, num_prompt_tokens=125), rounds=None)
    row = acceptance_row(mtp(3), 0.0, [without], max_tokens=100)
    assert by_context_length([record(STRAIGHT)]) == {}, "nothing was drafted"
    assert (list(row["by_context_length"]), row["context_length_is"]) == (["0-127"], "prompt")


def test_tokens_per_forward_counts_rounds_without_drafts() -> None:
    """N-gram drafting that finds one place in ten tokens: acceptance length 5, but hardly faster."""
    assert tokens_per_forward([record(range(11), [(4, 4)], k=4)]) == pytest.approx(10 / 6)
    assert tokens_per_forward([record(range(4), [(4, 4)], k=4)]) == 3.0, "the last draft went beyond the end"
    assert tokens_per_forward([record([1, 2])]) == 1.0


def test_the_table_has_every_kind_of_row() -> None:
    drafted, plain = [record(LOOP, [(2, 1), (2, 0)], k=2)], [record(STRAIGHT)]
    second = replace(drafted[0], turn=2)
    rows = [
        acceptance_row(NONE, 0.0, plain, without_speculation=plain, max_tokens=100),
        acceptance_row(mtp(2), 0.0, drafted, without_speculation=plain, max_tokens=100),
        acceptance_row(mtp(2), 1.0, [*drafted, second], max_tokens=100),
        acceptance_row(mtp(2, lookup=OFF, schedule=((1, 1, 2), (2, 9, 0))), 1.0, drafted, max_tokens=9),
    ]
    plain_faster = [replace(one, seconds=0.5) for one in plain]
    result = {
        "target": "t",
        "draft": "d",
        "draft_lookup": {"min_match": 2, "max_match": 8, "module_steps": 3},
        "prompts": {"file": "p", "sha256": "0" * 64, "num_prompts": 1, "num_left_out": 2, "chat_template": True}
        | {"turns": {"1": 1, "2": 1}},
        "settings": {
            "acceptance": {"max_tokens": 100, "dtype": "float32", "enforce_eager": True, "seed": 0, "max_num_seqs": 32}
            | {"top_p": 0.95, "engine_options": {"quantization": "fp8"}}
        },
        "kv_bytes_per_token": {"target": 1000, "drafter": 10},
        "rows": [row | {"seconds": 1.0, "peak_memory_mib": 1000} for row in rows],
        "speed_rows": [speed_row(mtp(2), 0.0, 1, [(plain, plain), (plain_faster, plain)])],
        "missing": {"suffix k = 8": "needs a package"},
        "made_with": [{"hardware": "cpu", "versions": {"vllm": "0.32.0"}}],
    }
    text = table(result)
    assert "NOT identical: mtp k = 2, 1 of 1 outputs." in text
    assert "Not measured: suffix k = 8: needs a package." in text
    assert "1 prompts of p, up to 2 turns each (sha256 000000000000, 2 too long and left out)" in text
    assert "float32, eager, top_p 0.95, quantization fp8, cpu" in text
    assert "| temperature | method | k | 1 | 2 |" in text
    assert "| 1 | mtp | 2 | 1.50 (1.50-1.50) | 1.50 (1.50-1.50) |" in text
    assert "| 1 | mtp | 2 | 0.50 0.00 | 0.50 0.00 |" in text
    assert text.startswith("d (lookup 2-8, 3 steps) for t;")
    assert "| 1 | mtp, no lookup, scheduled 1:1:2 2:9:0 | 2 | 0.50 0.00 | 0.50 0.00 |" in text
    assert "K draft tokens in a round of FIRST to LAST requests" in text
    assert "| 0 | mtp | 2 | 1 | 133.3 / 100.0 | 1.33x (1.00-2.00) | 2: 1.00x 2.00x |" in text
    [main] = [
        line for line in text.splitlines() if line.startswith("| 0 | mtp | 2 | 1.50 (1.50-1.50)") and "1,000" in line
    ]
    assert "| - | 1 of 1 | 0 of 1 |" in main, "no output is left without loops"
