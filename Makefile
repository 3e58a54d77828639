# Every target is enough alone: each creates .venv where it is missing. Nothing needs the environment activated.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
READY_EXAMPLES := .venv/.ready-examples

.PHONY: setup demo demo-smollm2 test check lint

setup:
	$(PYTHON) scripts/setup_env.py
	@touch $(READY)

# Anew when what it was made from has changed.
$(READY): pyproject.toml scripts/setup_env.py
	$(PYTHON) scripts/setup_env.py
	@touch $@

# Train a drafter for the shipped target, serve both with vLLM, print the table.
demo: $(READY)
	$(BIN)/python -m vllm_mtp.benchmarks.demo.stdlib

# The shipped drafter for a real LLM, beside n-gram and suffix drafting; downloads the LLM once, 93 MB.
demo-smollm2: $(READY_EXAMPLES)
	$(BIN)/python -m vllm_mtp.benchmarks.demo.smollm2

$(READY_EXAMPLES): $(READY)
	$(PYTHON) scripts/setup_env.py --examples
	@touch $@

# Two processes: a test file uses one core.
test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile

# What every commit passes: lint, format, types, fast tests.
check: lint
	$(BIN)/python -m pytest -m "not vllm and not slow"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
