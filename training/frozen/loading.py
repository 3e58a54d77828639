"""A target from its folder or Hub id, in the class that transformers has for it; one that cannot work is refused."""

import re
from typing import Any

import torch

from vllm_mtp.common.errors import InputError
from vllm_mtp.training.frozen.quantized import dequantized_tensors, is_dequantized_here, without_quantization

_NO_LM_HEAD = re.compile(
    r"For(SequenceClassification|TokenClassification|QuestionAnswering|MaskedLM|MultipleChoice|.*Reward)"
)
_BY_VLLM = "If vLLM serves it, `vllm-mtp train --hidden-states vllm` trains a drafter for it."
_WITH_DEQUANTIZE = ("compressed-tensors", "fp8", "mxfp4")
"""Kinds of quantized checkpoints that transformers makes plain weights of where their config says `dequantize`."""


def load_config(
    target: str, *, revision: str | None = None, trust_remote_code: bool = False, by_transformers: bool = False
) -> Any:
    """A target's transformers config, without its weights.

    Args:
        target: folder or Hub id.
        revision: branch, tag or commit of a Hub id; None: its default branch.
        trust_remote_code: run code that comes with the target.
        by_transformers: refuse what transformers cannot load, rather than vLLM.

    Raises:
        InputError: if there is no such model, or no drafter can be trained for one of its kind.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(target, revision=revision, trust_remote_code=trust_remote_code)
    except Exception as error:  # of any kind where the target brings code of its own
        is_unknown = _is_unknown(error) and not by_transformers
        config = _config_of_vllm(target, revision, trust_remote_code) if is_unknown else None
        if config is None:
            refusal = not_a_target(target, error)
            by_vllm = f" {_BY_VLLM}" if by_transformers and _is_unknown(error) else ""
            raise InputError(refusal.field, f"{refusal.message}{by_vllm}") from error
    _refuse(target, config, by_transformers)
    return config


def _is_unknown(error: Exception) -> bool:
    """Whether transformers has no config class for what the target says it is."""
    return isinstance(error, ValueError) and "model type" in str(error)


def _config_of_vllm(target: str, revision: str | None, trust_remote_code: bool) -> Any:
    """A target's config in a class that vLLM alone has; None where vLLM has none either."""
    try:
        from vllm.transformers_utils.config import get_config

        return get_config(target, trust_remote_code, revision)
    except Exception:  # transformers' refusal says more
        return None


def load_tokenizer(target: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The target's tokenizer.

    Raises:
        InputError: if it has none that transformers can read.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(target, revision=revision, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise not_a_target(target, error) from error


def load_model(
    target: str, config: Any, dtype: Any, *, revision: str | None = None, trust_remote_code: bool = False
) -> Any:
    """The target's transformers model on the CPU, quantized weights made plain.

    Args:
        target: folder or Hub id.
        config: of `load_config`.
        dtype: torch dtype, or "auto" for the checkpoint's own.
        revision, trust_remote_code: as for `load_config`.

    Raises:
        InputError: if transformers cannot load it, or weights of it are missing.
    """
    # transformers' other kinds of attention pass over a soft cap of the scores (Gemma 2); vLLM does not.
    softcap = getattr(config.get_text_config(), "attn_logit_softcapping", None)
    how: dict[str, Any] = {"dtype": dtype, "attn_implementation": "eager" if softcap else None}
    how |= {"revision": revision, "trust_remote_code": trust_remote_code, "output_loading_info": True}
    try:
        if is_dequantized_here(config):
            tensors = dequantized_tensors(target, config, revision=revision)
            how |= {"state_dict": tensors, "config": without_quantization(config)}
            model, loading = _class_of(target, config, revision).from_pretrained(None, **how)
        else:
            model, loading = auto_class(config).from_pretrained(target, config=_dequantizing(config), **how)
    except InputError as error:
        raise InputError(error.field, f"{error.message}. {_BY_VLLM}") from error
    except Exception as error:
        refusal = not_a_target(target, error)
        raise InputError(refusal.field, f"{refusal.message}. {_BY_VLLM}") from error
    if missing := sorted(loading["missing_keys"]):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError("target", f"{target} lacks {missing[0]}{more}: expected a whole causal LM, its head included")
    return model


def not_a_target(target: str, error: Exception) -> InputError:
    """The one line about a target that could not be loaded."""
    text = " ".join(str(error).split())
    if "trust_remote_code" in text:
        reason = "it comes with code of its own; read that code, and give --trust-remote-code to run it"
    else:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        if not isinstance(error, OSError | ValueError | ImportError):
            reason = f"{type(error).__name__}: {reason}"
    return InputError("target", f"expected a causal LM's folder or Hub id, got {target}: {reason}")


def _refuse(target: str, config: Any, by_transformers: bool) -> None:
    """Refuses what can be told from the config alone to be no causal LM."""
    kind = (getattr(config, "architectures", None) or [type(config).__name__])[0]
    if getattr(config, "is_encoder_decoder", False):
        reason = "an encoder-decoder: its decoder reads an encoder's output, a drafter reads one sequence of tokens"
    elif _NO_LM_HEAD.search(kind) or (
        kind.endswith("Model") and not kind.endswith("LMHeadModel") and _is_known(config)
    ):
        reason = "without an LM head, which a drafter shares"
    elif by_transformers and not _is_known(config) and not getattr(config, "auto_map", None):
        reason = f"of a kind ({config.model_type}) for which transformers has no causal LM. {_BY_VLLM}"
    else:
        return
    raise InputError("target", f"expected a causal LM, got {target}, which is {kind}, {reason}")


def _classes() -> list[Any]:
    import transformers

    names = ("AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModelForMultimodalLM")
    return [getattr(transformers, name) for name in names if hasattr(transformers, name)]


def _is_known(config: Any) -> bool:
    return any(type(config) in auto._model_mapping for auto in _classes())


def auto_class(config: Any) -> Any:
    """The class that loads a config: a causal LM's, else that of a model that reads pictures or sound besides text."""
    classes = _classes()
    return next((auto for auto in classes if type(config) in auto._model_mapping), classes[0])


def _class_of(target: str, config: Any, revision: str | None) -> Any:
    """The model's own class."""
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    auto = auto_class(config)
    if type(config) in auto._model_mapping:
        return auto._model_mapping[type(config)]
    return get_class_from_dynamic_module(config.auto_map["AutoModelForCausalLM"], target, revision=revision)


def _dequantizing(config: Any) -> Any:
    """The config, changed to ask transformers for plain weights where it can make them."""
    quantization = getattr(config, "quantization_config", None)
    if isinstance(quantization, dict) and quantization.get("quant_method") in _WITH_DEQUANTIZE:
        quantization["dequantize"] = True
    return config


def as_torch_dtype(name: str) -> torch.dtype:
    """The torch dtype of "float32", "bfloat16" or "float16"."""
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype
