"""Keyword arguments of `vllm.LLM`: what all engines of a benchmark have in common, and what a method adds."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_mtp.benchmarks.harness.draft_folder import draft_folder
from vllm_mtp.benchmarks.harness.method import Method
from vllm_mtp.common.engine_options import EngineOptions

_BLOCK_SIZE = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineArgs:
    """What the engines of a benchmark have in common.

    The target's generation_config.json stays in force for what ends an answer, which is not always the tokenizer's end
    of text; temperature and length are given with every request.
    """

    target: str
    draft: Path
    variants: Path
    """Folder for variants of the drafter."""
    dtype: str
    enforce_eager: bool
    max_model_len: int
    max_num_seqs: int = 32
    seed: int = 0
    prefix_caching: bool = False
    """On: a pass finds its prompts already read by the one before."""
    num_engines: int = 1
    """Engines alive at once, which share a GPU."""
    options: EngineOptions = EngineOptions()
    """What the user says of the engines; it wins."""
    kv_cache_tokens: int = 0
    """Tokens for which an engine on a CPU has room; 0: as many as fit into its share of memory."""

    def of(self, method: Method) -> dict[str, Any]:
        """For `vllm.LLM`, after a variant of the drafter's folder is made for a method that needs one."""
        import torch

        arguments: dict[str, Any] = {
            "model": self.target,
            "dtype": self.dtype,
            "enforce_eager": self.enforce_eager,
            "max_model_len": self.max_model_len,
            "max_num_seqs": self.max_num_seqs,
            "seed": self.seed,
            "enable_prefix_caching": self.prefix_caching,
        }
        if torch.cuda.is_available():
            arguments["gpu_memory_utilization"] = round(0.9 / self.num_engines, 2)
        elif self.kv_cache_tokens:
            blocks = math.ceil(self.kv_cache_tokens / _BLOCK_SIZE)
            arguments |= {"block_size": _BLOCK_SIZE, "num_gpu_blocks_override": blocks}
        arguments |= self.options.engine_args()
        speculative = method.speculative_config(draft_folder(method, self.draft, self.variants))
        return arguments if speculative is None else arguments | {"speculative_config": speculative}
