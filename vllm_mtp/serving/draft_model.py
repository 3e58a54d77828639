"""The MTP module on vLLM's layers: the draft model that vLLM's proposer runs, on either model runner.

Loaded by name through `ModelRegistry` (plugin.py). The target's embedding and LM head are shared by vLLM itself after
loading. module/mtp.py is the same computation in plain PyTorch and the oracle of the tests.
"""

import logging
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import torch
from torch import nn
from vllm.compilation.decorators import support_torch_compile
from vllm.config import CacheConfig, VllmConfig
from vllm.distributed import get_tensor_model_parallel_world_size
from vllm.forward_context import get_forward_context
from vllm.model_executor.layers.activation import SiluAndMul
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.linear import (
    MergedColumnParallelLinear,
    QKVParallelLinear,
    ReplicatedLinear,
    RowParallelLinear,
)
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig
from vllm.model_executor.layers.rotary_embedding import get_rope
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding
from vllm.model_executor.models.utils import (
    AutoWeightsLoader,
    WeightsMapper,
    get_draft_quant_config,
    maybe_prefix,
)
from vllm.platforms import current_platform
from vllm.sequence import IntermediateTensors

from vllm_mtp.contract.config import MTPConfig
from vllm_mtp.contract.lookup import Lookup
from vllm_mtp.contract.ranks import why_not_divided
from vllm_mtp.contract.tensors import D2T, WEIGHTS_FILE, check_tensors, draft_ids
from vllm_mtp.kernels.ops import embed_hidden_projection
from vllm_mtp.module.shared_head import LogitsTransform
from vllm_mtp.serving import cpu_repairs, heads, projection
from vllm_mtp.serving.exchange import HeadWatch
from vllm_mtp.serving.lookup_on_device import DeviceLookup
from vllm_mtp.serving.lookup_on_host import HostLookup
from vllm_mtp.serving.lookup_pass import PassLookup, PassMetadata, why_no_lookup
from vllm_mtp.serving.options_check import (
    refused_options,
    why_copies_are_wrong,
    why_head_dtype_is_off,
    why_lookup_is_off,
    why_weights_are_random,
)
from vllm_mtp.serving.request_check import check_requests
from vllm_mtp.serving.target_check import check_target

logger = logging.getLogger(__name__)
_COMPILED = (
    *("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim"),
    *("rms_norm_eps", "rope_parameters", "attention_bias", "qk_norm"),
)
"""What the graph of the module depends on."""
LOOKUP_IS_OFF = "The drafter's lookup is off, the module drafts every token: %s."


