"""What a page says of costs, against numbers worked out by hand."""

from dataclasses import replace

from tests.benchmarks.report.test_cost import gain
from vllm_mtp.benchmarks.report.config import ReportConfig
from vllm_mtp.benchmarks.report.costs import cost_sentence, section
from vllm_mtp.benchmarks.report.verdict import Group

# Without drafts 100 tokens a second: a million are 10,000 seconds, 20.00 at 7.2 an hour.
BEST = [gain(1.6, (1.25, 2.0)), replace(gain(0.8, (0.5, 1.1)), load=8), replace(gain(1.25), load=16)]
GROUP = Group(title="some", drafter=BEST, baselines=[])


def test_a_sentence_and_a_row_for_each_load() -> None:
    config = ReportConfig(price_per_hour=7.2, currency="EUR")
    assert cost_sentence(BEST[0], config) == (
        "At 7.20 EUR an hour and 1 request at once, a million output tokens cost 20.00 EUR without the drafter and "
        "12.50 EUR (10.00 to 16.00) with it."
    )
    found = section(GROUP, config, "cost")
    assert found.notes == []
    assert [row[4] for row in found.figures[0].table.rows] == [
        "12.50 EUR (10.00 to 16.00)",
        "25.00 EUR (18.18 to 40.00)",
        "16.00 EUR",
    ]


def test_training_is_paid_back() -> None:
    # An hour saves 7.2 x 0.6, at the ends 7.2 x 1 and 7.2 x 0.25; within 100 hours 72 are saved by 1.1x.
    found = section(GROUP, ReportConfig(price_per_hour=7.2, training_cost=72.0, hours=100), "cost")
    assert [row[5] for row in found.figures[0].table.rows] == ["16.7 (10.0 to 40.0)", "never (100.0 to never)", "40.0"]
    assert found.notes == [
        "A speedup of 1.100x or more pays for training, 72.00 USD, within 100 hours of serving. Hours that it takes at "
        "1 request at once: 16.7 (10.0 to 40.0)."
    ]
