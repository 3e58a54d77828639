"""Prompts and settings, before anything is measured."""

from pathlib import Path

import pytest

from tests.drafts import config_for, write_random_draft
from vllm_mtp.benchmarks.harness.method import OFF
from vllm_mtp.benchmarks.harness.prompts import BenchmarkPrompt
from vllm_mtp.benchmarks.tune.config import TuneConfig
from vllm_mtp.benchmarks.tune.setup import lookups, set_up, spread
from vllm_mtp.cli import main
from vllm_mtp.contract.lookup import Lookup

ROOT = Path(__file__).resolve().parents[3]


def test_prompts_come_from_all_over_the_file_and_both_halves_have_every_task() -> None:
    some = [
        BenchmarkPrompt(number=number, category="", task="even" if number % 2 == 0 else "odd", token_ids=(1,))
        for number in range(100)
    ]
    found = spread(some, 20)
    assert len({one.number for one in found}) == 20
    for half in (found[::2], found[1::2]):
        assert sum(one.task == "even" for one in half) == 5
        assert max(one.number for one in half) > 80
    assert len(spread(some[:3], 20)) == 3
    assert {one.task for one in spread(some, 40)[:12:2]} == {"even", "odd"}, "a part of them is a sample too"


def test_lookups_to_choose_from() -> None:
    own = Lookup(min_match=3, module_steps=4)
    on = [Lookup(min_match=3, module_steps=steps) for steps in (1, 4)]
    config = TuneConfig(module_steps=(1,))
    assert lookups(config, own, on_cpu=True) == [*on, OFF]
    assert lookups(config, own, on_cpu=False) == [own, OFF]
    assert lookups(config, None, on_cpu=False) == [Lookup(), OFF]
    assert lookups(TuneConfig(lookup="off"), own, on_cpu=True) == [OFF]
    assert OFF not in lookups(TuneConfig(lookup="on"), own, on_cpu=True)


def test_halves_share_no_prompt(target_dir: Path, tmp_path: Path) -> None:
    draft = write_random_draft(tmp_path / "draft", config_for(target_dir))
    config = TuneConfig(max_prompts=10, dtype="float32", enforce_eager=True)
    setup = set_up(
        config,
        target=str(target_dir),
        draft=draft,
        prompts=ROOT / "examples" / "stdlib" / "prompts.txt",
        output=tmp_path / "out",
    )
    measured, held_out = ({one.number for one in half} for half in (setup.measured, setup.held_out))
    assert (len(measured), len(held_out), measured & held_out) == (5, 5, set())
    assert setup.engine.max_num_seqs == 16
    assert setup.own_lookup is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--for-batch-size", "3"], "--for-batch-size: expected one of 1 2 4 8 16"),
        (["--turns", "0"], "--turns: expected at least 2"),
        (["--lookup", "sometimes"], "invalid choice: 'sometimes'"),
    ],
)
def test_settings_that_cannot_be(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = main(["tune", "target", "draft", "--prompts", "p", "--output", "o", *words])
    except SystemExit as end:  # argparse's own
        status = int(str(end.code))
    assert status == 2
    assert said in capsys.readouterr().err


def test_one_prompt_is_not_enough(target_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draft = write_random_draft(tmp_path / "draft", config_for(target_dir))
    (tmp_path / "one.txt").write_text("import os\n")
    command = ["tune", str(target_dir), str(draft), "--prompts", str(tmp_path / "one.txt"), "--dtype", "float32"]
    assert main([*command, "--output", str(tmp_path / "out")]) == 2
    assert "--prompts: expected at least two that fit" in capsys.readouterr().err
