"""A finished drafter: config.json, model.safetensors, run_info.json, training_curve.csv and the model card."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from vllm_mtp.common.files import write_atomically
from vllm_mtp.common.provenance import git_revision, processor_name, relative, versions
from vllm_mtp.contract.checkpoint import save_draft
from vllm_mtp.module.mtp import MTPModule
from vllm_mtp.training.config import NUM_SPECULATIVE_TOKENS
from vllm_mtp.training.data.rows import num_tokens
from vllm_mtp.training.record import RUN_INFO, Entry, HeldOut
from vllm_mtp.training.run import Run

CURVE_FILE = "training_curve.csv"
_CURVE_EVERY = 10
"""Steps between rows of the curve."""


def export(output: Path, module: MTPModule, info: dict[str, Any], log: Sequence[Entry]) -> None:
    """Writes the drafter's folder; run_info.json last, as the mark of a finished run."""
    tensors = {
        name: tensor.detach().to("cpu", torch.bfloat16 if tensor.is_floating_point() else tensor.dtype)
        for name, tensor in module.state_dict().items()
    }
    save_draft(output, module.config, tensors)
    write_atomically(output / "README.md", model_card(info))
    write_atomically(output / CURVE_FILE, training_curve(log))
    write_atomically(output / RUN_INFO, json.dumps(info, indent=1) + "\n")


def run_info(run: Run, kept_step: int, held_out: HeldOut, *, seconds: float) -> dict[str, Any]:
    """What made a drafter: the content of run_info.json.

    Args:
        run: after its last step.
        kept_step: the step whose module it is.
        held_out: measures of that module.
        seconds: how long the steps of this process took.
    """
    last = run.log[-1].held_out if run.config.keep == "best" else None
    target_rate = run.target_tokens_per_second
    return {
        "argv": [relative(argument) for argument in run.inputs.argv],
        **asdict(run.identity),
        "device": torch.cuda.get_device_name() if run.target.device.type == "cuda" else processor_name(),
        "loss": run.loss.note,
        "data_tokens": sum(num_tokens(source.rows) for source in run.sources),
        "bad_records": sum(source.num_bad for source in run.sources),
        **run.inputs.template.stored(),
        **run.inputs.engine_options.settings(),
        "tokens_seen": run.batches.tokens_seen(run.config.num_steps),
        "seconds_of_last_run": round(seconds, 1),
        "tokens_per_second": {
            "target": None if target_rate is None else round(target_rate),
            "drafter": round(run.num_tokens / seconds),
        },
        "git_revision": git_revision(),
        "versions": versions("vllm-mtp", "torch", "transformers"),
        "kept_step": kept_step,
        "held_out": asdict(held_out),
        **({} if last is None else {"held_out_of_last_step": asdict(last)}),
    }


def training_curve(log: Sequence[Entry]) -> str:
    """training_curve.csv: the first step, every tenth, the last, and those with held-out measures.

    Columns end in the draft position; a cell is empty where a step did not train or measure it.
    """
    kept = [
        entry
        for entry in log
        if entry.step % _CURVE_EVERY == 0 or entry.held_out is not None or entry.step in (log[0].step, log[-1].step)
    ]
    rows = [_curve_row(entry) for entry in kept]
    trained = max((len(entry.agreement_per_position) for entry in kept), default=0)
    measured = max((len(e.held_out.agreement_per_position) for e in kept if e.held_out is not None), default=0)
    columns = ["step", "loss", *(f"agreement_{position}" for position in range(trained))]
    columns += ["held_out_loss", "held_out_positions"]
    columns += [f"held_out_acceptance_length{bound}" for bound in ("", "_95_low", "_95_high")]
    columns += [f"held_out_{name}_{position}" for name in ("agreement", "overlap") for position in range(measured)]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _curve_row(entry: Entry) -> dict[str, float]:
    row: dict[str, float] = {"step": entry.step, "loss": round(entry.loss, 5)}
    row |= _columns("agreement", entry.agreement_per_position)
    if entry.held_out is not None:
        row |= {"held_out_loss": entry.held_out.loss, "held_out_positions": entry.held_out.positions}
        row |= {f"held_out_{name}": value for name, value in entry.held_out.acceptance().items()}
        row |= _columns("held_out_agreement", entry.held_out.agreement_per_position)
        row |= _columns("held_out_overlap", entry.held_out.overlap_per_position)
    return row