class MTPAttention(nn.Module):
    """Grouped-query attention with RoPE, optional biases and per-head query and key norms."""

    def __init__(
        self,
        config: MTPConfig,
        max_position: int,
        cache_config: CacheConfig | None,
        quant_config: QuantizationConfig | None,
        prefix: str,
    ) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.qkv_proj = QKVParallelLinear(
            config.hidden_size,
            config.head_dim,
            config.num_attention_heads,
            config.num_key_value_heads,
            bias=config.attention_bias,
            quant_config=quant_config,
            prefix=f"{prefix}.qkv_proj",
        )
        self.num_heads, self.num_kv_heads = self.qkv_proj.num_heads, self.qkv_proj.num_kv_heads
        self.q_size, self.kv_size = self.num_heads * config.head_dim, self.num_kv_heads * config.head_dim
        self.o_proj = RowParallelLinear(
            config.num_attention_heads * config.head_dim,
            config.hidden_size,
            bias=config.attention_bias,
            quant_config=quant_config,
            prefix=f"{prefix}.o_proj",
        )
        self.q_norm = RMSNorm(config.head_dim, eps=config.rms_norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(config.head_dim, eps=config.rms_norm_eps) if config.qk_norm else None
        self.rotary_emb = get_rope(
            config.head_dim,
            max_position=max_position,
            rope_parameters=config.rope_parameters,
        )
        self.attn = Attention(
            self.num_heads,
            config.head_dim,
            config.head_dim**-0.5,
            num_kv_heads=self.num_kv_heads,
            cache_config=cache_config,
            quant_config=quant_config,
            prefix=f"{prefix}.attn",
        )

    def forward(self, positions: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        qkv, _ = self.qkv_proj(hidden_states)
        q, k, v = qkv.split([self.q_size, self.kv_size, self.kv_size], dim=-1)
        if self.q_norm is not None and self.k_norm is not None:
            q = self.q_norm(q.unflatten(-1, (self.num_heads, self.head_dim))).flatten(-2)
            k = self.k_norm(k.unflatten(-1, (self.num_kv_heads, self.head_dim))).flatten(-2)
        q, k = self.rotary_emb(positions, q, k)
        output, _ = self.o_proj(self.attn(q, k, v))
        return output


class MTPMLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: MTPConfig, quant_config: QuantizationConfig | None, prefix: str) -> None:
        super().__init__()
        self.gate_up_proj = MergedColumnParallelLinear(
            config.hidden_size,
            [config.intermediate_size] * 2,
            bias=False,
            quant_config=quant_config,
            prefix=f"{prefix}.gate_up_proj",
        )
        self.down_proj = RowParallelLinear(
            config.intermediate_size,
            config.hidden_size,
            bias=False,
            quant_config=quant_config,
            prefix=f"{prefix}.down_proj",
        )
        self.act_fn = SiluAndMul()

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        gate_up, _ = self.gate_up_proj(hidden_states)
        output, _ = self.down_proj(self.act_fn(gate_up))
        return output


class MTPDecoderLayer(nn.Module):
    """One pre-norm transformer layer; returns its output and the residual still to be added."""

    def __init__(
        self,
        config: MTPConfig,
        max_position: int,
        cache_config: CacheConfig | None,
        quant_config: QuantizationConfig | None,
        prefix: str,
    ) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = MTPAttention(config, max_position, cache_config, quant_config, prefix=f"{prefix}.self_attn")
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = MTPMLP(config, quant_config, prefix=f"{prefix}.mlp")

    def forward(self, positions: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden_states = self.self_attn(positions, self.input_layernorm(residual))
        hidden_states, residual = self.post_attention_layernorm(hidden_states, residual)
        return self.mlp(hidden_states), residual


@support_torch_compile
class MTPPredictor(nn.Module):
    """The module: norms, projection, one layer, final norm. `embed_tokens` is the target's, set by vLLM."""

    embed_tokens: VocabParallelEmbedding

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        config: MTPConfig = vllm_config.speculative_config.draft_model_config.hf_config
        quant_config = get_draft_quant_config(vllm_config)
        # The target's takes its place once weights are loaded; vLLM 0.26 asks for the weight of what was there before.
        self.embed_tokens = cast(VocabParallelEmbedding, SimpleNamespace(weight=None))
        self.enorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.hnorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.eh_proj = ReplicatedLinear(
            2 * config.hidden_size,
            config.hidden_size,
            bias=False,
            quant_config=quant_config,
            prefix=f"{prefix}.eh_proj",
        )
        self.by_kernel = projection.choose(self.eh_proj, vllm_config.additional_config)
        # vLLM keeps attention layers by name: the index after the target's last layer is free.
        layer_index = vllm_config.model_config.get_total_num_hidden_layers()
        # It drafts at every position of the target's, whatever it was trained on.
        max_position = vllm_config.model_config.max_model_len
        # With a window of the target's whole model the drafter gets it too: one layer without, among layers that all
        # have it, would put every layer into a group of the KV cache of its own.
        self.layer = MTPDecoderLayer(
            config, max_position, vllm_config.cache_config, quant_config, prefix=f"{prefix}.layers.{layer_index}"
        )
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def embed_input_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        return _without_adapters(self.embed_tokens)(input_ids)

    def fuse(
        self, input_ids: torch.Tensor | None, hidden_states: torch.Tensor, inputs_embeds: torch.Tensor | None
    ) -> torch.Tensor:
        """u = W [RMSNorm(E x); RMSNorm(h)], by the kernel or by vLLM's layers (projection.py)."""
        by_kernel = self.by_kernel.compiled if torch.compiler.is_compiling() else self.by_kernel.eager
        table = _without_adapters(self.embed_tokens)
        if by_kernel and inputs_embeds is None and projection.is_whole_table(table):
            ids, embedding = input_ids, table.weight
        else:
            if inputs_embeds is None:
                assert input_ids is not None
                inputs_embeds = self.embed_input_ids(input_ids)
            ids, embedding = None, inputs_embeds
        if by_kernel:
            norms = self.enorm.weight, self.hnorm.weight
            return embed_hidden_projection(
                ids, embedding, hidden_states, self.eh_proj.weight, *norms, eps=self.enorm.variance_epsilon
            )
        fused, _ = self.eh_proj(torch.cat([self.enorm(embedding), self.hnorm(hidden_states)], dim=-1))
        return fused

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        hidden_states: torch.Tensor,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        fused = self.fuse(input_ids, hidden_states, inputs_embeds)
        hidden_states, residual = self.layer(positions, fused)
        hidden_states, _ = self.norm(hidden_states, residual)
        return hidden_states


class MTPDraftModel(nn.Module):
    """Draft model for any target, distilled after the fact.

    `forward` returns hidden states after the final norm: the proposer gives them to `compute_logits` and feeds them
    back as the hidden states of the next draft step.
    """

    hf_to_vllm_mapper = WeightsMapper(
        orig_to_new_prefix={"": "model."},
        orig_to_new_stacked={
            ".q_proj": (".qkv_proj", "q"),
            ".k_proj": (".qkv_proj", "k"),
            ".v_proj": (".qkv_proj", "v"),
            ".gate_proj": (".gate_up_proj", 0),
            ".up_proj": (".gate_up_proj", 1),
        },
    )
    # A drafter is this file and nothing else, never a pickle, whatever files the target's --load-format looks for.
    allow_patterns_overrides: ClassVar[list[str]] = [WEIGHTS_FILE]
    d2t: torch.Tensor | None
    watch: HeadWatch | None = None
    lookup: PassLookup | None = None
    is_lookup_checked = False
    has_placeholders = False
    """Some multimodal targets keep the place of an image by an id beyond the embedding, and give it to the drafter."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        target = vllm_config.model_config
        self.config: MTPConfig = vllm_config.speculative_config.draft_model_config.hf_config
        check_target(self.config, target, vllm_config.load_config.download_dir)
        _check_options(self.config, vllm_config)
        check_requests(vllm_config)
        _tell_of_graphs(self.config, vllm_config)
        cpu_repairs.apply_where_needed()
        self.model = MTPPredictor(vllm_config=vllm_config, prefix=maybe_prefix(prefix, "model"))
        transform = LogitsTransform.from_target(target.hf_text_config)
        self.logits_processor = LogitsProcessor(
            self.config.vocab_size, scale=transform.scale, soft_cap=transform.soft_cap
        )
        size = self.config.draft_vocab_size
        self.register_buffer(D2T, None if size is None else torch.zeros(size, dtype=torch.int64))
        # In a list, so that it is none of the modules that vLLM walks over when it loads weights again.
        self._chosen_heads: list[heads.Head] = []
        self.only_top_tokens = bool(vllm_config.speculative_config.use_local_argmax_reduction)
        self.has_kernels = projection.has_kernels() and transform.scale > 0
        self.has_placeholders = target.is_multimodal_model
        self.lookup = self._make_lookup(vllm_config)
        losses = (
            why_head_dtype_is_off(self.config, vllm_config.speculative_config),
            why_weights_are_random(vllm_config),
            why_copies_are_wrong(self.config, vllm_config),
        )
        for text in filter(None, losses):
            logger.warning("%s", text)

    def _make_lookup(self, vllm_config: VllmConfig) -> PassLookup | None:
        lookup = Lookup.of(self.config.lookup)
        if lookup is None:
            return None
        if why := why_lookup_is_off(self.config, vllm_config):
            logger.warning(LOOKUP_IS_OFF, why)
            return None
        kind = HostLookup if current_platform.is_cpu() else DeviceLookup
        return kind(lookup, vllm_config.speculative_config.num_speculative_tokens, self.attention)

    @property
    def target_head(self) -> nn.Module:
        """The target's LM head, or its embedding where vLLM's class of the target has no head of its own (Gemma 2)."""
        return _without_adapters(getattr(self, "lm_head", self.model.embed_tokens))

    def head(self, dtype: torch.dtype) -> heads.Head:
        """What drafts from hidden states of `dtype`, chosen when it is first asked for: see `forward`."""
        if self.chosen_head is None:
            row_dtype = self.config.draft_head_dtype if self.only_top_tokens else None
            chosen = heads.choose(
                self.target_head,
                self.logits_processor,
                None if self.d2t is None else draft_ids(self.d2t),
                dtype=dtype,
                row_dtype=None if row_dtype is None else heads.ROW_DTYPES[row_dtype],
                by_kernel=self.only_top_tokens and self.has_kernels,
            )
            self._chosen_heads.append(chosen)
            if chosen.is_copy:
                self.watch = HeadWatch(self.target_head, chosen.follow)
        return self._chosen_heads[0]

    @property
    def chosen_head(self) -> heads.Head | None:
        """What `head` has chosen; None before the first pass."""
        return self._chosen_heads[0] if self._chosen_heads else None

    def follow_head(self) -> None:
        """Cuts the rows of the target's head again, after its weights were exchanged.

        To be called on every rank where nothing tells of it (exchange.py): `exchange.WorkerExtension` has it for
        `collective_rpc`.
        """
        if self.chosen_head is not None:
            self.chosen_head.follow()

    def embed_input_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.model.embed_input_ids(input_ids)

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        hidden_states: torch.Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: torch.Tensor | None = None,
        spec_step_idx: int = 0,
    ) -> torch.Tensor:
        # vLLM shares the head after loading, without a word to the draft model. Both model runners then run it once to
        # measure memory, before they take the rest for the KV cache and before they capture graphs: time to cut.
        self.head(hidden_states.dtype)
        if self.has_placeholders and input_ids is not None:
            input_ids.clamp_(max=self.config.vocab_size - 1)  # in the drafter's own buffer, which CUDA graphs know
        lookup, metadata = self._lookup_in_pass(input_ids, positions)
        if lookup is None or metadata is None or input_ids is None:
            self._look_at_head()
            return self.model(input_ids, positions, hidden_states, inputs_embeds)
        if not lookup.begin(input_ids, hidden_states, metadata):
            return hidden_states
        self._look_at_head()
        states: torch.Tensor = self.model(input_ids, positions, hidden_states, inputs_embeds)
        lookup.end(states, positions, metadata)
        return states

    def _look_at_head(self) -> None:
        if self.watch is not None and current_platform.is_cpu():
            self.watch.look()

    @property
    def attention(self) -> Attention:
        return self.model.layer.self_attn.attn

    def _lookup_in_pass(
        self, input_ids: torch.Tensor | None, positions: torch.Tensor
    ) -> tuple[PassLookup | None, PassMetadata | None]:
        """Lookup and vLLM's attention metadata of the drafter's layer, which is None where memory is measured.

        Where vLLM does not tell what lookup needs, that is said once, and it is off.
        """
        if self.lookup is None:
            return None, None
        by_layer = get_forward_context().attn_metadata
        metadata = by_layer.get(self.attention.layer_name) if isinstance(by_layer, dict) else None
        if metadata is None:
            self.lookup.forget()
        elif not self.is_lookup_checked:
            self.is_lookup_checked = True
            why = why_no_lookup(input_ids, positions, metadata, self.attention)
            if why:
                logger.warning(LOOKUP_IS_OFF, why)
                self.lookup = None
        return self.lookup, metadata

    def compute_logits(self, hidden_states: torch.Tensor, spec_step_idx: int = 0) -> torch.Tensor | None:
        """Logits over all of V, -inf outside a draft vocabulary; None on a rank that vLLM gives no logits."""
        of_module = self.head(hidden_states.dtype).logits
        if self.lookup is None:
            return of_module(hidden_states)
        return self.lookup.logits(hidden_states, of_module, self.config.vocab_size)

    def get_top_tokens(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Argmax over the vocabulary without gathering logits from every rank (`use_local_argmax_reduction`)."""
        of_module = self.head(hidden_states.dtype).top_tokens
        return of_module(hidden_states) if self.lookup is None else self.lookup.top_tokens(hidden_states, of_module)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Loads the checkpoint. vLLM's loader lets missing linear tensors and NaN pass, so they are checked here.

        Raises:
            ValueError: naming every missing, unexpected, misshapen or non-finite tensor, or what is wrong with `d2t`.
        """
        tensors = dict(weights)
        check_tensors(tensors, self.config.tensor_shapes(), self.config.vocab_size, "The drafter")
        if self.d2t is not None:
            self.d2t.copy_(tensors.pop(D2T))
        return AutoWeightsLoader(self).load_weights(tensors.items(), mapper=self.hf_to_vllm_mapper)


def _without_adapters(layer: nn.Module) -> Any:
    """The layer itself: with LoRA the V1 runner shares the target's wrapped one, and adapters are not the drafter's."""
    return getattr(layer, "base_layer", layer)


def _tell_of_graphs(config: MTPConfig, vllm_config: VllmConfig) -> None:
    """vLLM before 0.30 keeps a compiled drafter under a key that knows the target alone: this makes the drafter's shape
    part of it, through a setting that vLLM hashes. The V1 runner of those versions keeps it beside the target's, whose
    key is made before: there it does not help."""
    if isinstance(vllm_config.additional_config, dict):
        shape = {name: getattr(config, name) for name in _COMPILED}
        vllm_config.additional_config.setdefault("mtp_draft", shape)


def _check_options(config: MTPConfig, vllm_config: VllmConfig) -> None:
    if faults := refused_options(config, vllm_config):
        raise ValueError(" ".join(faults))
    if fault := why_not_divided(config, get_tensor_model_parallel_world_size()):
        raise ValueError(fault)
