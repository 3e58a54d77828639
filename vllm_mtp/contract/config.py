"""MTPConfig: config.json of a drafter, the checkpoint contract (docs/design.md), checked as early as it can be.

vLLM and transformers read it through `AutoConfig` in the caller's process, before any weight of the target is loaded.
A drafter that breaks the contract is therefore refused there, with every fault named at once.
"""

import inspect
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from vllm_mtp.contract.lookup import lookup_faults
from vllm_mtp.contract.tensors import D2T, check_folder

ARCHITECTURE = "MTPDraftModel"
DRAFT_HEAD_DTYPES = ("fp8", "int8")

_POSITIVE_INTEGERS = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
)
_LARGEST = 2**31 - 1
_LARGEST_THETA = 1e30
_REQUIRED = (*_POSITIVE_INTEGERS, "rms_norm_eps", "rope_parameters")
_CONVENTIONS = {"hidden_norm": "post", "concat_order": "embed_hidden", "hidden_act": "silu", "n_predict": 1}
_FIXED = ("architectures", "model_type", *_CONVENTIONS)
_OPTIONAL = ("attention_bias", "qk_norm", "target_fingerprint")
_WHERE_GIVEN = ("draft_vocab_size", "draft_head_dtype", "lookup", "trained_length")
# In a draft model's path vLLM takes these for the name of another method, whatever config.json says.
_NOT_IN_PATH = ("eagle-", "eagle3", "dflash", "dspark")


