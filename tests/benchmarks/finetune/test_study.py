"""The study of fine-tunes without its engines: which drafters it compares, and that what is measured is kept.

Catches: two drafters that share a folder, and a table made of figures that belong to another fine-tune.
"""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.benchmarks.records import prompt, record
from tests.drafts import small_config, write_random_draft
from vllm_mtp.benchmarks.finetune.study import ROW, Arm, Study, arms_of, run, store_of
from vllm_mtp.benchmarks.harness.figures import figures

MADE_WITH = {"command": "test", "seed": 0, "hardware": "a processor", "versions": {"torch": "2"}}
TUNED = {
    "tokens": 1000,
    "held_out_nats_per_token": {"before": 2.0, "after": 1.5},
    "share_of_greedy_outputs_that_differ": 0.9,
}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    draft = write_random_draft(tmp_path / "draft", small_config())
    target = write_random_draft(tmp_path / "tuned" / "target", small_config(), seed=1)  # weights of any kind
    (tmp_path / "tuned" / "tuned.json").write_text(json.dumps(TUNED))
    return Study(draft=draft, tuned=target, data=tmp_path, prompts=[prompt(1, 2)], output=tmp_path / "study")


def test_every_drafter_has_a_folder_of_its_own() -> None:
    arms = arms_of([25, 50], [0.005], [0, 1])
    assert len({arm.name for arm in arms}) == len(arms) == 2 + 2 * 2 * 2 + 2 * 2
    assert [(arm.on, arm.start, arm.tokens) for arm in arms[:3]] == [
        ("old", "old drafter", 0),
        ("tuned", "old drafter", 0),
        ("tuned", "old drafter", 25),
    ]


def test_what_is_measured_is_not_measured_again(study: Study) -> None:
    found = asdict(figures([record([1, 2, 3, 4], [(3, 2)], k=3)], max_tokens=4))
    arms = [Arm(start="old drafter", tokens=25, seed=seed) for seed in (0, 1)]
    for arm in arms:
        row = asdict(arm) | {"temperatures": {"0": found, "1": found}, "made_with": MADE_WITH}
        store_of(study).save(arm.name, ROW, row)
    run(study, arms, "test")
    assert len(json.loads((study.output / "results.json").read_text())["arms"]) == 2
    text = (study.output / "table.md").read_text()
    assert "| tuned | from the old one | 25 | 0.02 | 3.00 (3.00-3.00), 3.00 (3.00-3.00) |" in text
    assert text.endswith("| 0 of 1, 0 of 1 |\n")
    assert "2.00 nats/token on held-out text before, 1.50 after, 90% of greedy outputs differ" in text


def test_rows_of_another_fine_tune_are_refused(study: Study) -> None:
    store_of(study).save("any", ROW, {})
    write_random_draft(study.tuned, small_config(), seed=2)
    with pytest.raises(ValueError, match="tuned"):
        store_of(study)
