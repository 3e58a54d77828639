"""`vllm-mtp monitor` as it is typed: one line for what cannot be watched."""

import pytest

from vllm_mtp.cli import main


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["127.0.0.1:9"], "vllm-mtp monitor: http://127.0.0.1:9/metrics: expected the metrics of a vLLM server"),
        (["127.0.0.1:9", "--interval", "0"], "vllm-mtp monitor: --interval: expected at least 0.1"),
        (["127.0.0.1:9", "--round-cost", "0.5"], "--round-cost: expected at least 1"),
        (
            ["127.0.0.1:9", "--tune", "no/such"],
            "--tune: expected the --output of `vllm-mtp tune`, found no",
        ),
        (["127.0.0.1:9", "--draft", "no/such"], "--draft: expected a drafter's folder with run_info.json"),
    ],
)
def test_bad_usage(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["monitor", *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
