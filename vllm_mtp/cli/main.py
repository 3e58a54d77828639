"""The `vllm-mtp` command: `train` a drafter, set its `lookup`, `eval` it in plain PyTorch, `bench` it in vLLM."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; a bad input is one line on standard error and exit status 2."""
    parser = argparse.ArgumentParser(prog="vllm-mtp", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_train(commands.add_parser("train", help="distil a drafter from a frozen target"))
    _add_vocab(commands.add_parser("vocab", help="choose the tokens that a drafter may draft"))
    _add_generate(commands.add_parser("generate", help="let the target write its own training data"))
    _add_lookup(commands.add_parser("lookup", help="let a drafter copy where the text repeats itself, or no longer"))
    _add_eval(commands.add_parser("eval", help="measure a drafter exactly, without vLLM"))
    _add_bench(commands.add_parser("bench", help="measure a drafter in vLLM"))
    args = parser.parse_args(argv)
    args.argv = argv
    try:
        return int(args.run(args))
    except (ValueError, OSError) as error:
        print(f"vllm-mtp {args.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"vllm-mtp {args.command}: interrupted; the same command goes on", file=sys.stderr)
        return 130


def _add_fields(parser: argparse.ArgumentParser, config: Any, choices: Mapping[str, Sequence[str]] = {}) -> None:
    """A flag for every field of a config class, with its default and, where the field has one, its "help"."""
    for field in fields(config):
        flag, default, text = f"--{field.name.replace('_', '-')}", field.default, field.metadata.get("help")
        if isinstance(default, bool):
            parser.add_argument(flag, action="store_true", help=text)
            continue
        values = default if isinstance(default, tuple) else (default,)
        shown = f"default {' '.join(str(value) for value in values)}"
        parser.add_argument(
            flag,
            type=type(values[0]),
            nargs="+" if isinstance(default, tuple) else None,
            default=default,
            choices=choices.get(field.name),
            help=f"{text}; {shown}" if text else shown,
        )


def _config_of(config: Any, args: argparse.Namespace) -> Any:
    """The config of that class that the flags say."""
    values = {field.name: getattr(args, field.name) for field in fields(config)}
    return config(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def _add_train(parser: argparse.ArgumentParser) -> None:
    from vllm_mtp.training.config import DTYPES, OBJECTIVES, OPTIMIZERS, TrainConfig

    parser.add_argument("--target", required=True, help="folder or Hub id of a causal LM")
    parser.add_argument(
        "--data", required=True, nargs="+", type=Path, help='text, JSONL with "text", folders of `vllm-mtp generate`'
    )
    parser.add_argument("--output", required=True, type=Path, help="folder of the drafter")
    parser.add_argument("--draft-vocab", type=Path, help="file of `vllm-mtp vocab`; default: the whole vocabulary")
    parser.add_argument("--initial", type=Path, help="folder of a drafter to go on from")
    parser.add_argument("--store", type=Path, help="folder that keeps the target's hidden states on disk")
    parser.add_argument("--target-name", default="", help="for the model card; default: Hub id, or the folder's name")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    choices = {"objective": OBJECTIVES, "optimizer": OPTIMIZERS, "dtype": DTYPES}
    _add_fields(parser, TrainConfig, choices)
    parser.set_defaults(run=_train)


def _train(args: argparse.Namespace) -> int:
    from vllm_mtp.provenance import command_line
    from vllm_mtp.training.config import TrainConfig
    from vllm_mtp.training.loop import train

    info = train(
        _config_of(TrainConfig, args),
        target=args.target,
        data=args.data,
        output=args.output,
        draft_vocab=args.draft_vocab,
        initial=args.initial,
        store=args.store,
        target_name=args.target_name,
        device=args.device,
        argv=command_line(args.argv),
    )
    agreement = ", ".join(f"{value:.3f}" for value in info["held_out"]["agreement_per_position"])
    print(f"{args.output}: {info['tokens_seen']:,} tokens in {info['dtype']}; held-out agreement {agreement}")
    print(f"Serve it: vllm serve {args.target} --spec-method mtp --spec-model {args.output} --spec-tokens 3")
    return 0


def _add_vocab(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", required=True, help="folder or Hub id of the target: its tokenizer")
    parser.add_argument("--data", required=True, nargs="+", type=Path, help="what `vllm-mtp train --data` takes")
    parser.add_argument("--size", type=int, required=True, help="tokens of the draft vocabulary")
    parser.add_argument("--output", required=True, type=Path, help="JSON file for `vllm-mtp train --draft-vocab`")
    parser.add_argument("--max-tokens", type=int, default=20_000_000, help="counts no more; default 20,000,000")
    parser.set_defaults(run=_vocab)


def _vocab(args: argparse.Namespace) -> int:
    from vllm_mtp.training.data.draft_vocab import make_draft_vocab

    return make_draft_vocab(
        target=args.target, data=args.data, size=args.size, output=args.output, max_tokens=args.max_tokens
    )


def _add_generate(parser: argparse.ArgumentParser) -> None:
    from vllm_mtp.training.data.generate import GenerateConfig

    parser.add_argument("--target", required=True, help="folder or Hub id of a causal LM")
    parser.add_argument(
        "--prompts", nargs="+", type=Path, default=[], help='text, or JSONL with "prompt", "messages" or "turns"'
    )
    parser.add_argument(
        "--self-prompt-starts", nargs="+", type=Path, default=[], metavar="FILE",
        help="starts of user turns that the self-prompts go on with, in files like those of --prompts",
    )  # fmt: skip
    parser.add_argument("--output", required=True, type=Path, help="folder for the conversations")
    _add_fields(parser, GenerateConfig)
    parser.set_defaults(run=_generate)


def _generate(args: argparse.Namespace) -> int:
    from vllm_mtp.provenance import command_line
    from vllm_mtp.training.data.generate import GenerateConfig, generate

    config = _config_of(GenerateConfig, args)
    info = generate(
        config,
        target=args.target,
        prompts=args.prompts,
        self_prompt_starts=args.self_prompt_starts,
        output=args.output,
        argv=command_line(args.argv),
    )
    dropped = {name: count for name, count in info["dropped"].items() if count and name != "generated_tokens"}
    num_asked = dropped.pop("asked")
    print(
        f"{args.output}: {info['num_conversations']:,} conversations of {num_asked:,} asked, "
        f"{info['num_tokens']:,} tokens"
    )
    if dropped:
        print("Dropped: " + ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in dropped.items()))
    print(f"Train on them: vllm-mtp train --target {args.target} --data {args.output} --output DRAFT_DIR")
    return 0


def _add_lookup(parser: argparse.ArgumentParser) -> None:
    from vllm_mtp.contract.lookup import Lookup

    parser.add_argument(
        "draft", type=Path, metavar="DRAFT_DIR", help="folder of the drafter; its config.json is changed"
    )
    parser.add_argument("--off", action="store_true", help="the module drafts every token")
    for field in fields(Lookup):
        flag, text = f"--{field.name.replace('_', '-')}", field.metadata["help"]
        parser.add_argument(flag, type=int, help=f"{text}; default: as it is, else {field.default}")
    parser.set_defaults(run=_lookup)


def _lookup(args: argparse.Namespace) -> int:
    from vllm_mtp.contract.checkpoint import read_config, write_lookup
    from vllm_mtp.contract.lookup import Lookup, lookup_faults

    given = {f.name: getattr(args, f.name) for f in fields(Lookup) if getattr(args, f.name) is not None}
    if args.off and given:
        raise ValueError(f"--off: expected no other setting beside it, got {', '.join(given)}")
    stored = read_config(args.draft).get("lookup") or {}
    kept = {} if lookup_faults(stored) else stored
    lookup = None if args.off else Lookup.of(kept | given)
    write_lookup(args.draft, lookup)
    print(f"{args.draft}: lookup {'off' if lookup is None else lookup.fields()}")
    return 0


def _add_eval(parser: argparse.ArgumentParser) -> None:
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
    parser.set_defaults(run=_eval)


def _eval(args: argparse.Namespace) -> int:
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


def _add_bench(parser: argparse.ArgumentParser) -> None:
    what = parser.add_subparsers(dest="what", required=True)
    _add_bench_acceptance(what.add_parser("acceptance", help="acceptance and speed by task, beside rivals"))
    _add_bench_kernels(what.add_parser("kernels", help="time and memory of the kernels, beside others and the floor"))
    _add_bench_claims(what.add_parser("claims", help="train and compare what the paper compares, on several seeds"))


def _add_bench_kernels(parser: argparse.ArgumentParser) -> None:
    from vllm_mtp.benchmarks.kernels.config import DEVICES, KERNELS, SIZES, KernelsConfig

    parser.add_argument(
        "--output", required=True, type=Path, help="folder for kernels.json, table.md and kernels.png, or tune.*"
    )
    _add_fields(parser, KernelsConfig, {"size": SIZES, "device": DEVICES, "kernels": KERNELS})
    parser.add_argument("--quick", dest="size", action="store_const", const="quick", help="the same as --size quick")
    parser.set_defaults(run=_bench_kernels)


def _bench_kernels(args: argparse.Namespace) -> int:
    from vllm_mtp.benchmarks.kernels.bench import bench
    from vllm_mtp.benchmarks.kernels.config import KernelsConfig
    from vllm_mtp.benchmarks.kernels.tune import tune
    from vllm_mtp.provenance import command_line, relative

    config, command = _config_of(KernelsConfig, args), " ".join(relative(word) for word in command_line(args.argv))
    return (tune if config.tune else bench)(config, output=args.output, command=command)


def _add_bench_acceptance(parser: argparse.ArgumentParser) -> None:
    from vllm_mtp.benchmarks.acceptance.config import AcceptanceConfig

    parser.add_argument("--target", required=True, help="folder or Hub id of the drafter's target")
    parser.add_argument("--draft", required=True, type=Path, help="folder of the drafter")
    parser.add_argument(
        "--prompts", required=True, type=Path, help='text, or JSONL with "prompt", "messages" or "turns" (Spec-Bench)'
    )
    parser.add_argument("--output", required=True, type=Path, help="folder; rows that are in it are not measured again")
    _add_fields(parser, AcceptanceConfig)
    parser.set_defaults(run=_bench_acceptance)


def _bench_acceptance(args: argparse.Namespace) -> int:
    from vllm_mtp.benchmarks.acceptance.bench import bench
    from vllm_mtp.benchmarks.acceptance.config import AcceptanceConfig
    from vllm_mtp.provenance import command_line, relative

    config = _config_of(AcceptanceConfig, args)
    argv = [relative(word) for word in command_line(args.argv)]
    return bench(config, target=args.target, draft=args.draft, prompts=args.prompts, output=args.output, argv=argv)


def _add_bench_claims(parser: argparse.ArgumentParser) -> None:
    from vllm_mtp.benchmarks.claims.config import CLAIMS, ENGINES, ClaimsConfig
    from vllm_mtp.training.config import DTYPES

    parser.add_argument("--target", default="examples/stdlib/target", help="folder or Hub id; default: the shipped one")
    parser.add_argument("--output", required=True, type=Path, help="folder; arms that are in it are not trained again")
    parser.add_argument(
        "--generated", nargs="+", type=Path, default=[], help="the target's own text, of `vllm-mtp generate`"
    )
    parser.add_argument(
        "--general", nargs="+", type=Path, default=[], help="general text; default: documentation of Debian packages"
    )
    parser.add_argument("--prompts", type=Path, help="held-out prompts to measure on")
    parser.add_argument("--draft-vocab", type=Path, help="every arm drafts from it but that of the full vocabulary")
    _add_fields(parser, ClaimsConfig, {"claims": CLAIMS, "engine": ENGINES, "dtype": DTYPES})
    parser.set_defaults(run=_bench_claims)


def _bench_claims(args: argparse.Namespace) -> int:
    from vllm_mtp.benchmarks.claims.config import ClaimsConfig
    from vllm_mtp.benchmarks.claims.data import Sources
    from vllm_mtp.benchmarks.claims.study import bench
    from vllm_mtp.provenance import command_line, relative

    sources = Sources(
        generated=tuple(args.generated),
        general=tuple(args.general),
        prompts=args.prompts,
        draft_vocab=args.draft_vocab,
    )
    argv = [relative(word) for word in command_line(args.argv)]
    return bench(_config_of(ClaimsConfig, args), sources, target=args.target, output=args.output, argv=argv)


if __name__ == "__main__":
    raise SystemExit(main())
