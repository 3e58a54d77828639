#!/usr/bin/env bash
# What has yet to be shown on a GPU, the least known first. In an environment with vLLM for CUDA and this package (or where
# both can be imported), from a checkout:
#
#     bash scripts/on_gpu.sh [STEP ...]      # without arguments all steps below: about a quarter of an hour
#     FULL=1 LIMIT=3600 bash scripts/on_gpu.sh speed serving tune launches   # every k, baseline and load: hours
#
# SmolLM2-135M-Instruct and its shipped drafter, or a model of your own: MODEL, DRAFT and PROMPTS, DATA to train on (text
# that it wrote, runs/x/answers), and LIMIT=900 for one of 8B. A step that fails, or takes more than LIMIT seconds, leaves
# OUTPUT/STEP.log, and the next one runs. KEEP=FILE.tgz has all logs, tables and figures so far after every step, for a
# machine that does not last. Typed again, first, exact, speed, serving and tune measure what is missing; the others begin
# anew.
set -uo pipefail
cd "$(dirname "$0")/.."
OUTPUT=${OUTPUT:-runs/gpu} LIMIT=${LIMIT:-240} KEEP=${KEEP:-}
DATA=${DATA:-$(echo examples/smollm2/conversations/*.npz)}
MODEL=${MODEL:-runs/smollm2/target} DRAFT=${DRAFT:-examples/smollm2/draft} PROMPTS=${PROMPTS:-examples/smollm2/prompts.jsonl}
STEPS=(target first exact speed training train kernels serving tune projection launches report)
QUICK=1 && [ -n "${FULL:-}" ] && QUICK=

# Either the first words or, with FULL=1, those behind --.
sized() {
  local words=()
  for word in "$@"; do
    if [ "$word" = -- ]; then [ -n "$QUICK" ] && break; words=(); else words+=("$word"); fi
  done
  echo "${words[@]}"
}

acceptance() { vllm-mtp bench acceptance "$MODEL" --draft "$DRAFT" --prompts "$PROMPTS" "$@"; }

target() { [ "$MODEL" != runs/smollm2/target ] || python examples/smollm2/target.py --output "$MODEL"; }

# A drafter in CUDA graphs, on both model runners: the module alone, then with lookup, whose failure hides nothing.
first() {
  local failed=0
  for runner in 1 0; do
    for lookup in off drafter; do
      VLLM_USE_V2_MODEL_RUNNER=$runner acceptance --dtype bfloat16 --temperature 0 --spec-tokens 3 --lookup $lookup \
        --limit-per-task 2 --max-tokens 64 --output "$OUTPUT/first-v$((runner + 1))" || failed=1
    done
  done
  return $failed
}

# Greedy ids with a drafter are those without, on both model runners. Triton's attention multiplies float32 in TF32
# unless told otherwise, and with a drafter in other blocks. A vLLM without acceptance per request (before 0.27) has
# prompts with a drafter run one by one: so those without are.
exact() {
  local failed=0
  export TRITON_F32_DEFAULT=ieee TRITON_CACHE_DIR=$OUTPUT/triton-ieee
  for runner in 1 0; do
    for lookup in off drafter; do
      VLLM_USE_V2_MODEL_RUNNER=$runner acceptance --dtype float32 --enforce-eager --temperature 0 --max-num-seqs 1 \
        $(sized --spec-tokens 3 --limit-per-task 1 --max-tokens 64 -- --spec-tokens 1 3 5 --max-tokens 256) \
        --lookup $lookup --output "$OUTPUT/exact-v$((runner + 1))" || failed=1
    done
  done
  return $failed
}

# Engines with K by batch size. Where the V2 runner cannot capture them (vLLM 0.26), V1 runs them: without full graphs, so
# that they are slower beside one without speculation than they are served.
by_batch_size() {
  local vllm
  vllm=$(python -c 'import importlib.util; print(importlib.util.find_spec("vllm").submodule_search_locations[0])')
  [ -d "$vllm/v1/worker/gpu/spec_decode/target_dependent_ar" ] || local -x VLLM_USE_V2_MODEL_RUNNER=0
  "$@"
}

# Acceptance and speed, with FULL=1 sampled too, beside what costs nothing, and K by batch size.
speed() {
  local failed=0
  for lookup in off drafter; do
    acceptance --dtype bfloat16 --local-argmax --lookup $lookup --output "$OUTPUT/speed" \
      $(sized --spec-tokens 3 --temperature 0 --max-tokens 96 --speed-prompts-per-task 6 --speed-batch 1 32 -- \
        --spec-tokens 1 3 5 --baselines ngram suffix ngram-gpu --speed-prompts-per-task 10 --speed-batch 1 8 32 --speed-pairs 2) ||
      failed=1
  done
  [ -n "$QUICK" ] || by_batch_size acceptance --dtype bfloat16 --local-argmax --spec-tokens 5 \
    --schedule 1:8:5 9:64:1 --speed-prompts-per-task 10 --speed-batch 1 8 32 --output "$OUTPUT/schedule" || failed=1
  return $failed
}

# A step of training by its parts: the goal on an H200 is 0.05 s at K = 1 and 0.1 s at K = 3.
training() {
  vllm-mtp bench training "$MODEL" --device cuda --batch-size 32 --num-steps-unrolled 1 3 --compile on \
    --output "$OUTPUT/training"
}

# Training as it is typed, on the text that is here: how many positions a second, of the last steps in its progress bar and
# log. Twelve graphs would take longer to compile than the short run's steps.
train() {
  vllm-mtp train "$MODEL" --data $DATA --device cuda --batch-size 32 \
    $(sized --tokens 2000000 --compile off -- --tokens 20000000 --compile on) --output "$OUTPUT/draft"
}

# Triton's kernels and the attention of training against their plain twins.
kernels() { python -m pytest -q -rs tests/kernels/gpu tests/training/loss/test_chain_attention.py \
  tests/training/test_transfer.py; }

# Latency and throughput of a server at 1 to 64 requests at once.
serving() {
  vllm-mtp bench serving "$MODEL" --draft "$DRAFT" --prompts "$PROMPTS" --dtype bfloat16 --output "$OUTPUT/serving" \
    $(sized --spec-tokens 3 --repeats 1 --concurrency 1 32 --max-tokens 64 -- \
      --spec-tokens 1 3 5 --baselines ngram suffix ngram-gpu --concurrency 1 8 32 64)
}

# The configuration that tune chooses, and its prediction against a run.
tune() {
  by_batch_size vllm-mtp tune "$MODEL" "$DRAFT" --prompts "$PROMPTS" --dtype bfloat16 --output "$OUTPUT/tune" \
    $(sized --batch-size 1 8 --spec-tokens 1 3 --turns 2 --most-turns 2 --max-minutes 3 -- --max-minutes 30)
}

# Decides how a compiled draft model projects (docs/design.md): the lower latency. The prompts are random, so what is
# accepted is made up, the same for both.
projection() {
  local failed=0 made_up='"rejection_sample_method": "synthetic", "synthetic_acceptance_length": 2.0'
  for choice in layers kernel; do
    vllm bench latency --model "$MODEL" --batch-size 1 --input-len 128 --output-len 256 --num-iters 10 \
      --additional-config "{\"mtp_projection\": \"$choice\"}" --output-json "$OUTPUT/projection-$choice.json" \
      --speculative-config "{\"method\": \"mtp\", \"model\": \"$DRAFT\", \"num_speculative_tokens\": 3, $made_up}" ||
      failed=1
  done
  return $failed
}

# The kernels beside eager, torch.compile and the floor, and the fastest launches on this GPU.
launches() {
  vllm-mtp bench kernels --quick $(sized --seconds 0.05 --) --output "$OUTPUT/kernels" || local failed=1
  vllm-mtp bench tune-kernels $(sized --size quick --seconds 0.05 --) --output "$OUTPUT/launches" || local failed=1
  return ${failed:-0}
}

# All of it on one page.
report() { vllm-mtp report $(ls "$OUTPUT"/{speed,serving,tune}/results.json) --output "$OUTPUT/report.html"; }

# Where packages can be imported alone, there are no commands; nor is FlashInfer, whose sampler vLLM would take.
mkdir -p "$OUTPUT/bin"
bin=$(cd "$OUTPUT/bin" && pwd)
PATH="$bin:$PATH"
stand_in() {
  type "$1" > /dev/null 2>&1 && return
  printf '#!/bin/sh\nexec %s "$@"\n' "$2" > "$bin/$1"
  chmod +x "$bin/$1"
}
stand_in python python3
stand_in vllm-mtp "python -m vllm_mtp.cli"
stand_in vllm "python -m vllm.entrypoints.cli.main"
export VLLM_USE_FLASHINFER_SAMPLER=${VLLM_USE_FLASHINFER_SAMPLER:-0} VLLM_NO_USAGE_STATS=1 VLLM_PLUGINS=vllm_mtp

[ $# -gt 0 ] && STEPS=("$@")
export -f sized acceptance by_batch_size "${STEPS[@]}"
export MODEL DRAFT PROMPTS DATA OUTPUT QUICK
for step in "${STEPS[@]}"; do
  SECONDS=0
  timeout --kill-after 60 "$LIMIT" bash -c "set -e; $step" > "$OUTPUT/$step.log" 2>&1
  status=$?
  echo "$step: status $status after $SECONDS s; $(tail -n 1 "$OUTPUT/$step.log" | cut -c1-120)"
  [ $status = 0 ] || tail -n 30 "$OUTPUT/$step.log" | sed 's/^/  /'
  [ -z "$KEEP" ] || tar -czf "$KEEP" --exclude '*.safetensors' --exclude triton-ieee --exclude bin "$OUTPUT"
done
