"""`vllm-mtp bench acceptance` on real vLLM, and what it counts against the engine's own counters."""

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.benchmarks.records import prompt
from tests.serving.engine import engine
from vllm_mtp.benchmarks.acceptance import bench as acceptance
from vllm_mtp.benchmarks.acceptance.config import AcceptanceConfig
from vllm_mtp.benchmarks.acceptance.measurement import (
    WITHOUT_SPECULATION,
    Measurement,
    by_engine,
    measurements_of,
    still_to_do,
)
from vllm_mtp.benchmarks.harness import engine_server
from vllm_mtp.benchmarks.harness.acceptance import total
from vllm_mtp.benchmarks.harness.engine import EngineError
from vllm_mtp.benchmarks.harness.method import BASELINES, NONE, OFF, mtp
from vllm_mtp.benchmarks.harness.record import Record, Request
from vllm_mtp.cli import main
from vllm_mtp.common.flags import add_fields, config_of

K = 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_speculative_tokens": (0,)}, "num_speculative_tokens: expected at least 1, got 0"),
        ({"temperature": (-1.0,)}, "temperature: expected at least 0, got -1.0"),
        ({"baselines": ("eagle",)}, "baselines: expected some of"),
        ({"dtype": "fp8"}, "dtype: expected one of"),
        ({"speed_batch": ()}, "speed_batch: expected at least one number"),
        ({"max_tokens": 1}, "max_tokens: expected at least 2, got 1"),
        ({"top_p": 0.0}, "top_p: expected more than 0 and at most 1, got 0.0"),
        ({"temperature": (0.0, float("nan"))}, "temperature: expected at least 0, got 0.0 nan"),
        ({"top_k": -1}, "top_k: expected at least 0, got -1"),
        ({"turns": 0}, "turns: expected at least 1, got 0"),
        ({"turns": 2, "no_chat_template": True}, "no_chat_template: expected no turns"),
        ({"speed_pairs": 0}, "speed_pairs: expected at least 1, got 0"),
        ({"lookup": ("on",)}, "lookup: expected drafter, off or"),
        ({"schedule": ("4:5",)}, "schedule: expected ranges of batch sizes FIRST:LAST:K"),
    ],
)
def test_bad_settings_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        AcceptanceConfig(**fields)


def test_rows_and_the_engines_that_serve_them() -> None:
    """The reference comes first; a method that remembers outputs gets a new engine for every row."""
    config = AcceptanceConfig(
        num_speculative_tokens=(1,), baselines=("suffix",), speed_prompts_per_task=2, speed_batch=(1, 4)
    )
    rows = measurements_of(config)
    assert rows[0] == WITHOUT_SPECULATION
    assert [row.name for row in rows if row.method == mtp(1)] == [
        *("acceptance-mtp-k1-t0", "acceptance-mtp-k1-t1"),
        *("speed-mtp-k1-t0-b1", "speed-mtp-k1-t0-b4", "speed-mtp-k1-t1-b1", "speed-mtp-k1-t1-b4"),
    ]
    assert [len(some) for some in by_engine(rows)] == [1, 6, *[1] * 6]
    assert measurements_of(AcceptanceConfig(temperature=(1.0,)))[0].method != NONE, (
        "nothing to compare sampled output with"
    )
    assert BASELINES["suffix"].remembers


def test_a_baseline_that_is_gone_is_missing_only_where_it_was_not_measured() -> None:
    """Its rows may be there from a time when its package was."""
    gone = replace(BASELINES["suffix"], package="no_such_package")
    rows = [Measurement(kind="acceptance", method=method, temperature=0.0) for method in (NONE, gone)]
    assert still_to_do(rows, {rows[0].name}) == ([], {str(gone): gone.why_missing()})
    assert still_to_do(rows, {row.name for row in rows}) == ([], {})
    assert still_to_do(rows, set()) == ([rows[0]], {str(gone): gone.why_missing()})


def test_local_argmax_is_for_speed_at_temperature_0() -> None:
    """vLLM has it for greedy drafting alone, and acceptance is the same with and without."""
    config = AcceptanceConfig(num_speculative_tokens=(1,), speed_prompts_per_task=2, local_argmax=True)
    assert [row.name for row in measurements_of(config) if row.method == mtp(1, local_argmax=True)] == [
        "speed-mtp-k1-argmax-t0-b1"
    ]


