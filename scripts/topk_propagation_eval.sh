#!/usr/bin/env bash
# Evaluates softmax exits with top-k token propagation, one setting: layers after the first exit see the TOP_K
# likeliest tokens of that one only. THRESHOLD is λ; MIN_LAYER the first layer to leave after.
set -euo pipefail
source "$(dirname "$0")/settings.sh"

MODEL=${MODEL:-$TRAINED_MODEL}
OUTPUT_DIR=${OUTPUT_DIR:-save/topk_propagation}
THRESHOLD=${THRESHOLD:-0.9}
TOP_K=${TOP_K:-100}
MIN_LAYER=${MIN_LAYER:-1}

"$PYTHON" "run_$TASK.py" \
  --model_name_or_path "$MODEL" "${DATA_FLAGS[@]}" "${EVAL_FLAGS[@]}" \
  --output_dir "$OUTPUT_DIR" \
  --use_early_exit True --exit_conf_type softmax --exit_conf_threshold "$THRESHOLD" \
  --exit_min_layer "$MIN_LAYER" --top_propagation "$TOP_K" \
  "$@"
