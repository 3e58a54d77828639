"""The `vllm.general_plugins` entry point: tells vLLM and transformers that MTP drafters exist.

vLLM calls `register` in every process that it starts (API server, engine core, workers), before it reads any config.
The draft class is registered by name, so that nothing of it, torch included, is imported here.
"""


def register() -> None:
    """Registers the config class under `model_type: "mtp"` and the draft class under its architecture name."""
    from transformers import AutoConfig
    from vllm import ModelRegistry

    from vllm_mtp.contract.config import ARCHITECTURE, MTPConfig

    AutoConfig.register(MTPConfig.model_type, MTPConfig, exist_ok=True)
    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, f"vllm_mtp.serving.draft_model:{ARCHITECTURE}")
