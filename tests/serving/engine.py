"""Engines for tests: real vLLM in this process, one after another."""

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from vllm_mtp.benchmarks.harness.acceptance import Acceptance


@contextmanager
def engine(
    target_dir: Path,
    draft_dir: Path | None = None,
    num_speculative_tokens: int = 3,
    *,
    speculative: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Iterator[Any]:
    """Yields a `vllm.LLM` for the target, with the drafter if one is given, and shuts it down afterwards.

    Float32, eager, seed 0, statistics on, and the target's generation_config.json ignored, so that runs can be
    compared. Only one engine may live at a time: vLLM's distributed state belongs to the process.

    Args:
        target_dir: the target.
        draft_dir: the drafter; None for generation without drafting.
        num_speculative_tokens: K; without effect where there is no drafter.
        speculative: further fields of `speculative_config`, such as `{"draft_sample_method": "probabilistic"}`.
        **kwargs: arguments of `vllm.LLM`; they replace the defaults above.
    """
    from vllm import LLM

    if draft_dir is not None:
        drafting = {"model": str(draft_dir), "num_speculative_tokens": num_speculative_tokens, **(speculative or {})}
        kwargs = {"speculative_config": drafting, **kwargs}
    defaults = {
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": 512,
        "max_num_seqs": 64,
        "seed": 0,
        "disable_log_stats": False,
        "generation_config": "vllm",
        "kv_cache_memory_bytes": 2**27,  # enough for all requests of a test, and cleared in a moment
    }
    gc.freeze()  # vLLM collects at every turn: not what other tests and imports left, until it undoes this at its end
    llm = LLM(model=str(target_dir), **(defaults | kwargs))
    try:
        yield llm
    finally:
        # Explicitly: collected later, the engine would take the distributed state of its successor with it.
        with patch.object(gc, "collect"):  # which vLLM calls again and again: once, below, is enough
            llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()


def counters(llm: Any) -> dict[str, int]:
    """The engine's counters since its start, by their Prometheus name without `vllm:`, vector counters left out."""
    return {
        metric.name.removeprefix("vllm:"): int(metric.value)
        for metric in llm.get_metrics()
        if type(metric).__name__ == "Counter"
    }


def acceptance(llm: Any) -> Acceptance:
    """The engine's acceptance since its start, from its own counters."""
    name = "vllm:spec_decode_num_accepted_tokens_per_pos"
    counted = counters(llm)
    return Acceptance(
        num_drafts=counted["spec_decode_num_drafts"],
        num_draft_tokens=counted["spec_decode_num_draft_tokens"],
        num_accepted_tokens_per_position=next(tuple(m.values) for m in llm.get_metrics() if m.name == name),
    )


def greedy(llm: Any, prompts: Sequence[Sequence[int]], max_tokens: int) -> list[list[int]]:
    """The token ids that follow each prompt, exactly `max_tokens` of them."""
    from vllm import SamplingParams

    params = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
    outputs = llm.generate([{"prompt_token_ids": list(ids)} for ids in prompts], params, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]


def model_runner(llm: Any) -> Any:
    """The worker's model runner: `model` is the target, `drafter.model` the draft model."""
    [runner] = llm.collective_rpc(lambda worker: worker.model_runner)
    return runner


@contextmanager
def copied_tokens(llm: Any) -> Iterator[list[int]]:
    """Collects the tokens that the drafter's lookup copies while requests are served."""
    lookup = model_runner(llm).drafter.model.lookup
    assert lookup is not None, "lookup is off"
    tokens, copied = lookup.tokens, []

    def collected(states_BD: Any) -> Any:
        found = tokens(states_BD)
        copied.extend(token for token in map(int, found) if token >= 0)
        return found

    lookup.tokens = collected
    try:
        yield copied
    finally:
        del lookup.tokens
