"""The target's shape as its config says it, whatever the architecture calls things and however its layers differ."""

from dataclasses import dataclass
from typing import Any

_HEAD_DIM = 64  # of a drafter whose target has no attention heads
_MAX_KEY_VALUE_HEADS = 8  # of one whose target keeps a latent state (MLA) in place of keys and values
_MAX_WIDTH = 4  # hidden sizes that the MLP beside a mixture of experts is wide, unless one expert is wider
_EXPERTS_PER_TOKEN = (
    "num_experts_per_tok", "num_experts_per_token", "experts_per_token", "num_experts_per_topk", "top_k_experts",
    "moe_topk", "moe_top_k", "moe_k", "router_topk", "num_selected_experts",
)  # fmt: skip
_EXPERT_WIDTH = (
    "moe_intermediate_size", "expert_ffn_hidden_size", "expert_intermediate_size", "moe_ffn_hidden_size",
    "expert_hidden_size", "ffn_hidden_size",
)  # fmt: skip
_SHARED_WIDTH = (
    "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", "shared_intermediate_size",
    "share_expert_dim",
)  # fmt: skip
_NUM_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_routed_experts")
_NUM_SHARED = ("n_shared_experts", "num_shared_experts", "num_shared_expert", "moe_num_shared_experts")
_WIDTH = ("intermediate_size", "ffn_hidden_size", "ffn_dim", "n_inner", "intermediate_dim", "inner_hidden_size")


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetShape:
    """Sizes of a target, of its layer with global attention where layers differ."""

    hidden_size: int
    vocab_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    """Width of the MLP that a token passes through (`mlp_width`)."""
    rms_norm_eps: float
    rope_theta: float

    @classmethod
    def of(cls, config: Any) -> "TargetShape":
        """The shape of a text config (`PretrainedConfig.get_text_config`)."""
        hidden = int(config.hidden_size)
        heads = integer(config, "num_attention_heads", "n_head", "num_heads") or max(1, hidden // _HEAD_DIM)
        head_dim = integer(config, "head_dim") or max(2, hidden // heads)
        return cls(
            hidden_size=hidden,
            vocab_size=int(config.vocab_size),
            num_hidden_layers=integer(config, "num_hidden_layers", "n_layer", "num_layers") or 1,
            num_attention_heads=heads,
            num_key_value_heads=_key_value_heads(config, heads),
            head_dim=head_dim + head_dim % 2,
            intermediate_size=mlp_width(config),
            rms_norm_eps=getattr(config, "rms_norm_eps", None) or 1e-6,
            rope_theta=_rope_theta(config),
        )


def integer(config: Any, *names: str) -> int | None:
    """The first of these fields that is a positive integer, or a list of them; None where there is none.

    Where layers differ it is the last global layer's (Gemma 4's two head sizes), of a list as long as the layers too;
    of any other list it is the largest.
    """
    for name in names:
        value = _of_global_layer(config, name)
        if isinstance(value, list | tuple):
            numbers = [one for one in value if isinstance(one, int) and one > 0]
            value = max(numbers, default=None)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def mlp_width(config: Any) -> int:
    """The width that a token passes through: the MLP's; with experts, those chosen for a token and the shared ones.

    Of experts together at most four hidden sizes, or one expert's own width where that is more.
    """
    hidden = int(config.hidden_size)
    dense = integer(config, *_WIDTH)
    shared_width = integer(config, *_SHARED_WIDTH)
    parts = [config, *(part for part in (getattr(config, name, None) for name in ("ffn_config", "moe_config")) if part)]
    num_chosen = next((found for part in parts if (found := integer(part, *_EXPERTS_PER_TOKEN))), None)
    if num_chosen is None or not _has_experts(config):
        return dense or shared_width or 4 * hidden
    one = next((found for part in parts if (found := integer(part, *_EXPERT_WIDTH))), None) or dense or hidden
    shared = shared_width or one * (integer(config, *_NUM_SHARED) or 0)
    return max(one, min(num_chosen * one + shared, _MAX_WIDTH * hidden))


def _has_experts(config: Any) -> bool:
    """False for the dense models of a family whose config class has fields, and defaults, of experts all the same."""
    kinds = getattr(config, "layers_block_type", None) or ()
    if "mlp" in kinds and "moe" not in kinds:
        return False
    counts = [count for name in _NUM_EXPERTS if (count := getattr(config, name, None)) is not None]
    return not all(isinstance(count, int) and count <= 1 for count in counts) or not counts


def global_layer(config: Any) -> int:
    """Index of the last layer that attends to the whole context, where the config says which do; else of the last."""
    kinds = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None) or []
    found = [index for index, kind in enumerate(kinds) if kind in ("full_attention", "attention", "hybrid")]
    return found[-1] if found else (getattr(config, "num_hidden_layers", None) or 1) - 1


def _of_global_layer(config: Any, name: str) -> Any:
    try:
        value = getattr(config, name, None)
    except RuntimeError:  # transformers' answer where layers differ in this field
        return getattr(config.per_layer_config[global_layer(config)], name, None)
    num_layers = getattr(config, "num_hidden_layers", None)
    return value[global_layer(config)] if isinstance(value, list | tuple) and len(value) == num_layers else value


def _key_value_heads(config: Any, heads: int) -> int:
    found = integer(config, "num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num") or heads
    if integer(config, "kv_lora_rank"):
        found = min(found, _MAX_KEY_VALUE_HEADS)
    return next(number for number in range(min(found, heads), 0, -1) if heads % number == 0)


def _rope_theta(config: Any) -> float:
    """The rotation of global attention: targets with sliding windows may turn both kinds at different rates."""
    rope = _of_global_layer(config, "rope_parameters") or {}
    of_kind = rope.get("full_attention", rope)
    theta = (of_kind if isinstance(of_kind, dict) else {}).get("rope_theta") or getattr(config, "rope_theta", None)
    return float(theta) if isinstance(theta, int | float) and theta > 0 else 10000.0
