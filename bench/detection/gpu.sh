#!/usr/bin/env bash
# The benchmark on a GPU host that has torch and transformers, but no environment of ours.
#
#   bench/detection/gpu.sh GGUF SITE WORK OUT COMMIT [options of run.py]
#
# GGUF: the demo model's file (fixtures/models). SITE: folder with vLLM and gguf for python3, or "none" for no vLLM.
# The package's own dependencies must be importable (PYTHONPATH).
set -euo pipefail
gguf=$1 site=$2 work=$3 out=$4 commit=$5; shift 5
root=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$work" "$out"
export HF_HUB_OFFLINE=1
if [ ! -e "$work/demo/config.json" ]; then
  PYTHONPATH="${site#none}" python3 "$root/pytest_llmparity/workers/make_demo_model.py" "$gguf" "$work/demo"
fi
vllm=()
if [ "$site" != none ]; then
  printf '#!/bin/sh\nPYTHONPATH="%s" exec python3 "$@"\n' "$site" > "$work/vllm-python"
  chmod +x "$work/vllm-python"
  vllm=(--vllm "$work/vllm-python")
fi
PYTHONPATH="$root:${PYTHONPATH:-}" python3 "$root/bench/detection/run.py" --engine-python python3 --model "$work/demo" \
  --work "$work" --out "$out" --margins-frozen-at "$commit" "${vllm[@]}" "$@"
