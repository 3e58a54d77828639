"""A finished drafter: config.json, model.safetensors, run_info.json and the model card."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from vllm_mtp.common.files import write_atomically
from vllm_mtp.common.provenance import git_revision, processor_name, relative, versions
from vllm_mtp.contract.checkpoint import save_draft
from vllm_mtp.contract.config import MTPConfig
from vllm_mtp.module.mtp import MTPModule
from vllm_mtp.training.checkpoint import RUN_INFO
from vllm_mtp.training.target.frozen import FrozenTarget


def export(output: Path, module: MTPModule, config: MTPConfig, info: dict[str, Any]) -> None:
    """Writes the drafter's folder; run_info.json last, as the mark of a finished run."""
    tensors = {
        name: tensor.detach().to("cpu", torch.bfloat16 if tensor.is_floating_point() else tensor.dtype)
        for name, tensor in module.state_dict().items()
    }
    save_draft(output, config, tensors)
    write_atomically(output / "README.md", model_card(info))
    write_atomically(output / RUN_INFO, json.dumps(info, indent=1) + "\n")


def run_info(
    run: Mapping[str, Any],
    target: FrozenTarget,
    *,
    argv: Sequence[str],
    log: list[dict[str, Any]],
    loss: str,
    data_tokens: int,
    tokens_seen: int,
    seconds: float,
    tokens_per_second: Mapping[str, float | None],
) -> dict[str, Any]:
    """What made a drafter. `run` is what identifies the run, `tokens_per_second` the rate of each stage when it last
    ran, None for a stage with nothing to do."""
    return {
        "argv": [relative(argument) for argument in argv],
        **run,
        "device": torch.cuda.get_device_name() if target.device.type == "cuda" else processor_name(),
        "loss": loss,
        "data_tokens": data_tokens,
        "tokens_seen": tokens_seen,
        "seconds_of_last_run": round(seconds, 1),
        "tokens_per_second": {stage: rate and round(rate) for stage, rate in tokens_per_second.items()},
        "git_revision": git_revision(),
        "versions": versions("vllm-mtp", "torch", "transformers"),
        "held_out": next((entry["held_out"] for entry in reversed(log) if "held_out" in entry), None),
        "log": log,
    }


def model_card(info: dict[str, Any]) -> str:
    """README.md of the drafter's folder."""
    name, held_out = info["target"]["name"], info["held_out"]
    size = info["draft_vocab_size"]
    vocabulary = f" It drafts {size:,} of the target's {info['target']['vocab_size']:,} tokens." if size else ""
    rows = "\n".join(
        f"| {position} | {agreement:.3f} | {overlap:.3f} |"
        for position, (agreement, overlap) in enumerate(
            zip(held_out["agreement_per_position"], held_out["overlap_per_position"], strict=True)
        )
    )
    return f"""---
library_name: vllm
tags: [speculative-decoding, multi-token-prediction, vllm-mtp]
base_model: {name}
---

# MTP drafter for {name}

One transformer layer that drafts tokens for the frozen target {name}; the target verifies every token, so that the
output is the target's own. Made with vllm-mtp by {info["config"]["objective"].upper()} self-distillation over
{info["tokens_seen"]:,} tokens, {info["config"]["num_steps_unrolled"]} draft steps unrolled. Embedding and LM head are
the target's; this folder holds the layer alone.{vocabulary}

## Serve

    pip install ./vllm-mtp      # its checkout, into the environment that has vLLM
    vllm serve TARGET --spec-method mtp --spec-model THIS_FOLDER --spec-tokens 3

or, on any version of vLLM, `--speculative-config '{{"model": "THIS_FOLDER", "num_speculative_tokens": 3}}'`. Who
samples (temperature above 0) adds `"draft_sample_method": "probabilistic"` to that JSON: more tokens are accepted. Who
does not may add `"use_local_argmax_reduction": true`: the same drafts, cheaper (1.03x tokens/s where it was measured,
SmolLM2-135M on two cores of a CPU, k = 3).

Where the text repeats itself the drafter copies ("lookup" in config.json) instead of asking the layer;
`vllm-mtp lookup THIS_FOLDER --off` switches that off.

## Measured on held-out text

Teacher-forced, with the attention that serving has. Agreement is how often the drafter's most likely token is the
target's; overlap, the sum of min(p, q), is the acceptance of a sampled draft token at temperature 1.

| position | agreement | overlap |
|---|---|---|
{rows}

`run_info.json` has the command, the configuration, versions and the training curve.
"""