class MTPConfig(PretrainedConfig):
    """Shape and conventions of an MTP module.

    Args:
        hidden_size: H, the target's.
        intermediate_size: width of the SwiGLU MLP.
        num_attention_heads: query heads.
        num_key_value_heads: key and value heads; divides `num_attention_heads`.
        head_dim: size of one head, even.
        rms_norm_eps: epsilon of every norm.
        vocab_size: V, the target's.
        draft_vocab_size: J, how many of the V token ids are drafted (`d2t` says which); None: all of them.
        draft_head_dtype: "fp8" or "int8": the head drafts with its rows in 8 bits, where vLLM asks for the best token
            alone (`use_local_argmax_reduction`); None: as they are.
        lookup: `{"min_match": 2, "max_match": 8, "module_steps": 3}`: tokens are copied where the text repeats itself
            (lookup.py); None: the module drafts every token.
        trained_length: tokens of the longest row that the module was trained on; None: not known.
        max_position_embeddings: taken from earlier drafters and not kept. Plain RoPE has no last position, and where a
            draft's config has no length, vLLM drafts as far as the target is served.
        rope_parameters: `{"rope_type": "default", "rope_theta": float}`.
        attention_bias: q, k, v and o projections carry a bias.
        qk_norm: RMSNorm of every query and key head, before RoPE.
        target_fingerprint: which target the module was distilled from (fingerprint.py).
        hidden_norm: "post": the target's hidden state after its final norm is fed.
        concat_order: "embed_hidden": `eh_proj` multiplies [embedding; hidden].
        hidden_act: "silu".
        n_predict: 1: one module, applied again for every further draft token.
    """

    model_type = "mtp"

    def __init__(
        self,
        *,
        hidden_size: int = 0,
        intermediate_size: int = 0,
        num_attention_heads: int = 0,
        num_key_value_heads: int = 0,
        head_dim: int = 0,
        rms_norm_eps: float = 1e-6,
        vocab_size: int = 0,
        draft_vocab_size: int | None = None,
        draft_head_dtype: str | None = None,
        lookup: dict[str, int] | None = None,
        trained_length: int | None = None,
        max_position_embeddings: int | None = None,
        rope_parameters: dict[str, Any] | None = None,
        attention_bias: bool = False,
        qk_norm: bool = False,
        target_fingerprint: dict[str, Any] | None = None,
        hidden_norm: str = "post",
        concat_order: str = "embed_hidden",
        hidden_act: str = "silu",
        n_predict: int = 1,
        **kwargs: Any,
    ) -> None:
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads
        self.head_dim = head_dim
        self.rms_norm_eps = rms_norm_eps
        self.vocab_size = vocab_size
        self.draft_vocab_size = draft_vocab_size
        self.draft_head_dtype = draft_head_dtype
        self.lookup = lookup
        self.trained_length = trained_length
        self.rope_parameters = rope_parameters
        self.attention_bias = attention_bias
        self.qk_norm = qk_norm
        self.target_fingerprint = target_fingerprint
        self.hidden_norm = hidden_norm
        self.concat_order = concat_order
        self.hidden_act = hidden_act
        self.n_predict = n_predict
        # What vLLM asks every draft model for: one layer, applied again for every further draft token.
        self.num_hidden_layers = 1
        self.num_nextn_predict_layers = 1
        kwargs.setdefault("architectures", [ARCHITECTURE])
        for derived in ("num_hidden_layers", "num_nextn_predict_layers"):
            kwargs.pop(derived, None)
        super().__init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Builds the config from config.json's content and refuses what breaks the contract.

        Raises:
            ValueError: naming every fault of config.json and, where the folder is at hand, of model.safetensors; or if
                vLLM would take the folder's path for the name of another method.
        """
        folder = str(kwargs.get("name_or_path") or config_dict.get("name_or_path") or "")
        if fault := path_fault(folder):
            raise ValueError(fault)
        where = f"{folder}/config.json" if folder else "config.json"
        faults = contract_faults(config_dict)
        if faults:
            raise ValueError(
                f"{where} does not describe an MTP module: {'; '.join(faults)}. "
                "Expected the fields of the checkpoint contract (docs/design.md); train again or correct the file."
            )
        # Other fields are left aside: transformers would make attributes of them, in place of methods too.
        config = super().from_dict(
            {name: value for name, value in config_dict.items() if name in _NAMES_READ}, **kwargs
        )
        if folder and Path(folder).is_dir():
            built = config[0] if isinstance(config, tuple) else config
            check_folder(Path(folder), built.tensor_shapes())
        return config

    def update(self, config_dict: dict[str, Any]) -> None:
        """Sets fields, but none that the contract fixes: the module stays what it is.

        From 0.33 on vLLM rewrites the config of any draft model to MTP layers of the target's own where the target has
        `num_mtp_layers`, runs on the Transformers backend, and the method is named.
        """
        super().update({name: value for name, value in config_dict.items() if name not in _FIXED})

    def contract(self) -> dict[str, Any]:
        """The content of config.json: the contract's fields and nothing else, in its order.

        What concerns the draft head, lookup or the length is left out where the drafter drafts over all of V, with the
        head as it is, without lookup, or where the length is not known.
        """
        head = {"model_type": self.model_type, "architectures": [ARCHITECTURE]}
        fields = head | {name: getattr(self, name) for name in (*_CONVENTIONS, *_REQUIRED, *_OPTIONAL)}
        where_given = {name: getattr(self, name) for name in _WHERE_GIVEN}
        return fields | {name: value for name, value in where_given.items() if value is not None}

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor of the checkpoint, in the order of the module."""
        hidden, mlp = self.hidden_size, self.intermediate_size
        query = self.num_attention_heads * self.head_dim
        key = self.num_key_value_heads * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {
            "enorm.weight": (hidden,),
            "hnorm.weight": (hidden,),
            "eh_proj.weight": (hidden, 2 * hidden),
            "layer.input_layernorm.weight": (hidden,),
            "layer.self_attn.q_proj.weight": (query, hidden),
            "layer.self_attn.k_proj.weight": (key, hidden),
            "layer.self_attn.v_proj.weight": (key, hidden),
            "layer.self_attn.o_proj.weight": (hidden, query),
        }
        if self.attention_bias:
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                shapes[f"layer.self_attn.{name}.bias"] = shapes[f"layer.self_attn.{name}.weight"][:1]
        if self.qk_norm:
            shapes["layer.self_attn.q_norm.weight"] = (self.head_dim,)
            shapes["layer.self_attn.k_norm.weight"] = (self.head_dim,)
        shapes |= {
            "layer.post_attention_layernorm.weight": (hidden,),
            "layer.mlp.gate_proj.weight": (mlp, hidden),
            "layer.mlp.up_proj.weight": (mlp, hidden),
            "layer.mlp.down_proj.weight": (hidden, mlp),
            "norm.weight": (hidden,),
        }
        return shapes if self.draft_vocab_size is None else shapes | {D2T: (self.draft_vocab_size,)}


_NAMES_READ = {"architectures", *inspect.signature(MTPConfig.__init__).parameters} - {"self", "kwargs"}


