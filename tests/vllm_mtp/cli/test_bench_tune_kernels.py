"""`vllm-mtp bench tune-kernels`. Catches a command that measures what `bench kernels` does."""

from vllm_mtp.cli import bench_tune_kernels, make_parser


def test_it_tunes() -> None:
    args = make_parser().parse_args(["bench", "tune-kernels", "--output", "o", "--kernels", "draft_head"])
    assert args.run == bench_tune_kernels.run
    assert args.kernels == ["draft_head"]
