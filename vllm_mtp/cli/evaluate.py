"""`vllm-mtp eval`: measure a drafter exactly, without vLLM."""

import argparse
from pathlib import Path


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", required=True, help="folder or Hub id of the drafter's target")
    parser.add_argument("--draft", required=True, type=Path, help="folder of the drafter")
    parser.add_argument(
        "--prompts", required=True, type=Path, help='text with prompts between lines "-----", or JSONL as for generate'
    )
    parser.add_argument("--engine", choices=("torch",), default="torch", help="plain PyTorch, batch 1, exact")
    parser.add_argument("--num-speculative-tokens", type=int, nargs="+", default=[1, 2, 3, 4, 5], metavar="K")
    parser.add_argument("--temperature", type=float, nargs="+", default=[0.0, 1.0])
    parser.add_argument("--max-tokens", type=int, default=96, help="generated per prompt; default 96")
    parser.add_argument(
        "--max-prompt-tokens",
        type=int,
        default=512,
        help="longer prompts lose their beginning, in a chat template they are left out; default 512",
    )
    parser.add_argument(
        "--no-chat-template",
        action="store_true",
        help="prompts are plain text also to a target that has a chat template",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from vllm_mtp.benchmarks.simulation.simulate import SimulationConfig, simulate

    config = SimulationConfig(
        num_speculative_tokens=tuple(args.num_speculative_tokens),
        temperatures=tuple(args.temperature),
        max_tokens=args.max_tokens,
        max_prompt_tokens=args.max_prompt_tokens,
        no_chat_template=args.no_chat_template,
        seed=args.seed,
    )
    return simulate(config, target=args.target, draft=args.draft, prompts=args.prompts, output=args.output)
