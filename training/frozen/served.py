"""A target whose hidden states vLLM computes: whatever it serves, quantized as it is served, on as many GPUs.

Embedding and LM head, which a drafter shares, are read from the target's files; the rest of it is the engine's alone.
"""

# Shapes: B sequences, T tokens, D hidden size, V vocabulary.

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vllm_mtp.common.engine_options import EngineOptions
from vllm_mtp.common.errors import InputError
from vllm_mtp.contract.fingerprint import (
    EMBEDDING_NAMES,
    HEAD_NAMES,
    stored_table,
    stored_tensors,
    stored_weights_sha256,
)
from vllm_mtp.module.shared_head import LogitsTransform, SharedHead
from vllm_mtp.training.engine import vllm_engine
from vllm_mtp.training.frozen.loading import load_config, load_tokenizer
from vllm_mtp.training.frozen.target import (
    PLAIN_DTYPES,
    FrozenTarget,
    attend_without_plans,
    chosen_device,
    chosen_dtype,
    name_of,
)

_TASK = "token_embed"
_NUM_CHECKED = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedTarget(FrozenTarget):
    """A causal LM that nothing changes, in a vLLM engine that lives while it is read."""

    path: str
    whole_config: Any
    options: EngineOptions
    max_model_len: int
    _engines: list[Any] = field(default_factory=list)
    """The engine, where one is running."""
    _ends: ExitStack = field(default_factory=ExitStack)

    @classmethod
    def open(
        cls, path: str, options: EngineOptions, max_model_len: int, *, name: str = "", device: str, dtype: str
    ) -> "ServedTarget":
        """Reads embedding and head; no engine starts yet.

        Args:
            path: a folder or a Hub id.
            options: of the engine.
            max_model_len: tokens of the longest sequence that will be read.
            name, device, dtype: as of `FrozenTarget.load`.

        Raises:
            ValueError: for a target without plain embedding and head in safetensors.
        """
        where = chosen_device(device)
        attend_without_plans(where)
        config = load_config(path, **options.source())
        torch_dtype = chosen_dtype(dtype, where, config)
        return cls(
            name=name or name_of(path),
            model=None,
            tokenizer=load_tokenizer(path, **options.source()),
            head=_stored_head(path, config, options.revision, where, torch_dtype),
            device=where,
            dtype=torch_dtype,
            weights_sha256=stored_weights_sha256(path, revision=options.revision),
            path=path,
            whole_config=config,
            options=options,
            max_model_len=max_model_len,
        )

    @property
    def computed_by(self) -> str:
        return f"vLLM {self.options.stored()}"

    @contextmanager
    def reading(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._engines.clear()
            self._ends.close()

    @torch.no_grad()
    def hidden_states(self, ids_BT: Tensor) -> Tensor:
        from vllm import PoolingParams

        engine = self._engines[0] if self._engines else self._start(ids_BT)
        prompts = [{"prompt_token_ids": ids_T.tolist()} for ids_T in ids_BT]
        outputs = engine.encode(
            prompts, PoolingParams(task=_TASK, use_activation=False), pooling_task=_TASK, use_tqdm=False
        )
        # vLLM gives them in float32, which holds 16 bits as they were.
        return torch.stack([output.outputs.data for output in outputs]).to(self.device, self.dtype)

    def _start(self, ids_BT: Tensor) -> Any:
        from vllm.config import PoolerConfig

        engine = self._ends.enter_context(
            vllm_engine(
                self.path,
                self.options,
                dtype=self.dtype_name,
                max_model_len=self.max_model_len,
                enable_prefix_caching=False,
                runner="pooling",
                convert="embed",
                pooler_config=PoolerConfig(task=_TASK, use_activation=False),
            )
        )
        self._engines.append(engine)
        self._check_head(ids_BT)
        return engine

    def _check_head(self, ids_BT: Tensor) -> None:
        """Refuses a head to which the hidden states say nothing of the tokens that follow."""
        ids_T = ids_BT[ids_BT.bool().sum(1).argmax(), :_NUM_CHECKED]
        logits_TV = self.head.logits(self.hidden_states(ids_T[None])[0, :-1])
        loss = float(torch.nn.functional.cross_entropy(logits_TV, ids_T[1:].to(logits_TV.device)))
        chance = math.log(self.vocab_size)
        if not loss < chance:
            raise InputError(
                "target",
                f"{self.name}'s stored LM head, applied to the hidden states that vLLM gives, foresees the data with "
                f"{loss:.1f} nats a token, no better than chance ({chance:.1f}): a head not known here, or data that "
                "this target cannot have written",
            )


def _stored_head(path: str, config: Any, revision: str | None, device: torch.device, dtype: torch.dtype) -> SharedHead:
    """Embedding and LM head as a target's files have them.

    Raises:
        InputError: where they are missing or quantized.
    """
    text_config = config.get_text_config()
    size = int(text_config.vocab_size)
    source: dict[str, Any] = {"download": True, "revision": revision}

    def table(names: tuple[str, ...]) -> Tensor | None:
        found = stored_table(path, names, size, **source)
        if found is None:
            return None
        weight_VD: Tensor = found[:size]
        if weight_VD.dtype not in PLAIN_DTYPES:
            raise InputError("target", f"{names[0]} of {path} is quantized, and a drafter shares it")
        return weight_VD.to(device, dtype)

    embedding_VD = table(EMBEDDING_NAMES)
    if embedding_VD is None:
        names = " or ".join(EMBEDDING_NAMES)
        raise InputError("target", f"expected {names} in safetensors files of {path}, not quantized, found none")
    is_tied = bool(getattr(text_config, "tie_word_embeddings", False))
    head_VD = embedding_VD if is_tied else table(HEAD_NAMES)
    if head_VD is None:
        names = " or ".join(HEAD_NAMES)
        raise InputError("target", f"expected {names} in safetensors files of {path}, not quantized, found none")
    biases = [tensor[...] for name, tensor in stored_tensors(path, **source) if name.endswith("lm_head.bias")]
    return SharedHead(
        embedding_VD=embedding_VD,
        head_VD=head_VD,
        bias_V=biases[0][:size].to(device, dtype) if biases else None,
        transform=LogitsTransform.from_target(text_config),
    )
