"""Trains the small language model that the demo accelerates. Not needed to run the demo: the result is shipped.

Qwen3 architecture, deep and narrow like the LLMs that people serve (depth is what a drafter saves), on the source of
Python's standard library (corpus.py). Muon on the matrices, AdamW on the embedding and the norms, a constant learning
rate with a linear decay over the last part. The same command run again resumes.

    python examples/stdlib/train_target.py --output runs/target --tokens 16000000
"""

# Shapes: B sequences, T tokens of a sequence, N all tokens of a split.

import argparse
import json
import math
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from vllm_mtp.training.data.repetition import ends_in_loop
from vllm_mtp.training.muon import Float32Muon

sys.path.insert(0, str(Path(__file__).resolve().parent))
import corpus

END_OF_TEXT = "<|endoftext|>"
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Everything that decides the result."""

    tokens: int
    """Tokens seen in all."""
    num_layers: int = 28
    hidden_size: int = 128
    intermediate_size: int = 384
    num_heads: int = 2
    num_kv_heads: int = 1
    head_dim: int = 64
    vocab_size: int = 2048
    sequence_length: int = 512
    batch_size: int = 8
    """Sequences per step."""
    learning_rate_matrices: float = 0.02
    learning_rate_rest: float = 0.006
    warmup_steps: int = 60
    decay_fraction: float = 0.4
    """Share of the steps, at the end, over which the learning rate falls linearly to zero."""
    seed: int = 0

    @property
    def num_steps(self) -> int:
        return self.tokens // (self.batch_size * self.sequence_length)

    def learning_rate_factor(self, step: int) -> float:
        warmup = min(1.0, (step + 1) / self.warmup_steps)
        decay = min(1.0, (self.num_steps - step) / max(1.0, self.decay_fraction * self.num_steps))
        return warmup * decay


def train_tokenizer(texts: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> Tensor:
    ids: list[int] = []
    for encoding in tokenizer.backend_tokenizer.encode_batch(texts):
        ids += [*encoding.ids, tokenizer.eos_token_id]
    return torch.tensor(ids)


def windows(ids_N: Tensor, recipe: Recipe, step: int) -> Tensor:
    """The batch of a step, a function of the step alone: every epoch cuts at another phase, in another order."""
    length = recipe.sequence_length
    per_epoch = (len(ids_N) - length) // length // recipe.batch_size
    epoch, index = divmod(step, per_epoch)
    generator = torch.Generator().manual_seed(recipe.seed * 1000 + epoch)
    phase = int(torch.randint(length, (1,), generator=generator))
    order = torch.randperm(per_epoch * recipe.batch_size, generator=generator)
    rows = order[index * recipe.batch_size :][: recipe.batch_size]
    return torch.stack([ids_N[phase + row * length :][:length] for row in rows.tolist()])


@torch.no_grad()
def held_out_loss(model: Qwen3ForCausalLM, ids_N: Tensor, length: int, num_windows: int) -> float:
    """Mean next-token loss in nats over evenly spaced windows."""
    starts = torch.linspace(0, len(ids_N) - length - 1, num_windows).long().tolist()
    batches = torch.stack([ids_N[start:][:length] for start in starts]).split(8)
    losses = [float(model(input_ids=batch, labels=batch).loss) * len(batch) for batch in batches]
    return sum(losses) / num_windows


@torch.no_grad()
def share_of_loops(model: Qwen3ForCausalLM, ids_N: Tensor, num_prompts: int = 48, num_tokens: int = 96) -> float:
    """Share of greedy continuations of held-out text whose last 64 tokens repeat with a period of at most 32."""
    starts = torch.linspace(0, len(ids_N) - 65, num_prompts).long().tolist()
    prompts = torch.stack([ids_N[start:][:64] for start in starts])
    output = model.generate(
        prompts, attention_mask=torch.ones_like(prompts), do_sample=False, max_new_tokens=num_tokens, eos_token_id=None
    )
    return sum(ends_in_loop(ids) for ids in output.tolist()) / num_prompts


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=16_000_000)
    parser.add_argument("--bf16", action="store_true", help="bfloat16 autocast; only where the processor has it")
    parser.add_argument("--compile", action="store_true", help="torch.compile every layer; needs a C++ compiler")
    args = parser.parse_args(argv)
    recipe = Recipe(tokens=args.tokens)
    torch.manual_seed(recipe.seed)
    args.output.mkdir(parents=True, exist_ok=True)

    train_texts = [text for _, text in corpus.documents("train")]
    held_out_texts = [text for _, text in corpus.documents("held_out")]
    if (args.output / "tokenizer.json").exists():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(args.output)
    else:
        tokenizer = train_tokenizer(train_texts, recipe.vocab_size)
        tokenizer.save_pretrained(args.output)
    train_N, held_out_N = encode(tokenizer, train_texts), encode(tokenizer, held_out_texts)
    held_out_bytes_per_token = sum(len(text.encode()) for text in held_out_texts) / len(held_out_N)
    print(f"{len(train_texts)} files, {len(train_N) / 1e6:.2f} M tokens; {held_out_bytes_per_token:.2f} bytes/token")

    config = Qwen3Config(
        vocab_size=recipe.vocab_size,
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.num_layers,
        num_attention_heads=recipe.num_heads,
        num_key_value_heads=recipe.num_kv_heads,
        head_dim=recipe.head_dim,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen3ForCausalLM(config)
    if args.compile:
        for layer in model.model.layers:
            layer.compile()
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed_tokens" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed_tokens" in name]
    muon = Float32Muon(matrices, lr=recipe.learning_rate_matrices, weight_decay=0.0, adjust_lr_fn="original")
    adamw = torch.optim.AdamW(rest, lr=recipe.learning_rate_rest, betas=(0.9, 0.95), weight_decay=0.0)

    checkpoint_path, first_step, log = args.output / "checkpoint.pt", 0, []
    if checkpoint_path.exists():
        checkpoint = torch.load(checkpoint_path, weights_only=True)
        model.load_state_dict(checkpoint["model"])
        muon.load_state_dict(checkpoint["muon"])
        adamw.load_state_dict(checkpoint["adamw"])
        first_step, log = checkpoint["step"], checkpoint["log"]
        print(f"resumed at step {first_step}")

    bar = tqdm(range(first_step, recipe.num_steps), initial=first_step, total=recipe.num_steps, mininterval=10)
    average = None
    for step in bar:
        batch_BT = windows(train_N, recipe, step)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            loss = model(input_ids=batch_BT, labels=batch_BT, use_cache=False).loss
        loss.backward()
        for optimizer, base in ((muon, recipe.learning_rate_matrices), (adamw, recipe.learning_rate_rest)):
            optimizer.param_groups[0]["lr"] = base * recipe.learning_rate_factor(step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        average = loss.item() if average is None else 0.97 * average + 0.03 * loss.item()
        bar.set_postfix(loss=f"{average:.3f}", refresh=False)
        if (step + 1) % 200 == 0 or step + 1 == recipe.num_steps:
            held_out = held_out_loss(model, held_out_N, recipe.sequence_length, 32)
            log.append({"step": step + 1, "train_loss": round(average, 4), "held_out_loss": round(held_out, 4)})
            tqdm.write(f"step {step + 1}: train {average:.3f}, held out {held_out:.3f} nats/token")
            state = {"model": model.state_dict(), "muon": muon.state_dict(), "adamw": adamw.state_dict()}
            torch.save({**state, "step": step + 1, "log": log}, checkpoint_path.with_suffix(".tmp"))
            os.replace(checkpoint_path.with_suffix(".tmp"), checkpoint_path)

    model = model.to(torch.bfloat16).float().eval()  # measured as shipped
    held_out = held_out_loss(model, held_out_N, recipe.sequence_length, 96)
    result = {
        "held_out_nats_per_token": round(held_out, 4),
        "held_out_bits_per_byte": round(held_out / math.log(2) / held_out_bytes_per_token, 4),
        "share_of_greedy_outputs_that_loop": round(share_of_loops(model, held_out_N), 3),
    }
    model.to(torch.bfloat16).save_pretrained(args.output)
    run: dict[str, object] = {"recipe": asdict(recipe), "python": sys.version.split()[0], "torch": torch.__version__}
    run |= {"train_tokens_in_corpus": len(train_N), "finished": time.strftime("%Y-%m-%d"), "result": result, "log": log}
    (args.output / "run_info.json").write_text(json.dumps(run, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
