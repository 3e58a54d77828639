"""Train multi-token-prediction (MTP) drafters for frozen LLMs and serve them with vLLM.

Importing this package imports neither torch nor vllm: vLLM loads it as a plugin in every process that it starts.
"""

__version__ = "0.1.0"
