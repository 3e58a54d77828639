"""`vllm-mtp train`: flags become the config. Catches a default that the command line and the class say differently."""

from vllm_mtp.cli import make_parser
from vllm_mtp.common.flags import config_of
from vllm_mtp.training.config import TrainConfig

COMMAND = ["train", "t", "--data", "x", "--output", "o"]


def test_without_flags_it_is_the_default() -> None:
    assert config_of(TrainConfig, make_parser().parse_args(COMMAND)) == TrainConfig()


def test_0_still_stands_for_automatic() -> None:
    """Commands that were written down when it did."""
    words = ["--data-tokens", "0", "--learning-rate", "0", "--intermediate-size", "0", "--num-attention-heads", "0"]
    args = make_parser().parse_args([*COMMAND, *words, "--num-key-value-heads", "0"])
    assert config_of(TrainConfig, args) == TrainConfig()
