"""The module's shape from the target's config.

Catches: the rotation of local attention, or a default, for a layer that attends to all of a long context.
"""

from typing import Any

import pytest
from transformers import Gemma3TextConfig, LlamaConfig

from vllm_mtp.contract.lookup import Lookup
from vllm_mtp.training.config import TrainConfig
from vllm_mtp.training.initial import draft_config_for

RATES = {"full_attention": 1_000_000.0, "sliding_attention": 10_000.0}


@pytest.mark.parametrize(
    "target",
    [
        LlamaConfig(rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0}),
        Gemma3TextConfig(
            rope_parameters={name: {"rope_type": "default", "rope_theta": rate} for name, rate in RATES.items()}
        ),
    ],
    ids=["one rate", "a rate for each kind of attention"],
)
def test_the_rotation_is_that_of_global_attention(target: Any) -> None:
    draft = draft_config_for(target, TrainConfig(), {})
    assert draft.rope_parameters == {"rope_type": "default", "rope_theta": 1_000_000.0}


def test_a_new_drafter_copies_where_the_text_repeats() -> None:
    assert draft_config_for(LlamaConfig(), TrainConfig(), {}).contract()["lookup"] == Lookup().fields()