def path_fault(path: str) -> str | None:
    """Why vLLM takes a draft model at this path for one of another method than MTP, and what to do; None: it does not.

    Args:
        path: as it is given to vLLM, which looks into the whole of it.
    """
    misleading = [word for word in _NOT_IN_PATH if word in path.lower()]
    if not misleading:
        return None
    return (
        f"{path}: vLLM takes a draft model whose path contains {misleading[0]!r} for one of another method. "
        "Rename that folder, or give a path without the word (a relative one, or a symbolic link)."
    )


def contract_faults(fields: dict[str, Any]) -> list[str]:
    """What is wrong with config.json's fields, one sentence each; empty for a valid config."""
    missing = [name for name in _REQUIRED if fields.get(name) is None]
    faults = [f"missing {', '.join(missing)}"] if missing else []
    for name in (*_POSITIVE_INTEGERS, "draft_vocab_size", "trained_length", "max_position_embeddings"):
        value = fields.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            faults.append(f"{name} must be a positive integer, got {value!r}")
        elif value is not None and value > _LARGEST:
            faults.append(f"{name} must be at most {_LARGEST:,}")
    for name, expected in _CONVENTIONS.items():
        if fields.get(name, expected) != expected:
            faults.append(f"{name} must be {expected!r}, got {fields[name]!r}")
    if fields.get("architectures") not in (None, [], [ARCHITECTURE]):
        faults.append(f"architectures must be [{ARCHITECTURE!r}], got {fields['architectures']!r}")
    for name in ("attention_bias", "qk_norm"):
        if not isinstance(fields.get(name, False), bool):
            faults.append(f"{name} must be true or false, got {fields[name]!r}")
    if fields.get("draft_head_dtype") not in (None, *DRAFT_HEAD_DTYPES):
        expected = " or ".join(map(repr, DRAFT_HEAD_DTYPES))
        faults.append(f"draft_head_dtype must be {expected}, got {fields['draft_head_dtype']!r}")
    if fields.get("quantization_config") is not None:
        faults.append("quantization_config must be absent: the tensors of a drafter are not quantized")
    eps = fields.get("rms_norm_eps")
    if eps is not None and (not isinstance(eps, int | float) or not 0 < eps < 1):
        faults.append(f"rms_norm_eps must lie between 0 and 1, got {eps!r}")
    faults += _rope_faults(fields.get("rope_parameters"))
    faults += _fingerprint_faults(fields.get("target_fingerprint"))
    if fields.get("lookup") is not None:
        faults += lookup_faults(fields["lookup"])
    if not faults and fields["num_attention_heads"] % fields["num_key_value_heads"]:
        heads = f"{fields['num_attention_heads']} and {fields['num_key_value_heads']}"
        faults.append(f"num_attention_heads must be a multiple of num_key_value_heads, got {heads}")
    if not faults and (fields.get("draft_vocab_size") or 0) > fields["vocab_size"]:
        sizes = f"{fields['draft_vocab_size']} and {fields['vocab_size']}"
        faults.append(f"draft_vocab_size must be at most vocab_size, got {sizes}")
    if not faults and fields["head_dim"] % 2:
        faults.append(f"head_dim must be even for RoPE, got {fields['head_dim']}")
    return faults


def _rope_faults(rope: Any) -> list[str]:
    if rope is None:
        return []
    theta = rope.get("rope_theta") if isinstance(rope, dict) else None
    if not isinstance(theta, int | float) or isinstance(theta, bool) or not 0 < theta <= _LARGEST_THETA:
        return [f'rope_parameters must be {{"rope_type": "default", "rope_theta": ...}}, got {rope!r}']
    if rope.get("rope_type", "default") != "default":
        return [
            f"rope_type must be 'default', got {rope['rope_type']!r} (a drafter is served as far as its target without "
            'scaling: give {"rope_type": "default", "rope_theta": ...} as it was trained, and train on longer rows for '
            "longer contexts)"
        ]
    others = sorted(rope.keys() - {"rope_type", "rope_theta"})
    return [f"rope_parameters must have no other fields, got {', '.join(others)}"] if others else []


def _fingerprint_faults(fingerprint: Any) -> list[str]:
    if fingerprint is None:
        return []
    if not isinstance(fingerprint, dict):
        return [f"target_fingerprint must be an object, got {fingerprint!r}"]
    texts = ("name", "architecture", "tokenizer_sha256", "weights_sha256")
    return [
        f"target_fingerprint.{name} must be a string, got {fingerprint[name]!r}"
        for name in texts
        if not isinstance(fingerprint.get(name, ""), str)
    ]
