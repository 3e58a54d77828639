"""Targets that exist quantized alone: plain weights are made of them.

Catches: another order of the packed numbers, zeros off by one, scales of another group; an ImportError for a library
that is not needed.
"""

# Shapes: I input channels, O output channels, G groups of input channels.

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from vllm_mtp.common.errors import InputError
from vllm_mtp.training.frozen.target import FrozenTarget

_GROUP = 32
_AWQ_PACK_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # AutoAWQ's order_map


@pytest.fixture(scope="module")
def plain(target_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target with random weights, not quantized."""
    folder = tmp_path_factory.mktemp("plain")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=2048, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, initializer_range=0.1, tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).half().save_pretrained(folder)
    for path in target_dir.glob("tokenizer*"):
        shutil.copy(path, folder)
    return folder


def quantized(plain: Path, folder: Path, how: dict[str, Any], pack: Any, *, head: bool = False) -> dict[str, Tensor]:
    """Writes a quantized copy; returns what its linear weights are, [O, I]."""
    shutil.copytree(plain, folder, dirs_exist_ok=True)
    tensors, weights = load_file(plain / "model.safetensors"), {}
    for name in [name for name in tensors if "proj" in name or (head and "lm_head" in name)]:
        generator = torch.Generator().manual_seed(len(name))
        size_O, size_I = tensors.pop(name).shape
        integers_IO = torch.randint(0, 16, (size_I, size_O), generator=generator)
        zeros_GO = torch.randint(1, 16, (size_I // _GROUP, size_O), generator=generator)
        scales_GO = torch.rand((size_I // _GROUP, size_O), generator=generator).half() * 0.02
        group_I = torch.arange(size_I) // _GROUP
        if how.get("desc_act"):
            group_I = group_I[torch.randperm(size_I, generator=generator)]
        weight_IO = (integers_IO - zeros_GO[group_I]) * scales_GO[group_I].float()
        weights[name] = weight_IO.T.half()
        parts = pack(integers_IO, zeros_GO) | {"scales": scales_GO}
        if how["quant_method"] == "gptq":
            parts["g_idx"] = torch.zeros_like(group_I).int() if how.get("no_order") else group_I.int()
        tensors |= {f"{name.removesuffix('weight')}{part}": tensor.contiguous() for part, tensor in parts.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((plain / "config.json").read_text()) | {"quantization_config": how}
    (folder / "config.json").write_text(json.dumps(config))
    return weights


def pack(numbers: Tensor, order: tuple[int, ...] = tuple(range(8))) -> Tensor:
    """Eight numbers of 4 bits to an int32 along the last dimension; place i holds number order[i]."""
    eights = numbers.unflatten(-1, (-1, 8))[..., list(order)].long()
    packed = sum(eights[..., place] << (4 * place) for place in range(8))
    assert isinstance(packed, Tensor)
    return torch.where(packed >= 2**31, packed - 2**32, packed).int()


def pack_awq(integers_IO: Tensor, zeros_GO: Tensor) -> dict[str, Tensor]:
    return {"qweight": pack(integers_IO, _AWQ_PACK_ORDER), "qzeros": pack(zeros_GO, _AWQ_PACK_ORDER)}


def pack_gptq(integers_IO: Tensor, zeros_GO: Tensor) -> dict[str, Tensor]:
    return {"qweight": pack(integers_IO.T).T, "qzeros": pack(zeros_GO - 1)}


AWQ = {"quant_method": "awq", "bits": 4, "group_size": _GROUP, "version": "gemm", "zero_point": True}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": _GROUP, "desc_act": False, "sym": False}


@pytest.mark.parametrize(
    ("how", "packing"),
    [
        (AWQ, pack_awq),
        (GPTQ, pack_gptq),
        (GPTQ | {"desc_act": True}, pack_gptq),
        (GPTQ | {"no_order": True}, pack_gptq),
    ],
    ids=["AWQ", "GPTQ", "GPTQ, in the order of activations", "GPTQ, whose groups are not filled in"],
)
def test_packed_weights_are_made_plain(plain: Path, tmp_path: Path, how: dict[str, Any], packing: Any) -> None:
    weights = quantized(plain, tmp_path, how, packing)
    target = FrozenTarget.load(str(tmp_path), device="cpu", dtype="float32")
    found = dict(target.model.named_parameters())
    assert len(weights) == 14
    for name, weight_OI in weights.items():
        torch.testing.assert_close(found[name], weight_OI.float(), rtol=2e-3, atol=1e-5)
    assert (
        target.fingerprint()["weights_sha256"]
        == FrozenTarget.load(str(plain), device="cpu", dtype="float32").fingerprint()["weights_sha256"]
    )


def test_a_quantized_head_is_refused(plain: Path, tmp_path: Path) -> None:
    quantized(plain, tmp_path, AWQ, pack_awq, head=True)
    with pytest.raises(InputError, match=r"LM head .* is quantized"):
        FrozenTarget.load(str(tmp_path), device="cpu")


def test_an_unknown_packing_is_refused_by_name(plain: Path, tmp_path: Path) -> None:
    quantized(plain, tmp_path, AWQ | {"version": "gemv"}, pack_awq)
    with pytest.raises(InputError, match=r"expected AWQ's gemm format .* got awq with 4 bits, version gemv"):
        FrozenTarget.load(str(tmp_path), device="cpu")


def test_block_scaled_fp8_is_made_plain(plain: Path, tmp_path: Path) -> None:
    """As DeepSeek stores its weights: transformers makes them plain, on a machine without a GPU too."""
    shutil.copytree(plain, tmp_path, dirs_exist_ok=True)
    tensors, weights = load_file(plain / "model.safetensors"), {}
    for name in [name for name in tensors if "proj" in name]:
        scale = torch.tensor([[0.01]])
        tensors[name] = (tensors[name].float() / scale).to(torch.float8_e4m3fn)
        tensors[f"{name}_scale_inv"] = scale
        weights[name] = tensors[name].float() * scale
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    how = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic", "fmt": "e4m3"}
    config = json.loads((plain / "config.json").read_text()) | {"quantization_config": how}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = dict(FrozenTarget.load(str(tmp_path), device="cpu", dtype="float32").model.named_parameters())
    for name, weight in weights.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-2, atol=1e-4)


def test_compressed_tensors_are_made_plain(plain: Path, tmp_path: Path) -> None:
    """By transformers and the library, which comes with vLLM."""
    pytest.importorskip("compressed_tensors")
    shutil.copytree(plain, tmp_path, dirs_exist_ok=True)
    tensors, weights = load_file(plain / "model.safetensors"), {}
    for name in [name for name in tensors if "proj" in name]:
        scale_O1 = torch.rand((len(tensors[name]), 1)).half() * 0.001 + 0.001
        tensors[name] = torch.randint(-127, 128, tensors[name].shape, dtype=torch.int8)
        tensors[f"{name}_scale"] = scale_O1
        weights[name] = tensors[name].float() * scale_O1.float()
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    of_8_bits = {"num_bits": 8, "type": "int", "symmetric": True}
    group = {
        "targets": ["Linear"],
        "weights": of_8_bits | {"strategy": "channel"},
        "input_activations": of_8_bits | {"strategy": "token", "dynamic": True},
    }
    how = {
        "quant_method": "compressed-tensors", "format": "int-quantized", "quantization_status": "compressed",
        "ignore": ["lm_head"], "config_groups": {"group_0": group},
    }  # fmt: skip
    config = json.loads((plain / "config.json").read_text()) | {"quantization_config": how}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = dict(FrozenTarget.load(str(tmp_path), device="cpu", dtype="float32").model.named_parameters())
    for name, weight in weights.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-2, atol=1e-4)
