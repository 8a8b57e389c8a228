#!/usr/bin/env bash
# Serve a small model with vLLM on this machine's CPU, for tests and try-outs. Needs setup_cpu.sh first.
#   integrations/vllm/serve_cpu.sh MODEL_FOLDER NAME [PORT] [further vLLM flags]
# Ready when http://127.0.0.1:PORT/health answers, after about 40 s; takes about 3.5 GiB. Stop it with Ctrl-C.
set -euo pipefail
model="$1" name="$2" port="${3:-8000}"
shift $(($# < 3 ? $# : 3))
root="$(cd "$(dirname "$0")/../.." && pwd)"
export VLLM_CPU_KVCACHE_SPACE="${VLLM_CPU_KVCACHE_SPACE:-1}"             # GiB
export VLLM_CPU_OMP_THREADS_BIND="${VLLM_CPU_OMP_THREADS_BIND:-nobind}"  # else it pins cores and keeps one free
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
export VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
exec "${VLLM_VENV:-$root/.venv-vllm}/bin/vllm" serve "$model" --served-model-name "$name" \
  --host 127.0.0.1 --port "$port" --dtype bfloat16 --enforce-eager --max-num-seqs 16 \
  --limit-mm-per-prompt '{"image": 1, "video": 0}' --generation-config vllm \
  --enable-prefix-caching --enable-prompt-tokens-details "$@"
