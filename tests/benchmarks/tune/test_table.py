"""What a reader finds in the table."""

from tests.benchmarks.tune.made_up import result
from vllm_mtp.benchmarks.tune.table import table


def test_the_choice_comes_first_with_what_to_type() -> None:
    text = table(result())
    assert "temperature 0.7, top_p 0.9, top_k 0" in text
    assert "**Serve with mtp, no lookup k = 2, for which 1.50x (1.40-1.60) is predicted at batch size 4.**" in text
    assert "```\nvllm-mtp lookup draft --off\nvllm serve target ...\n```" in text
    assert "| 4 | 2 | 1.50x (1.40-1.60) | 1.60x (1.45-1.70) | -6% | 80.0 / 50.0 | 2.00 / 2.10 | 1.30 / 1.31 |" in text
    assert "| off | 2 | 2.00 | 3.00x | 1.50x |" in text
    assert "| off | 2.00 (1.90-2.10) | 0.60 0.40 |" in text


def test_whether_the_hour_can_be_in_the_error_is_said() -> None:
    found, said = result(), "Predicted costs were timed in turn with it"
    assert said not in table(found)
    assert said in table(found | {"choice": found["choice"] | {"costs_beside_verification": True}})


def test_what_does_not_pay_is_said_plainly() -> None:
    text = table(result(pays=False))
    assert "**Do not speculate.** The best of the settings is mtp, no lookup k = 2, for which 1.50x" in text
    assert "```\nvllm serve target ...\n```" in text
    assert "Verification" not in table(result(pays=False) | {"verification": []})


def test_where_else_it_pays_is_said() -> None:
    found = result(pays=False)
    assert "requests at once (--for-batch-size)" in table(found)


def test_a_verification_that_says_otherwise_is_told() -> None:
    found = result(pays=False)
    size = found["choice"]["for_batch_size"]
    verified = [row | {"batch_size": size} for row in found["verification"][:1]]
    assert "**The verification says otherwise**: 1.60x (1.45-1.70)" in table(found | {"verification": verified})
    assert "otherwise" not in table(result() | {"verification": verified})
    slower = [row | {"measured_speedup": 0.8, "measured_speedup_95": [0.7, 0.9]} for row in verified]
    assert "**The verification says otherwise**: 0.80x" in table(result() | {"verification": slower})