def test_every_k_with_each_lookup_and_a_schedule_after_them() -> None:
    """Local argmax leaves lookup and schedule as they are."""
    config = AcceptanceConfig(
        num_speculative_tokens=(1, 2),
        temperature=(0.0,),
        lookup=("drafter", "off"),
        schedule=("1:4:5", "5:16:0"),
        speed_prompts_per_task=2,
        local_argmax=True,
    )
    schedule = ((1, 4, 5), (5, 16, 0))
    drafters = [mtp(k, lookup=lookup) for k in (1, 2) for lookup in ("drafter", OFF)]
    drafters += [mtp(5, lookup=lookup, schedule=schedule) for lookup in ("drafter", OFF)]
    assert config.methods == drafters
    assert [row.method for row in measurements_of(config) if row.kind == "speed"] == [
        replace(one, local_argmax=True) for one in drafters
    ]
    assert len({row.name for row in measurements_of(config)}) == 1 + 2 * 6


def test_flags_become_the_config() -> None:
    """JSON and ranges as they are typed: the command line knows nothing of either."""
    parser = argparse.ArgumentParser()
    add_fields(parser, AcceptanceConfig)
    given = parser.parse_args(["--lookup", "off", '{"min_match": 3}', "--schedule", "1:4:5", "5:16:1"])
    config = config_of(AcceptanceConfig, given)
    assert config.lookup == ("off", '{"min_match": 3}')
    assert config.schedule == ("1:4:5", "5:16:1")
    assert config_of(AcceptanceConfig, parser.parse_args([])) == AcceptanceConfig()


def test_a_second_pair_has_rows_and_engines_of_its_own() -> None:
    """The first keeps its name: a folder with one pair gets the second alone."""
    config = AcceptanceConfig(num_speculative_tokens=(1,), temperature=(0.0,), speed_prompts_per_task=2, speed_pairs=2)
    assert [[row.name for row in some] for some in by_engine(measurements_of(config))[1:]] == [
        ["acceptance-mtp-k1-t0", "speed-mtp-k1-t0-b1"],
        ["speed-mtp-k1-t0-b1-pair2"],
    ]
    first, second = (row.about() for row in measurements_of(config) if row.kind == "speed")
    assert "pair" not in first, "as rows are that were stored before there were several"
    assert second == first | {"pair": 2}


def test_speed_is_measured_beside_an_engine_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches methods that share one engine without speculation, which may be slow all its life."""
    started: list[Any] = []
    alive: list[Any] = []
    baselines: dict[str, Any] = {}

    @contextmanager
    def engine_of(setup: Any, method: Any) -> Iterator[Any]:
        engine = SimpleNamespace(method=method)
        started.append(engine)
        alive.append(engine)
        yield engine
        alive.remove(engine)

    def measure_speed(setup: Any, row: Measurement, engine: Any, baseline: Any, on_progress: Any) -> dict[str, Any]:
        assert [one.method for one in alive] == [NONE, row.method]
        assert alive == [baseline, engine]
        baselines[row.name] = baseline
        return {}

    monkeypatch.setattr(acceptance, "_engine", engine_of)
    monkeypatch.setattr(acceptance, "_measure_speed", measure_speed)
    monkeypatch.setattr(acceptance, "_measure_acceptance", lambda *_: {})
    config = AcceptanceConfig(num_speculative_tokens=(1, 2), temperature=(0.0,), speed_prompts_per_task=2)
    store: Any = SimpleNamespace(save=lambda *_: None)
    written: list[int] = []
    progress = SimpleNamespace(set_description=str, update=int)
    acceptance.measure(Any, store, measurements_of(config), {}, progress, lambda: written.append(len(started)))
    assert written == [1, 3, 5], "after each engine's rows: a run that is killed leaves its tables"
    assert baselines["speed-mtp-k1-t0-b1"] is not baselines["speed-mtp-k2-t0-b1"]
    assert [engine.method for engine in started] == [NONE, NONE, mtp(1), NONE, mtp(2)]


@pytest.mark.parametrize(("dies", "refused"), [(NONE, True), (BASELINES["ngram"], False)])
def test_the_engine_that_ended_is_named(
    dies: Any, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a baseline that is blamed for the engine beside it."""
    setup: Any = SimpleNamespace(engine=SimpleNamespace(variants=tmp_path))

    @contextmanager
    def engine_of(setup: Any, method: Any) -> Iterator[Any]:
        if method == dies:
            raise EngineError("a vLLM engine ended\nfor want of memory", acceptance._log(setup, method))
        yield SimpleNamespace(method=method)

    monkeypatch.setattr(acceptance, "_engine", engine_of)
    rows = [Measurement(kind="speed", method=BASELINES["ngram"], temperature=0.0, batch_size=1)]
    arguments: Any = (setup, SimpleNamespace(), rows, {}, SimpleNamespace(), int)
    if refused:
        with pytest.raises(ValueError, match=rf"^the engine of {NONE} ended; its log is .*none"):
            acceptance.measure(*arguments)
    else:
        assert acceptance.measure(*arguments) == {str(BASELINES["ngram"]): "its engine ended: for want of memory"}


