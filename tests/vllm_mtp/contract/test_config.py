"""config.json: what is written can be read again, and every breach of the contract is named.

Catches: a field lost between writing and reading, a field of transformers that leaks into the file, a fault that hides
another one, a config that vLLM would accept and then serve wrongly.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from vllm_mtp.contract.config import MTPConfig, contract_faults

VALID: dict[str, Any] = {
    "model_type": "mtp",
    "architectures": ["MTPDraftModel"],
    "hidden_norm": "post",
    "concat_order": "embed_hidden",
    "hidden_act": "silu",
    "n_predict": 1,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "vocab_size": 99,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    "attention_bias": True,
    "qk_norm": True,
    "target_fingerprint": {"name": "a", "weights_sha256": "0"},
}


def test_contract_round_trip() -> None:
    config = MTPConfig.from_dict(VALID)
    assert config.contract() == VALID
    assert list(config.contract()) == list(VALID)
    assert MTPConfig.from_dict(json.loads(json.dumps(config.contract()))).contract() == VALID


@pytest.mark.parametrize("size", [1, 40, 99])
def test_draft_vocabulary(size: int) -> None:
    fields = VALID | {"draft_vocab_size": size}
    config = MTPConfig.from_dict(fields)
    assert config.contract() == fields
    assert config.vocab_size == 99, "what vLLM takes for the width of the drafter's logits"
    assert config.tensor_shapes() == MTPConfig.from_dict(VALID).tensor_shapes() | {"d2t": (size,)}
    # Without one: the file of a drafter that was made before there were draft vocabularies.
    assert "draft_vocab_size" not in MTPConfig.from_dict(VALID | {"draft_vocab_size": None}).contract()


@pytest.mark.parametrize("dtype", ["fp8", "int8"])
def test_draft_head_dtype(dtype: str) -> None:
    fields = VALID | {"draft_head_dtype": dtype}
    config = MTPConfig.from_dict(fields)
    assert config.contract() == fields
    assert config.tensor_shapes() == MTPConfig.from_dict(VALID).tensor_shapes()
    assert "draft_head_dtype" not in MTPConfig.from_dict(VALID).contract()


def test_lookup() -> None:
    fields = VALID | {"lookup": {"min_match": 2, "max_match": 8, "module_steps": 3}}
    config = MTPConfig.from_dict(fields)
    assert config.contract() == fields
    assert MTPConfig.from_dict(config.to_dict()).contract() == fields
    assert "lookup" not in MTPConfig.from_dict(VALID | {"lookup": None}).contract()
    [fault] = contract_faults(VALID | {"lookup": {"min_match": 0}})
    assert fault == "lookup.min_match must be a positive integer, got 0"


def test_trained_length() -> None:
    fields = VALID | {"trained_length": 512}
    assert MTPConfig.from_dict(fields).contract() == fields
    assert MTPConfig.from_dict(MTPConfig.from_dict(fields).to_dict()).contract() == fields
    assert MTPConfig.from_dict(VALID).trained_length is None


def test_no_length_binds_the_drafter() -> None:
    """Catches the length of an earlier config.json where vLLM reads it: it stops drafting there, in silence."""
    config = MTPConfig.from_dict(VALID | {"max_position_embeddings": 128})
    assert not hasattr(config, "max_position_embeddings")
    assert config.contract() == VALID


@pytest.mark.parametrize("fields", [VALID, VALID | {"draft_vocab_size": 40, "draft_head_dtype": "int8"}])
def test_transformers_own_round_trip(fields: dict[str, Any]) -> None:
    # vLLM copies configs through to_dict and writes them with to_json_string.
    config = MTPConfig.from_dict(fields)
    assert MTPConfig.from_dict(config.to_dict()).contract() == fields
    assert MTPConfig.from_dict(json.loads(config.to_json_string(use_diff=False))).contract() == fields
    assert MTPConfig.from_dict(json.loads(config.to_json_string())).contract() == fields


def test_optional_fields_have_defaults() -> None:
    optional = ("hidden_norm", "concat_order", "hidden_act", "n_predict", "attention_bias", "qk_norm", "architectures")
    config = MTPConfig.from_dict({name: value for name, value in VALID.items() if name not in optional})
    assert config.contract() == VALID | {"attention_bias": False, "qk_norm": False}


def test_what_vllm_reads() -> None:
    config = MTPConfig.from_dict(VALID | {"num_hidden_layers": 7})
    assert (config.num_hidden_layers, config.num_nextn_predict_layers, config.n_predict) == (1, 1, 1)
    assert config.architectures == ["MTPDraftModel"]


def test_another_architecture_cannot_be_put_upon_a_drafter() -> None:
    """Catches a drafter that becomes MTP layers which it has not: vLLM 0.33 rewrites configs like this."""
    config = MTPConfig.from_dict(VALID)
    config.update({"architectures": ["TransformersForMTP"], "n_predict": 3, "max_position_embeddings": 4096})
    assert (config.architectures, config.n_predict) == (["MTPDraftModel"], 1)
    assert config.max_position_embeddings == 4096


def test_other_fields_are_left_aside() -> None:
    """Catches a field that takes a method's place, or that transformers fails over when it prints the config."""
    others = {
        "tensor_shapes": 1,
        "torch_dtype": [],
        "id2label": 5,
        "to_dict": None,
        "__class__": "x",
        "auto_map": {"a": "b"},
    }
    assert MTPConfig.from_dict(VALID | others).contract() == VALID


