"""GenerateConfig as it is stored. Catches a finished set that an update refuses, and an option that is not stored."""

from dataclasses import asdict

import pytest

from vllm_mtp.common.engine_options import EngineOptions
from vllm_mtp.training.data.chat.options import TemplateOptions
from vllm_mtp.training.data.generate_config import GenerateConfig, config_differences


def test_what_was_stored_under_earlier_names() -> None:
    now = GenerateConfig().stored()
    old = {("temperatures" if name == "temperature" else name): value for name, value in now.items()}
    assert "engine_options" not in now
    assert config_differences(old, now) == []
    assert config_differences(old | {"temperatures": (1.0,)}, now) == ["temperature: (1.0,), now (0.0, 0.6, 1.0)"]


def test_engine_options_are_stored() -> None:
    quantized = GenerateConfig(engine_options=EngineOptions(quantization="fp8")).stored()
    plain = GenerateConfig().stored()
    assert config_differences(plain, quantized) == ["engine_options: None, now {'quantization': 'fp8'}"]
    assert config_differences(quantized, plain) == ["engine_options: {'quantization': 'fp8'}, now None"]
    everything = GenerateConfig(
        engine_options=EngineOptions(quantization="fp8"), template=TemplateOptions(chat_template_kwargs='{"a": 1}')
    )
    assert everything.stored().keys() == asdict(GenerateConfig()).keys() - {"skip_bad"}
    assert config_differences(quantized, everything.stored()) == [
        "template: None, now {'chat_template_kwargs': {'a': 1}}"
    ]


def test_a_run_goes_on_with_less_memory() -> None:
    """Stored by an earlier version, memory was among what decides the data."""
    now = GenerateConfig(engine_options=EngineOptions(quantization="fp8", gpu_memory_utilization=0.5)).stored()
    before = now | {"engine_options": {"quantization": "fp8", "gpu_memory_utilization": 0.9}}
    assert config_differences(before, now) == []
    alone = GenerateConfig().stored() | {"engine_options": {"gpu_memory_utilization": 0.9}}
    assert config_differences(alone, GenerateConfig().stored()) == []


def test_what_was_not_said_before_is_what_was_done() -> None:
    now = GenerateConfig().stored()
    old = {name: value for name, value in now.items() if name not in ("turns", "near_duplicates")}
    assert config_differences(old, now) == []
    assert config_differences(old, GenerateConfig(turns="all").stored()) == ["turns: 'last', now 'all'"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("self_prompts", -1),
        ("temperature", (-1.0,)),
        ("min_p", 1.0),
        ("max_model_len", 256),
        ("dtype", "int8"),
        ("turns", "some"),
        ("near_duplicates", 1.1),
    ],
)
def test_the_field_is_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        GenerateConfig(**{name: value})  # type: ignore[arg-type]