@pytest.mark.vllm
def test_acceptance_of_a_batch_adds_up(target_dir: Path, draft_dir: Path, prompts: list[list[int]]) -> None:
    """Each prompt's own rounds in a batch: together the engine's counters, alone the same as one by one.

    Catches counts that go to another prompt of the batch, and a fallback that counts something else.
    """
    asked = [prompt(*ids, number=number) for number, ids in enumerate(prompts[:4])]
    request = Request(prompts=asked, max_tokens=24, batch_size=4)
    finished: list[int] = []
    with engine(target_dir, draft_dir, K, per_request_spec_decode_metrics="detailed") as llm:
        batched = engine_server.measure(llm, request, finished.append)
        counters = engine_server.counters(llm)
        sampled = [
            engine_server.measure(llm, replace(request, temperature=1.0, **one), finished.append)
            for one in ({"top_k": 1}, {"top_p": 1e-6})
        ]
        alone, read_from_counters = [], []
        for one in asked:
            before = engine_server.counters(llm)
            alone += engine_server.measure(llm, replace(request, prompts=[one], batch_size=1), finished.append)
            read_from_counters.append(
                Record(token_ids=[], **engine_server.acceptance_of(llm, SimpleNamespace(), before))
            )
    counts = [one.acceptance for one in batched]
    assert total(counts) == counters
    assert total(counts).num_accepted_tokens > 0
    assert [one.token_ids for one in alone] == [one.token_ids for one in batched]
    assert [one.acceptance for one in alone] == counts
    assert [one.number for one in alone] == [one.number for one in batched] == [0, 1, 2, 3]
    assert [one.acceptance for one in read_from_counters] == counts
    assert all(one.rounds is None for one in read_from_counters)
    assert sum(finished) == 16
    for records in sampled:  # of one token there is only one to draw
        assert [one.token_ids for one in records] == [one.token_ids for one in batched]
    for one in batched:
        assert one.seconds_to_first_token is not None
        assert one.rounds is not None
        assert one.seconds_to_first_token > 0
        # 24 tokens but the first; vLLM counts what the last round accepted beyond them.
        assert 23 - K <= sum(accepted + 1 for _, accepted in one.rounds) <= 23 + K


@pytest.mark.vllm
@pytest.mark.extended
def test_bench_goes_on_where_it_was(
    target_dir: Path, draft_dir: Path, tmp_path: Path, prompts: list[list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole command: figures, files, what is taken from the folder, what is refused, what is never written."""
    file, template = tmp_path / "question.jsonl", tmp_path / "template.jinja"
    template.write_text("{% for message in messages %}{{ message['content'] }}\n{% endfor %}")
    lines = [{"category": c, "turns": [f"def secret_{c}(x):\n"]} for c in ("writing", "coding", "qa")]
    lines[0]["turns"] += ["def other(x):"]  # type: ignore[operator]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "out"
    command = ["bench", "acceptance", "--target", str(target_dir), "--draft", str(draft_dir), "--prompts", str(file)]
    command += ["--output", str(out), "--spec-tokens", str(K), "--temperature", "0", "--dtype", "float32"]
    command += ["--enforce-eager", "--max-num-seqs", "4", "--speed-prompts-per-task", "1"]
    command += ["--chat-template", str(template), "--turns", "2"]
    assert main([*command, "--max-tokens", "16"]) == 0
    result = json.loads((out / "results.json").read_text())
    plain, drafted = result["rows"]
    assert (plain["method"], drafted["method"], drafted["num_identical"]) == ("none", "mtp", 4)
    assert drafted["acceptance_length"] > 1
    assert {task: figures["num_prompts"] for task, figures in drafted["tasks"].items()} == {"mt_bench": 3, "qa": 1}
    assert {turn: figures["num_prompts"] for turn, figures in drafted["turns"].items()} == {"1": 3, "2": 1}
    assert drafted["context_length_is"] == "round"
    assert drafted["peak_memory_mib"] > 500
    [speed] = result["speed_rows"]
    assert (speed["batch_size"], speed["num_prompts"]) == (1, 2)
    assert result["prompts"]["file"] == "question.jsonl"
    written = "".join(path.read_text() for path in out.rglob("*") if path.suffix in (".json", ".md"))
    assert "secret" not in written, "no prompt is copied into the results"
    assert str(tmp_path) not in written

    capsys.readouterr()
    assert main([*command, "--max-tokens", "16"]) == 0
    assert "0 rows to measure, 3 taken from" in capsys.readouterr().err
    assert main([*command, "--max-tokens", "20"]) == 2
    assert "max_tokens: 16, now 20" in capsys.readouterr().err