SIZES = (
    "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size",
)  # fmt: skip
REQUIRED = (*SIZES, "rms_norm_eps", "rope_parameters")
FAULTS: list[tuple[str, dict[str, Any], str]] = [
    *[(f"no {name}", {name: None}, f"missing {name}") for name in REQUIRED],
    *[
        (f"{name}={value!r}", {name: value}, f"{name} must be a positive integer, got {value!r}")
        for name in (*SIZES, "draft_vocab_size", "trained_length", "max_position_embeddings")
        for value in (0, -1, 2.0, "8", True)
    ],
    ("norm", {"hidden_norm": "pre"}, "hidden_norm must be 'post', got 'pre'"),
    ("order", {"concat_order": "hidden_embed"}, "concat_order must be 'embed_hidden', got 'hidden_embed'"),
    ("activation", {"hidden_act": "gelu"}, "hidden_act must be 'silu', got 'gelu'"),
    ("several modules", {"n_predict": 2}, "n_predict must be 1, got 2"),
    ("architecture", {"architectures": ["EagleModel"]}, r"architectures must be \['MTPDraftModel'\], got"),
    ("bias", {"attention_bias": "yes"}, "attention_bias must be true or false, got 'yes'"),
    ("qk_norm", {"qk_norm": 1}, "qk_norm must be true or false, got 1"),
    ("draft vocabulary", {"draft_vocab_size": 100}, "draft_vocab_size must be at most vocab_size, got 100 and 99"),
    ("quantized", {"quantization_config": {"quant_method": "fp8"}}, "quantization_config must be absent"),
    ("draft head", {"draft_head_dtype": "int4"}, "draft_head_dtype must be 'fp8' or 'int8', got 'int4'"),
    *[
        (f"eps={eps!r}", {"rms_norm_eps": eps}, "rms_norm_eps must lie between 0 and 1")
        for eps in (0, 1.5, float("nan"), "1e-6")
    ],
    ("rope list", {"rope_parameters": [10000.0]}, "rope_parameters must be"),
    ("no theta", {"rope_parameters": {"rope_type": "default"}}, "rope_parameters must be"),
    ("theta", {"rope_parameters": {"rope_theta": -1.0}}, "rope_parameters must be"),
    ("endless theta", {"rope_parameters": {"rope_theta": float("inf")}}, "rope_parameters must be"),
    (
        "half a head",
        {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
        "rope_parameters must have no other fields, got partial_rotary_factor",
    ),
    ("huge", {"hidden_size": 2**60}, "hidden_size must be at most 2,147,483,647"),
    ("architectures", {"architectures": 5}, r"architectures must be \['MTPDraftModel'\], got 5"),
    ("fingerprint", {"target_fingerprint": []}, r"target_fingerprint must be an object, got \[\]"),
    (
        "hash",
        {"target_fingerprint": {"weights_sha256": 5}},
        "target_fingerprint.weights_sha256 must be a string, got 5",
    ),
    ("yarn", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_type must be 'default', got 'yarn'"),
    ("heads", {"num_key_value_heads": 3}, "must be a multiple of num_key_value_heads, got 4 and 3"),
    ("odd head", {"head_dim": 9}, "head_dim must be even for RoPE, got 9"),
]


@pytest.mark.parametrize(("change", "message"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS])
def test_every_fault_is_named(change: dict[str, Any], message: str) -> None:
    [fault] = contract_faults(VALID | change)
    with pytest.raises(ValueError, match=message) as error:
        MTPConfig.from_dict(VALID | change)
    assert str(error.value).startswith("config.json does not describe an MTP module: " + fault)


def test_all_faults_at_once() -> None:
    fields = VALID | {"vocab_size": None, "rms_norm_eps": 3, "hidden_norm": "pre", "head_dim": -2, "rope_parameters": 1}
    faults = contract_faults(fields)
    assert [fault.split()[0] for fault in faults] == [
        "missing", "head_dim", "hidden_norm", "rms_norm_eps", "rope_parameters"
    ]  # fmt: skip
    assert faults[0] == "missing vocab_size"


def test_missing_fields_are_one_fault() -> None:
    [fault] = contract_faults({"model_type": "mtp"})
    assert fault == f"missing {', '.join(REQUIRED)}"


def test_the_message_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=rf"^{tmp_path}/config.json does not describe an MTP module: missing vocab_size"
    ):
        MTPConfig.from_dict(VALID | {"vocab_size": None}, name_or_path=str(tmp_path))
