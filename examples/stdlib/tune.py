"""A fine-tune of the shipped target, to measure what becomes of a drafter: code gives way to the prose of docstrings.

All weights, AdamW, a learning rate that falls linearly to zero. Into the folder go target/, tuned.json, which says how
far it is from the old one, and the first words of docstrings: train.jsonl as prompts for `vllm-mtp generate`, and of
held-out files prompts.txt to measure on.

    python examples/stdlib/tune.py --output runs/tuned
"""

# Shapes: B sequences, T tokens of a sequence, N all tokens of a split.

import argparse
import ast
import json
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import trange
from transformers import AutoModelForCausalLM, AutoTokenizer

from vllm_mtp.training.data.prompts import SEPARATOR

sys.path.insert(0, str(Path(__file__).resolve().parent))
import corpus
import train_target

TARGET = Path(__file__).resolve().parent / "target"
SEQUENCE_LENGTH = 256
BATCH_SIZE = 8
LEARNING_RATE = 1e-3
WARMUP_STEPS = 10
PROMPT_CHARACTERS = 100
SHORTEST_DOCSTRING = 80
SHORTEST_CONTINUED = 300
"""Characters of a docstring that is text, and of one whose beginning is a prompt."""


def docstrings(split: str) -> list[list[str]]:
    """Docstrings of each file of a split that has some, outermost first."""
    return [found for _, text in corpus.documents(split) if (found := docstrings_of(text))]


def docstrings_of(source: str) -> list[str]:
    """Those of a module that are long enough; none where the source does not parse, as in tests of the parser."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            return []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds)]
    return [text for text in found if len(text) >= SHORTEST_DOCSTRING]


def prompts(files: list[list[str]]) -> list[str]:
    """The first words of every docstring that goes on for a while."""
    long = [text for texts in files for text in texts if len(text) >= SHORTEST_CONTINUED]
    return [text[:PROMPT_CHARACTERS].rpartition(" ")[0] for text in long]


def tune(model: Any, ids_N: Tensor, num_steps: int) -> None:
    """Trains all weights in place, on windows of the text."""
    recipe = train_target.Recipe(tokens=0, sequence_length=SEQUENCE_LENGTH, batch_size=BATCH_SIZE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    for step in (bar := trange(num_steps, mininterval=10)):
        batch_BT = train_target.windows(ids_N, recipe, step)
        loss = model(input_ids=batch_BT, labels=batch_BT, use_cache=False).loss
        loss.backward()
        factor = min((step + 1) / WARMUP_STEPS, 1 - step / num_steps)
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * factor
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What a model makes of held-out text."""

    nats: float
    """Loss per token."""
    greedy_BT: Tensor
    """Greedy continuations."""


@torch.no_grad()
def look(model: Any, ids_N: Tensor) -> Look:
    """The loss over windows of a text, and what the model writes greedily behind 32 tokens at 32 places of it."""
    starts = torch.linspace(0, len(ids_N) - 33, 32).long().tolist()
    prompts_BT = torch.stack([ids_N[start:][:32] for start in starts])
    mask_BT = torch.ones_like(prompts_BT)
    output_BT = model.generate(
        prompts_BT, attention_mask=mask_BT, do_sample=False, min_new_tokens=24, max_new_tokens=24
    )
    return Look(nats=train_target.held_out_loss(model, ids_N, SEQUENCE_LENGTH, 64), greedy_BT=output_BT[:, 32:])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=150_000)
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    args.output.mkdir(parents=True, exist_ok=True)
    files = {split: docstrings(split) for split in ("train", "held_out")}
    lines = [json.dumps({"prompt": prompt}) for prompt in prompts(files["train"])[::2]]
    (args.output / "train.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    held_out_prompts = f"\n{SEPARATOR}\n".join(prompts(files["held_out"]))
    (args.output / "prompts.txt").write_text(held_out_prompts + "\n", encoding="utf-8")

    tokenizer = AutoTokenizer.from_pretrained(TARGET)
    model = AutoModelForCausalLM.from_pretrained(TARGET, dtype=torch.float32)
    texts = {split: ["\n\n".join(found) for found in of_files] for split, of_files in files.items()}
    train_N, held_out_N = (train_target.encode(tokenizer, texts[split]) for split in ("train", "held_out"))

    before = look(model, held_out_N)
    tune(model, train_N, args.tokens // (BATCH_SIZE * SEQUENCE_LENGTH))
    after = look(model, held_out_N)
    model.to(torch.bfloat16).save_pretrained(args.output / "target")
    tokenizer.save_pretrained(args.output / "target")
    differ = (before.greedy_BT != after.greedy_BT).any(dim=1).float().mean().item()
    about = {
        "tokens": args.tokens,
        "learning_rate": LEARNING_RATE,
        "held_out_nats_per_token": {"before": round(before.nats, 4), "after": round(after.nats, 4)},
        "share_of_greedy_outputs_that_differ": round(differ, 4),
    }
    (args.output / "tuned.json").write_text(json.dumps(about, indent=1) + "\n")
    print(json.dumps(about, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
