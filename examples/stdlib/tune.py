"""A fine-tune of the shipped target, to measure what becomes of a drafter: code gives way to questions and stories.

All weights, AdamW, a learning rate that falls linearly to zero, on text in English and German. Into the folder go
target/, tuned.json, which says how far it is from the old one, and the first words of texts: train.jsonl as prompts for
`vllm-mtp generate`, and of texts held out prompts.jsonl to measure on.

    python examples/smollm2/make_training_prompts.py --num 2000 --target examples/stdlib/target --output runs/text.jsonl
    python examples/stdlib/tune.py --text runs/text.jsonl --output runs/tuned
"""

# Shapes: B sequences, T tokens of a sequence, N all tokens of a split.

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import trange
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parent))
import train_target

TARGET = Path(__file__).resolve().parent / "target"
SEQUENCE_LENGTH = 256
BATCH_SIZE = 8
LEARNING_RATE = 1e-3
WARMUP_STEPS = 10
HELD_OUT_ONE_IN = 20
NUM_PROMPTS = {"train": 800, "held_out": 96}
PROMPT_CHARACTERS = 100
"""At most; of a short text half of it."""


def splits(texts: list[str]) -> dict[str, list[str]]:
    """Every twentieth text is held out."""
    held_out = texts[::HELD_OUT_ONE_IN]
    return {"train": [text for text in texts if text not in held_out], "held_out": held_out}


def prompt_of(text: str) -> str:
    """The first words of a text."""
    return text[: min(PROMPT_CHARACTERS, len(text) // 2)].rpartition(" ")[0]


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
    parser.add_argument("--text", type=Path, required=True, help="JSONL of examples/smollm2/make_training_prompts.py")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=100_000)
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    args.output.mkdir(parents=True, exist_ok=True)
    lines = args.text.read_text(encoding="utf-8").splitlines()
    texts = splits([json.loads(line)["messages"][0]["content"] for line in lines])
    for split, name in (("train", "train.jsonl"), ("held_out", "prompts.jsonl")):
        found = [json.dumps({"prompt": prompt_of(text)}) for text in texts[split][: NUM_PROMPTS[split]]]
        (args.output / name).write_text("\n".join(found) + "\n", encoding="utf-8")

    tokenizer = AutoTokenizer.from_pretrained(TARGET)
    model = AutoModelForCausalLM.from_pretrained(TARGET, dtype=torch.float32)
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
