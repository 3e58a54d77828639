"""`vllm-mtp report` as it is typed: one line for what cannot be reckoned with."""

import pytest

from vllm_mtp.cli import main


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--price-per-hour", "-1"], "vllm-mtp report: --price-per-hour: expected more than 0, got -1"),
        (["--price-per-hour", "nan"], "vllm-mtp report: --price-per-hour: expected more than 0, got nan"),
        (["--training-cost", "9"], "vllm-mtp report: --training-cost: expected --price-per-hour beside it"),
        ([], "vllm-mtp report: expected a folder with results.json, as a benchmark writes it, got no/such"),
    ],
)
def test_bad_usage(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "no/such", "--output", "never.html", *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
