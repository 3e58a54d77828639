#!/usr/bin/env bash
# What has yet to be shown on a GPU, in one go. In an environment with vLLM for CUDA and this package, from a checkout:
#
#     bash scripts/on_gpu.sh [STEP ...]      # without arguments all steps, in the order below; one page at the end
#
# SmolLM2-135M-Instruct and its shipped drafter, or a model of your own: MODEL, DRAFT and PROMPTS. A step that fails, or
# takes more than LIMIT seconds, leaves OUTPUT/STEP.log, and the next one runs. Typed again, exact, speed,
# serving and tune measure what is missing; the others begin anew.
set -uo pipefail
cd "$(dirname "$0")/.."
OUTPUT=${OUTPUT:-runs/gpu} LIMIT=${LIMIT:-3600}
MODEL=${MODEL:-runs/smollm2/target} DRAFT=${DRAFT:-examples/smollm2/draft} PROMPTS=${PROMPTS:-examples/smollm2/prompts.jsonl}
STEPS=(target kernels exact speed serving tune training projection launches report)

target() { [ "$MODEL" != runs/smollm2/target ] || python examples/smollm2/target.py --output "$MODEL"; }

# Triton's kernels and the attention of training against their plain twins.
kernels() { python -m pytest -q -rs tests/kernels/gpu tests/training/loss/test_chain_attention.py; }

# Greedy ids with a drafter are those without, on both model runners.
exact() {
  for runner in 1 0; do
    VLLM_USE_V2_MODEL_RUNNER=$runner vllm-mtp bench acceptance "$MODEL" --draft "$DRAFT" --prompts "$PROMPTS" --dtype float32 \
      --enforce-eager --temperature 0 --spec-tokens 1 3 5 --lookup drafter off --output "$OUTPUT/exact-v$((runner + 1))"
  done
}

# Acceptance and speed beside what costs nothing, greedy and sampled; K by batch size in one more row.
speed() {
  vllm-mtp bench acceptance "$MODEL" --draft "$DRAFT" --prompts "$PROMPTS" --dtype bfloat16 --spec-tokens 1 3 5 \
    --lookup drafter off --baselines ngram suffix --schedule 1:8:5 9:64:1 --local-argmax --speed-prompts-per-task 10 \
    --speed-batch 1 8 32 --speed-pairs 2 --output "$OUTPUT/speed"
}

# Latency and throughput of a server at 1 to 64 requests at once.
serving() {
  vllm-mtp bench serving "$MODEL" --draft "$DRAFT" --prompts "$PROMPTS" --dtype bfloat16 --spec-tokens 1 3 5 \
    --baselines ngram suffix --concurrency 1 8 32 64 --output "$OUTPUT/serving"
}

# The configuration that tune chooses, and its prediction against a run.
tune() { vllm-mtp tune "$MODEL" "$DRAFT" --prompts "$PROMPTS" --dtype bfloat16 --output "$OUTPUT/tune"; }

# A step of training by its parts: the goal on an H200 is 0.05 s at K = 1 and 0.1 s at K = 3.
training() {
  vllm-mtp bench training "$MODEL" --device cuda --batch-size 32 --num-steps-unrolled 1 3 --compile on \
    --output "$OUTPUT/training"
}

# Decides how a compiled draft model projects (docs/design.md): the lower latency.
projection() {
  for choice in layers kernel; do
    vllm bench latency --model "$MODEL" --batch-size 1 --input-len 128 --output-len 256 \
      --additional-config "{\"mtp_projection\": \"$choice\"}" --output-json "$OUTPUT/projection-$choice.json" \
      --speculative-config "{\"method\": \"mtp\", \"model\": \"$DRAFT\", \"num_speculative_tokens\": 3}"
  done
}

# The kernels beside eager, torch.compile and the floor, and the fastest launches on this GPU.
launches() {
  vllm-mtp bench kernels --quick --output "$OUTPUT/kernels"
  vllm-mtp bench tune-kernels --output "$OUTPUT/launches"
}

# All of it on one page.
report() { vllm-mtp report $(ls "$OUTPUT"/{speed,serving,tune}/results.json) --output "$OUTPUT/report.html"; }

mkdir -p "$OUTPUT"
[ $# -gt 0 ] && STEPS=("$@")
export -f "${STEPS[@]}"
export MODEL DRAFT PROMPTS OUTPUT
for step in "${STEPS[@]}"; do
  SECONDS=0
  timeout "$LIMIT" bash -c "set -e; $step" > "$OUTPUT/$step.log" 2>&1
  echo "$step: status $? after $SECONDS s; $(tail -n 1 "$OUTPUT/$step.log" | cut -c1-120)"
done
