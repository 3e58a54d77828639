"""`vllm-mtp generate`: let the target write its own training data."""

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_mtp.cli.target import add_target
from vllm_mtp.common.flags import add_fields, config_of

if TYPE_CHECKING:
    from vllm_mtp.training.config import TrainConfig

_EPOCHS, _LEAST_TOKENS = 4, 100_000
"""That the line for `train` suggests."""


def add(parser: argparse.ArgumentParser) -> None:
    from vllm_mtp.training.cluster_options import ClusterOptions
    from vllm_mtp.training.data.generate_config import GenerateConfig

    add_target(parser, "Folder or Hub id of a causal LM.")
    parser.add_argument(
        "--prompts", nargs="+", type=Path, default=[],
        help="Text, JSON, JSONL or Parquet files, folders of them, or hf://OWNER/NAME, of prompts or conversations "
        "in any usual layout (default: none, with --self-prompts)",
    )  # fmt: skip
    parser.add_argument(
        "--self-prompt-starts", nargs="+", type=Path, default=[], metavar="FILE",
        help="Starts of user turns that the target writes on, in files like those of --prompts (default: none)",
    )  # fmt: skip
    parser.add_argument("--output", required=True, type=Path, help="Folder for the conversations.")
    add_fields(parser, GenerateConfig)
    add_fields(parser.add_argument_group("A Ray cluster that answers"), ClusterOptions)
    parser.set_defaults(run=run, goes_on=True)


def _row_sizes(longest: int, usual: "TrainConfig") -> list[str]:
    """Flags for rows that hold the longest conversation, about as many tokens in all; none where the usual ones do."""
    if longest <= usual.sequence_length:
        return []
    length = -(-longest // 64) * 64
    num_rows = max(1, usual.batch_size * usual.sequence_length // length)
    return ["--sequence-length", str(length), "--batch-size", str(num_rows)]


def run(args: argparse.Namespace) -> int:
    from vllm_mtp.common.provenance import command_line
    from vllm_mtp.training.cluster_options import ClusterOptions
    from vllm_mtp.training.config import TrainConfig
    from vllm_mtp.training.data.generate import generate
    from vllm_mtp.training.data.generate_config import GenerateConfig

    config = config_of(GenerateConfig, args)
    info = generate(
        config,
        target=args.target,
        prompts=args.prompts,
        self_prompt_starts=args.self_prompt_starts,
        output=args.output,
        cluster=config_of(ClusterOptions, args),
        argv=command_line(args.argv),
    )
    dropped = {name: count for name, count in info["dropped"].items() if count and name != "generated_tokens"}
    num_asked, num_cut = dropped.pop("asked"), dropped.pop("cut", 0)
    print(
        f"{args.output}: {info['num_conversations']:,} conversations of {num_asked:,} asked, "
        f"{info['num_tokens']:,} tokens"
    )
    if num_cut:
        print(f"Cut where they begin to loop: {num_cut:,} answers")
    if dropped:
        print("Dropped: " + ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in dropped.items()))
    num_tokens = max(_EPOCHS * info["num_tokens"], _LEAST_TOKENS)
    words = [args.target, "--data", str(args.output), "--tokens", str(num_tokens)]
    words += _row_sizes(info.get("longest", 0), TrainConfig())
    print(f"Train on them: vllm-mtp train {shlex.join(words)} --store STORE_DIR --output DRAFT_DIR")
    return 0
