"""TrainConfig beside what earlier versions stored. Catches a drafter that cannot be gone on with after an update."""

from dataclasses import asdict

import pytest

from vllm_mtp.training.config import TrainConfig


def test_a_config_that_was_stored_with_zeros() -> None:
    old = asdict(TrainConfig()) | {"data_tokens": 0, "learning_rate": 0.0, "intermediate_size": 0}
    old |= {"num_attention_heads": 0, "num_key_value_heads": 0}
    assert TrainConfig().differences(old) == []
    assert TrainConfig(data_tokens=9).differences(old) == ["data_tokens: None, now 9"]
    assert TrainConfig().differences(old | {"seed": 1, "warmup_steps": 0}) == [
        "warmup_steps: 0, now 20", "seed: 1, now 0"
    ]  # fmt: skip


def test_a_config_that_was_stored_with_answers_only() -> None:
    old = {name: value for name, value in asdict(TrainConfig()).items() if name != "loss_on"}
    assert TrainConfig().differences(old | {"answers_only": False}) == []
    assert TrainConfig(loss_on="answers").differences(old | {"answers_only": True}) == []
    assert TrainConfig().differences(old | {"answers_only": True}) == ["loss_on: 'answers', now None"]


def test_a_config_that_was_stored_before_step_tokens() -> None:
    old = {name: value for name, value in asdict(TrainConfig()).items() if name != "step_tokens"}
    assert TrainConfig(step_tokens="text").differences(old) == []
    assert TrainConfig(step_tokens="drafted").differences(old) == ["step_tokens: 'text', now 'drafted'"]


def test_a_config_that_was_stored_before_the_last_layer() -> None:
    """The run goes on with what was the default then, and the names of what differs are today's flags."""
    stored = asdict(TrainConfig()) | {"projection_init": "fitted", "qk_norm": False}
    old = {name: value for name, value in stored.items() if name not in ("module_init", "attention_bias")}
    as_then = TrainConfig(module_init="fitted", qk_norm=False, attention_bias=False)
    assert as_then.differences(old) == []
    assert TrainConfig().differences(old) == [
        "module_init: 'fitted', now 'last-layer'", "qk_norm: False, now None", "attention_bias: False, now None"
    ]  # fmt: skip


def test_how_often_a_checkpoint_is_written_holds_no_run_back() -> None:
    """Where the last module is kept: whoever runs out of disk writes less often, and goes on."""
    other = asdict(TrainConfig(checkpoint_every=7))
    assert TrainConfig().differences(other) == []
    assert TrainConfig(keep="best").differences(other | {"keep": "best"}) == ["checkpoint_every: 7, now 100"]


def test_automatic_learning_rates() -> None:
    assert TrainConfig().peak_learning_rate == 0.02
    assert TrainConfig(optimizer="adamw").peak_learning_rate == 0.001
    assert TrainConfig(learning_rate=0.5).peak_learning_rate == 0.5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tokens", 0), ("data_tokens", 0), ("batch_size", 0), ("intermediate_size", 0), ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("step_weight_decay", 0.0), ("decay_fraction", 1.1), ("single_step_fraction", 1.0), ("sequence_length", 8),
        ("objective", "mse"), ("optimizer", "sgd"), ("dtype", "int8"), ("loss_on", "questions"),
        ("step_tokens", "sampled"),
    ],
)  # fmt: skip
def test_the_field_is_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        TrainConfig(**{name: value})  # type: ignore[arg-type]
