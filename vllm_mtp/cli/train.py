"""`vllm-mtp train`: distil a drafter from a frozen target."""

import argparse
import os
from pathlib import Path

from vllm_mtp.cli.target import add_target, serve_line
from vllm_mtp.common.flags import add_fields, add_hidden, config_of


def add(parser: argparse.ArgumentParser) -> None:
    from vllm_mtp.common.engine_options import EngineOptions
    from vllm_mtp.training.cluster_options import ClusterOptions
    from vllm_mtp.training.config import COMPILE, TrainConfig
    from vllm_mtp.training.data.chat.options import TemplateOptions
    from vllm_mtp.training.watch import REPORTS

    add_target(parser, "Folder or Hub id of a causal LM.")
    parser.add_argument(
        "--data", required=True, nargs="+", type=Path, metavar="DATA",
        help="Folders of `vllm-mtp generate`; text; conversations or documents in JSON, JSONL, Parquet, folders of "
        "these, or hf://OWNER/NAME[:[CONFIG:]SPLIT] of the Hub.",
    )  # fmt: skip
    parser.add_argument("--skip-bad", action="store_true", help="Leave out and count records that cannot be used.")
    parser.add_argument("--output", required=True, type=Path, help="Folder of the drafter.")
    parser.add_argument("--draft-vocab", type=Path, help="File of `vllm-mtp vocab` (default: the whole vocabulary)")
    parser.add_argument("--initial", type=Path, help="Folder of a drafter to go on from (default: see --module-init)")
    parser.add_argument(
        "--store", type=Path,
        help="Folder that keeps the target's hidden states on disk (default: in memory where 4 GiB hold them, else the "
        "target runs in every epoch)",
    )  # fmt: skip
    parser.add_argument(
        "--target-name", default="", help="The target's name on the model card (default: Hub id, or the folder's name)"
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto takes a GPU where there is one."
    )
    parser.add_argument(
        "--accumulate", type=int, default=1,
        help="Parts that each step's batch is computed in, one after another, where memory is short (default: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--recompute", action="store_true",
        help="Compute each draft step again for its gradient rather than keep it: less memory, more work",
    )  # fmt: skip
    parser.add_argument(
        "--compile", choices=COMPILE, default="auto",
        help="Pad batches to a handful of shapes and compile the step at each: on, off, or auto, which does so on a "
        "GPU, and compiles where the run is long enough for it",
    )  # fmt: skip
    parser.add_argument(
        "--report-to", nargs="+", choices=REPORTS,
        help="What shows the run while it runs (default: jsonl in DRAFT_DIR/log, and tensorboard if it is installed)",
    )  # fmt: skip
    add_fields(parser, TrainConfig)
    add_fields(
        parser.add_argument_group("The target's files, and vLLM's engine of --hidden-states vllm"), EngineOptions
    )
    add_fields(parser.add_argument_group("Conversations that exist"), TemplateOptions)
    add_fields(parser.add_argument_group("A Ray cluster that fills the store"), ClusterOptions)
    add_hidden(parser, "answers_only", dest="loss_on", action="store_const", const="answers", default=argparse.SUPPRESS)
    parser.set_defaults(run=run, goes_on=True)


def run(args: argparse.Namespace) -> int:
    from vllm_mtp.common.engine_options import EngineOptions
    from vllm_mtp.common.provenance import command_line
    from vllm_mtp.training.cluster_options import ClusterOptions
    from vllm_mtp.training.config import NUM_SPECULATIVE_TOKENS, TrainConfig
    from vllm_mtp.training.data.chat.options import TemplateOptions
    from vllm_mtp.training.loop import train
    from vllm_mtp.training.record import HeldOut
    from vllm_mtp.training.run import TrainInputs

    inputs = TrainInputs(
        target=args.target,
        data=args.data,
        output=args.output,
        draft_vocab=args.draft_vocab,
        initial=args.initial,
        store=args.store,
        target_name=args.target_name,
        device=args.device,
        template=config_of(TemplateOptions, args),
        skip_bad=args.skip_bad,
        accumulate=args.accumulate,
        recompute=args.recompute,
        compile=args.compile,
        report_to=None if args.report_to is None else tuple(args.report_to),
        engine_options=config_of(EngineOptions, args),
        cluster=config_of(ClusterOptions, args),
        argv=command_line(args.argv),
    )
    info = train(config_of(TrainConfig, args), inputs)
    if os.environ.get("RANK", "0") != "0":
        return 0
    agreement = ", ".join(f"{value:.3f}" for value in info["held_out"]["agreement_per_position"])
    print(f"{args.output}: {info['tokens_seen']:,} tokens counted in the loss, in {info['dtype']}")
    print(f"Held-out agreement: {agreement}")
    print(f"Held-out acceptance length at k = {NUM_SPECULATIVE_TOKENS}: {HeldOut(**info['held_out']).length_text}")
    print(f"Serve it: {serve_line(args.target, args.output)}")
    return 0
