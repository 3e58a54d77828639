"""Makes the prompts whose answers, written by the target itself, a drafter for SmolLM2-135M-Instruct is trained on.

Six tasks in fixed shares, from the templates and word lists in tasks/. Long documents are invented stories and, with
`--conversations`, answers that the target wrote before, with `--documents`, passages of your own manuals, books or
articles. The same seed gives the same file.

    python examples/smollm2/make_training_prompts.py --target runs/smollm2/target \
        --conversations conversations.npz --output runs/smollm2/training_prompts.jsonl
"""

import argparse
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from tasks import chat, math_problems, qa, rag, summarization, translation
from tasks.documents import Library, read_library
from tasks.real_documents import read_documents

SHARES = {"chat": 0.20, "translation": 0.15, "summarization": 0.18, "qa": 0.12, "math_reasoning": 0.15, "rag": 0.20}
MAX_PROMPT_TOKENS = 1_700
"""Every prompt is shorter than this, the chat template's own tokens not counted."""
_MAX_TRIES = 20
"""Draws for each prompt asked for; more means that the templates are exhausted."""

Record = dict[str, Any]


def makers(library: Library) -> dict[str, Callable[[random.Random], str]]:
    """What draws one prompt of each task."""
    return {
        "chat": lambda rng: chat.prompt(rng, library),
        "translation": translation.prompt,
        "summarization": lambda rng: summarization.prompt(rng, library),
        "qa": qa.prompt,
        "math_reasoning": math_problems.prompt,
        "rag": lambda rng: rag.prompt(rng, library),
    }


def make_prompts(library: Library, num_prompts: int, seed: int, num_tokens: Callable[[str], int]) -> list[Record]:
    """Distinct prompts of all tasks in random order.

    Args:
        library: documents for the tasks that need some.
        num_prompts: in all, split by SHARES.
        seed: decides everything; each task draws from its own generator.
        num_tokens: length of a text, for the limit.

    Raises:
        ValueError: if a task runs out of distinct prompts.
    """
    records: list[Record] = []
    seen: set[str] = set()
    for category, make in makers(library).items():
        rng = random.Random(f"{seed} {category}")
        wanted, tries = round(num_prompts * SHARES[category]), 0
        while wanted:
            tries += 1
            if tries > _MAX_TRIES * num_prompts:
                raise ValueError(
                    f"--num: expected fewer, got {num_prompts}, for which {category} lacks distinct prompts"
                )
            text = make(rng).strip()
            if text in seen or num_tokens(text) >= MAX_PROMPT_TOKENS:
                continue
            seen.add(text)
            records.append({"category": category, "messages": [{"role": "user", "content": text}]})
            wanted -= 1
    random.Random(f"{seed} order").shuffle(records)
    return records


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conversations", type=Path, help="what the target wrote itself (`vllm-mtp generate`)")
    parser.add_argument("--documents", type=Path, nargs="+", default=[], help="files or folders of text or HTML")
    parser.add_argument("--target", type=Path, required=True, help="the target's folder: its tokenizer is used")
    parser.add_argument("--output", type=Path, required=True, help="JSONL, one prompt a line: category, messages")
    parser.add_argument("--num", type=int, default=6000, help="prompts in all; default: 6000")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    try:
        if args.num < 1:
            raise ValueError(f"--num: expected at least 1, got {args.num}")
        if not (args.target / "tokenizer.json").is_file():
            raise ValueError(f"--target: expected a model's folder, got {args.target}, which has no tokenizer.json")
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(args.target)

        def num_tokens(text: str) -> int:
            return len(tokenizer(text, add_special_tokens=False).input_ids)

        library = read_library(args.conversations, tokenizer) if args.conversations else Library([])
        if args.documents:
            library = Library([*library.documents, *read_documents(args.documents, num_tokens)])
        records = make_prompts(library, args.num, args.seed, num_tokens)
    except ValueError as error:
        print(f"make_training_prompts: {error}", file=sys.stderr)
        return 2
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with args.output.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    print(f"{args.output}: {len(records)} prompts from {len(library.documents)} documents")
    for category in SHARES:
        texts = [record["messages"][0]["content"] for record in records if record["category"] == category]
        lengths = sorted(num_tokens(text) for text in texts)
        if lengths:
            mean, p95 = sum(lengths) / len(lengths), lengths[int(0.95 * (len(lengths) - 1))]
            print(f"  {category:15} {len(lengths):5} prompts, tokens: mean {mean:.0f}, p95 {p95}, most {lengths[-1]}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
