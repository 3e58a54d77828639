"""Does this drafter belong to the target it is served with? Compared when vLLM builds the draft model."""

import logging
from typing import Any

from vllm.distributed.parallel_state import is_global_first_rank

from vllm_mtp.contract.config import MTPConfig
from vllm_mtp.contract.pair import OTHER_WEIGHTS, beyond_training, has_the_weights, why_another_target

logger = logging.getLogger(__name__)


def check_target(config: MTPConfig, target: Any, download_dir: str | None = None) -> None:
    """Compares a drafter's config with vLLM's `ModelConfig` of the target.

    Other weights alone (a fine-tuned or quantized target), and longer contexts than the drafter was trained on, are one
    warning each, on the first rank. `download_dir` is where vLLM has put the weights of a Hub id; None: the Hub's
    cache.

    Raises:
        ValueError: for another hidden size, vocabulary size or tokenizer.
    """
    fingerprint = config.target_fingerprint or {}
    compares_tokens = fingerprint.get("tokenizer_sha256") and not target.skip_tokenizer_init
    fault = why_another_target(
        config,
        target=target.model,
        hidden_size=target.get_hidden_size(),
        vocab_size=target.get_vocab_size(),
        vocabulary=_vocabulary(target) if compares_tokens else None,
    )
    if fault:
        raise ValueError(fault)
    if not is_global_first_rank():
        return
    if text := beyond_training(config, target.max_model_len):
        logger.warning("%s", text)
    if has_the_weights(config, target.model, revision=target.revision, cache_dir=download_dir) is False:
        logger.warning(OTHER_WEIGHTS, fingerprint.get("name", "not named"))


def _vocabulary(target: Any) -> dict[str, int] | None:
    """None for a tokenizer that transformers cannot read, with a warning."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            target.tokenizer, revision=target.tokenizer_revision, trust_remote_code=target.trust_remote_code
        )
    except (OSError, ValueError, ImportError) as error:
        logger.warning("The target's tokenizer was not compared with the drafter's: %s", str(error).partition("\n")[0])
        return None
    return dict(tokenizer.get_vocab())
