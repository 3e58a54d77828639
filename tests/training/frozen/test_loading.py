"""Targets that load and targets that are refused: one line, with the reason, before anything is lost."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from vllm_mtp.cli import main
from vllm_mtp.common.errors import InputError
from vllm_mtp.training.frozen.loading import load_config
from vllm_mtp.training.frozen.target import FrozenTarget, config_and_tokenizer

SIZES = {
    "vocab_size": 2048, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "initializer_range": 0.1,
}  # fmt: skip


def write(folder: Path, model: Any, tokenizer_from: Path) -> str:
    torch.manual_seed(0)
    model.save_pretrained(folder)
    for path in tokenizer_from.glob("tokenizer*"):
        shutil.copy(path, folder)
    return str(folder)


def change(folder: str, **fields: Any) -> None:
    path = Path(folder) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def llama(folder: Path, target_dir: Path, **fields: Any) -> str:
    return write(folder, transformers.LlamaForCausalLM(transformers.LlamaConfig(**(SIZES | fields))), target_dir)


def test_an_encoder_decoder_is_refused(target_dir: Path, tmp_path: Path) -> None:
    config = transformers.T5Config(vocab_size=2048, d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2)
    target = write(tmp_path, transformers.T5ForConditionalGeneration(config), target_dir)
    with pytest.raises(InputError, match="T5ForConditionalGeneration, an encoder-decoder"):
        config_and_tokenizer(target)


@pytest.mark.parametrize("kind", ["LlamaForSequenceClassification", "LlamaModel", "LlamaForTokenClassification"])
def test_a_model_without_head_is_refused(target_dir: Path, tmp_path: Path, kind: str) -> None:
    """Catches a head of random numbers, which transformers makes where the files have none."""
    target = write(tmp_path, getattr(transformers, kind)(transformers.LlamaConfig(**SIZES)), target_dir)
    with pytest.raises(InputError, match=f"{kind}, without an LM head"):
        load_config(target)
    change(target, architectures=["LlamaForCausalLM"])
    with pytest.raises(InputError, match=r"lacks (lm_head|model)\.\S*weight"):
        FrozenTarget.load(target, device="cpu", dtype="float32")


def test_a_model_that_sees_what_follows_is_refused(target_dir: Path, tmp_path: Path) -> None:
    config = transformers.BertConfig(**(SIZES | {"is_decoder": False}))
    target = write(tmp_path, transformers.BertLMHeadModel(config), target_dir)
    with pytest.raises(InputError, match="no causal LM: its hidden states depend on the tokens that follow"):
        FrozenTarget.load(target, device="cpu", dtype="float32")


def test_a_kind_that_transformers_does_not_know_is_refused(target_dir: Path, tmp_path: Path) -> None:
    target = llama(tmp_path, target_dir)
    change(target, model_type="llama99")
    with pytest.raises(InputError, match=r"llama99.*--hidden-states vllm"):
        load_config(target, by_transformers=True)
    change(target, model_type="vit", architectures=["ViTForImageClassification"])
    with pytest.raises(InputError, match=r"of a kind \(vit\) for which transformers has no causal LM"):
        load_config(target, by_transformers=True)


@pytest.mark.vllm
def test_a_kind_that_vllm_alone_knows_is_read(target_dir: Path, tmp_path: Path) -> None:
    """Catches `generate`, `doctor` or `train --hidden-states vllm` asking transformers for what vLLM serves."""
    target = llama(tmp_path, target_dir)
    fields = {"model_type": "RefinedWebModel", "architectures": ["FalconForCausalLM"], "n_head": 4}
    (Path(target) / "config.json").write_text(json.dumps(fields))
    with pytest.raises(InputError, match=r"RefinedWebModel.*--hidden-states vllm"):
        load_config(target, by_transformers=True)
    assert load_config(target).num_attention_heads == 4, "vLLM's class gives n_head this name"
    (Path(target) / "config.json").write_text(json.dumps({"model_type": "llama99"}))
    with pytest.raises(InputError, match="llama99"):
        load_config(target)


def test_a_damaged_target_is_one_line(target_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a traceback of safetensors' own kind of error."""
    target = llama(tmp_path / "target", target_dir)
    weights = Path(target) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    (tmp_path / "text.txt").write_text("some text " * 2000)
    data, output = str(tmp_path / "text.txt"), str(tmp_path / "draft")
    assert main(["train", target, "--data", data, "--output", output, "--tokens", "8192"]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert errors[-1].startswith("vllm-mtp train: --target: expected a causal LM")
    assert "Traceback" not in "".join(errors)


def test_float16(target_dir: Path, tmp_path: Path) -> None:
    target = llama(tmp_path, target_dir)
    frozen = FrozenTarget.load(target, device="cpu", dtype="float16")
    assert frozen.dtype_name == "float16"
    assert frozen.hidden_states(torch.arange(8)[None]).dtype == torch.float16


def test_numbers_beyond_float16_are_named(target_dir: Path, tmp_path: Path) -> None:
    """Catches an overflow that is blamed on the head."""
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES))
    model.lm_head.weight.data *= 1e8
    target = write(tmp_path, model, target_dir)
    with pytest.raises(InputError, match="no finite logits in float16; give another dtype"):
        FrozenTarget.load(target, device="cpu", dtype="float16")
    FrozenTarget.load(target, device="cpu", dtype="float32")


CODE = """
from transformers import LlamaConfig, LlamaForCausalLM

class OwnConfig(LlamaConfig):
    model_type = "own"

class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


def test_code_of_its_own_runs_where_it_is_allowed(
    target_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    target = llama(tmp_path / "target", target_dir)
    (Path(target) / "own.py").write_text(CODE)
    change(
        target,
        model_type="own",
        architectures=["OwnForCausalLM"],
        auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"},
    )
    with pytest.raises(InputError, match="code of its own; read that code, and give --trust-remote-code"):
        FrozenTarget.load(target, device="cpu", dtype="float32")
    frozen = FrozenTarget.load(target, device="cpu", dtype="float32", trust_remote_code=True)
    assert type(frozen.model).__name__ == "OwnForCausalLM"