def _columns(name: str, values: Sequence[float]) -> dict[str, float]:
    return {f"{name}_{position}": value for position, value in enumerate(values)}


def model_card(info: dict[str, Any]) -> str:
    """README.md of the drafter's folder; it speaks of this drafter and its target alone."""
    name, size = info["target"]["name"], info["draft_vocab_size"]
    vocabulary = "all" if size is None else f"{size:,}"
    cut = info.get("cut_after_training")
    before_the_cut = ""
    if cut is not None:
        trained_on = "all tokens" if cut["trained_on"] is None else f"{cut['trained_on']:,} tokens"
        before_the_cut = f", as it was trained: on {trained_on}"
    held_out = HeldOut(**info["held_out"])
    measured = zip(held_out.agreement_per_position, held_out.overlap_per_position, strict=True)
    rows = "\n".join(
        f"| {position} | {agreement:.3f} | {overlap:.3f} |" for position, (agreement, overlap) in enumerate(measured)
    )
    return f"""---
library_name: vllm
tags: [speculative-decoding, multi-token-prediction, vllm-mtp]
base_model: {name}
---

# MTP drafter for {name}

One transformer layer that drafts tokens for the frozen target. The target verifies every token: the output is its own.

| | |
|---|---|
| target | {name} |
| made by | vllm-mtp, self-distillation with the {info["config"]["objective"].upper()} objective |
| trained on | {info["tokens_seen"]:,} tokens that count in the loss |
| draft steps unrolled in training | {info["config"]["num_steps_unrolled"]} |
| tokens that can be drafted | {vocabulary} of the target's {info["target"]["vocab_size"]:,} |

Embedding and LM head are the target's. This folder holds the layer alone.

## Serve

Install vllm-mtp into the environment that has vLLM: `pip install .` in a checkout of its repository. Then

    vllm serve TARGET --spec-method mtp --spec-model THIS_FOLDER --spec-tokens 3

or, on any version of vLLM,

    vllm serve TARGET --speculative-config '{{"model": "THIS_FOLDER", "num_speculative_tokens": 3}}'

If you sample (temperature above 0), add `"draft_sample_method": "probabilistic"` to that JSON: vLLM then accepts
more tokens. If you do not, you may add `"use_local_argmax_reduction": true`: the drafts are the same, and cheaper.

Where the text repeats itself, the drafter copies from it instead of asking the layer ("lookup" in config.json).
`vllm-mtp lookup THIS_FOLDER --off` switches that off.

## Measured on held-out text

Teacher-forced, with the attention that serving has{before_the_cut}.
Agreement is how often the drafter's most likely token is the target's. Overlap, the sum of min(p, q), is the acceptance
of a sampled draft token at temperature 1.

| position | agreement | overlap |
|---|---|---|
{rows}
{_acceptance_text(info)}
`run_info.json` has the command, the configuration and versions, `training_curve.csv` the training curve.
"""


def _acceptance_text(info: dict[str, Any]) -> str:
    """The card's paragraphs on acceptance length; nothing where it was not measured."""
    held_out = HeldOut(**info["held_out"])
    if held_out.acceptance_length is None:
        return ""
    text = f"""
Acceptance length at k = {NUM_SPECULATIVE_TOKENS}, with its 95% interval: **{held_out.length_text}** tokens a round.
It is counted along the text, without copying. On text that the target wrote greedily it is that of serving at
temperature 0; on other text it says how far drafter and target agree on what comes next.
"""
    if "held_out_of_last_step" in info:
        last = HeldOut(**info["held_out_of_last_step"])
        step = f"checkpoint of step {info['kept_step']:,}" if info["kept_step"] else "drafter that it went on from"
        text += f"""
Of this run this is the {step}, the best by held-out acceptance length.
The last one has {last.length_text}.
"""
    return text
